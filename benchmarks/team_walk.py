"""A team's own networks through all stages: two of timm are trained against attacks, and a small one learns from them.

`python benchmarks/team_walk.py FOLDER` draws pictures of three classes into FOLDER, writes a params.yaml there, runs
the stages one after the other without DVC, and prints what each took and what each model reached.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from components.foundation.arguments import Arguments
from components.foundation.recipes import changed
from components.stages import STAGES
from pipelines.parameters.presets import preset_values

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("bars", "dots", "rings")
FOLDER = {"name": "image_folder", "color": "rgb", "resize": "crop", "streamed": None}
LOSS = {"loss": "cross_entropy", "restarts": 1}
ADAMW = {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.05, "decay_norms": False}


def draw(folder: Path, count: int, side: int) -> None:
    """`count` pictures of `side` x `side` pixels, in a folder for each class."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    for number in range(count):
        name, (x, y) = CLASSES[number % len(CLASSES)], rng.uniform(0.3, 0.7, 2)
        distance = np.hypot(rows - x, columns - y)
        shape = {
            "bars": np.sin(40 * (columns - y)) > 0,
            "dots": (np.sin(40 * (columns - y)) > 0.3) & (np.sin(40 * (rows - x)) > 0.3),
            "rings": np.sin(60 * distance) > 0,
        }[name]
        colour = rng.uniform(0.5, 1, 3)
        pixels = np.clip(shape[:, :, None] * colour + rng.normal(0, 0.1, (side, side, 3)), 0, 1)
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / name / f"{number:03d}.png")


def recipe(images: Path, side: int, clean: str, robust: str, epochs: int, threads: int) -> dict[str, Any]:
    """The recipe: the clean and the robust teacher are networks of timm, the student is the small CNN."""
    attack = {"steps": 2, "step_size": "epsilon/2"}
    shared = {
        "recipe.epochs": epochs,
        "recipe.batch_size": 16,
        "recipe.average": None,
        "validation_attack": attack,
        "schedule": {"name": "linear", "warmup": 0.5},
    }
    further = {"recipe.optimizer": ADAMW, "recipe.learning_rate": 1e-3}
    attacks = {"fgsm": {"name": "fgsm"}, "pgd_sat": {"name": "pgd", **attack, "start": "uniform", **LOSS}}
    delta = {
        "compute": {"device": "auto", "threads": threads},
        "threat.epsilon": "4/255",
        "ntk": {"epochs": [], "size": 2},
        "fetch_data": {
            "dataset": {**FOLDER, "folder": str(images), "image_size": side},
            "files": str(images),
        },
        "normalize_data": {"validation": "1/5", "test": "1/4"},
        "train_clean_teacher": {**shared, **further, "model": {"name": "timm", "architecture": clean}},
        "train_robust_teacher": {
            **shared,
            **further,
            "model": {"name": "timm", "architecture": robust},
            "method.attack": attack,
            "recipe.micro_batch": 8,
        },
        "distill_student": {**shared, "required": None, "method.attack": attack, "recipe.learning_rate": 0.05},
        "evaluate_attacks": {
            "batch_size": "auto",
            "attacks": {"only": attacks},
            "cascade": "none",
            "curve_epsilons": [0, "epsilon"],
            "grid": {"epsilons": ["epsilon"], "attacks": {"only": {"fgsm": {"name": "fgsm"}}}},
            "probe_images": 5,
            "gallery_images": 2,
        },
        "report.gallery_images": 2,
    }
    return changed(preset_values(ROOT, "digits"), delta, "walk")


def walk(folder: Path, values: Mapping[str, Any]) -> dict[str, float]:
    """Runs all stages in `folder`; the seconds that each took. Error: a stage that fails."""
    (folder / "params.yaml").write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TEMPER_TRACKING": "later"}
    seconds: dict[str, float] = {}
    for stage in STAGES:
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", f"components.stages.{stage}"], cwd=folder, env=environment, check=True)
        seconds[stage] = round(time.monotonic() - began, 1)
    return seconds


def numbers(folder: Path) -> dict[str, dict[str, float]]:
    """What each model reached on the test images: without an attack, under each, in the worst case."""
    models = json.loads((folder / "reports/robustness.json").read_text(encoding="utf-8"))["models"]
    return {
        name: {attack: found["value"] for attack, found in {"clean": model["clean"], **model["attacks"]}.items()}
        | {"worst case": model["worst_case"]["value"]}
        for name, model in models.items()
    }


def main() -> None:
    options = Arguments(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--count", type=int, default=60)
    options.add_argument("--side", type=int, default=96)
    options.add_argument("--clean", default="convnext_atto")
    options.add_argument("--robust", default="vit_tiny_patch16_224")
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--threads", type=int, default=1)
    told = options.parse_args()
    images = told.folder.resolve() / "images"
    draw(images, told.count, told.side)
    seconds = walk(told.folder, recipe(images, told.side, told.clean, told.robust, told.epochs, told.threads))
    print(json.dumps({"seconds": seconds, "models": numbers(told.folder)}, indent=1))


if __name__ == "__main__":
    main()
