"""A team's own networks through all stages: two of timm are trained against attacks, and a small one learns from them.

`python benchmarks/team_walk.py FOLDER` draws pictures of four classes into FOLDER, writes a params.yaml there, runs
the stages one after the other without DVC, and prints what each took, memory too, and what each model reached.
`--images DIR --side 224` takes the pictures in DIR/CLASS, and `--micro-batch 0` sends each batch through whole.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import yaml  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.attack_clock import machine  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.recipes import changed  # noqa: E402
from components.foundation.storage import write_json  # noqa: E402
from components.stages import STAGES  # noqa: E402
from pipelines.parameters.presets import preset_values  # noqa: E402

# Four, since the targeted attacks of a cascade need so many.
CLASSES = ("bars", "checks", "dots", "rings")
FOLDER = {"name": "image_folder", "color": "rgb", "resize": "crop", "streamed": None}
SMALL = {"name": "small_cnn", "width": 1, "batch_norm": {"estimator": "running", "momentum": 0.1}}
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
            "checks": np.sin(40 * (columns - y)) * np.sin(40 * (rows - x)) > 0,
            "dots": (np.sin(40 * (columns - y)) > 0.3) & (np.sin(40 * (rows - x)) > 0.3),
            "rings": np.sin(60 * distance) > 0,
        }[name]
        colour = rng.uniform(0.5, 1, 3)
        pixels = np.clip(shape[:, :, None] * colour + rng.normal(0, 0.1, (side, side, 3)), 0, 1)
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / name / f"{number:03d}.png")


class Networks(NamedTuple):
    """A member of `model` for each role."""

    clean: dict[str, Any]
    robust: dict[str, Any]
    student: dict[str, Any]


class Effort(NamedTuple):
    """How large images and batches are, and for how long each network is trained."""

    side: int
    epochs: int
    batch_size: int
    micro_batch: int | None
    cascade: str
    threads: int


def network(text: str) -> dict[str, Any]:
    """`LIBRARY:ARCHITECTURE` as a member of `model`; without a library it is one of timm."""
    library, _, architecture = text.rpartition(":")
    return {"name": library or "timm", "architecture": architecture}


def recipe(images: Path, networks: Networks, effort: Effort) -> dict[str, Any]:
    """The recipe: two teachers, the robust one in parts of a batch, and a student that learns from both."""
    # From a random start to the edge of the ball and beyond.
    attack = {"steps": 2, "step_size": "epsilon"}
    shared = {
        "recipe.epochs": effort.epochs,
        "recipe.batch_size": effort.batch_size,
        "recipe.average": None,
        "validation_attack": attack,
        "schedule": {"name": "linear", "warmup": 0.5},
    }
    further = {"recipe.optimizer": ADAMW, "recipe.learning_rate": 1e-3}
    attacks = {"fgsm": {"name": "fgsm"}, "pgd_sat": {"name": "pgd", **attack, "start": "uniform", **LOSS}}
    delta = {
        "compute": {"device": "auto", "threads": effort.threads},
        "threat.epsilon": "4/255",
        "ntk": {"epochs": [], "size": 2},
        "fetch_data": {
            "dataset": {**FOLDER, "folder": str(images), "image_size": effort.side},
            "files": str(images),
        },
        "normalize_data": {"validation": "1/5", "test": "1/4"},
        "train_clean_teacher": {**shared, **further, "model": networks.clean},
        "train_robust_teacher": {
            **shared,
            **further,
            "model": networks.robust,
            "method.attack": attack,
            "recipe.micro_batch": effort.micro_batch,
        },
        "distill_student": {
            **shared,
            "required": None,
            "model": networks.student,
            "method.attack": attack,
            "recipe.learning_rate": 0.05,
        },
        "evaluate_attacks": {
            "batch_size": "auto",
            "attacks": {"only": attacks},
            "cascade": effort.cascade,
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
    """What each model reached on the n test images: without an attack, under each, in the worst case."""
    models = json.loads((folder / "reports/robustness.json").read_text(encoding="utf-8"))["models"]
    return {
        name: {attack: found["value"] for attack, found in {"clean": model["clean"], **model["attacks"]}.items()}
        | {"worst case": model["worst_case"]["value"], "n": model["clean"]["n"]}
        for name, model in models.items()
    }


def peaks(folder: Path) -> dict[str, int]:
    """The most memory that each stage held, in MiB: of the device where that is a GPU, else of its process."""
    costs = {stage: json.loads((folder / f".temper/costs/{stage}.json").read_text("utf-8")) for stage in STAGES}
    return {stage: round(cost.get("peak_gpu_mib") or cost["peak_mib"]) for stage, cost in costs.items()}


def main() -> None:
    options = Arguments(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--images", type=Path, help="pictures in DIR/CLASS; drawn without")
    options.add_argument("--count", type=int, default=60, help="of the drawn pictures")
    options.add_argument("--side", type=int, default=96)
    options.add_argument("--clean", type=network, default="convnext_atto", help="of timm, or LIBRARY:ARCHITECTURE")
    options.add_argument("--robust", type=network, default="vit_tiny_patch16_224")
    options.add_argument("--student", type=network, default=SMALL, help="default: the small CNN")
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--micro-batch", type=int, default=8, help="of the robust teacher; 0: the whole batch")
    options.add_argument("--cascade", default="none", help="none, quick or autoattack")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--out", type=Path, help="A JSON file for what is printed, with the machine.")
    told = options.parse_args()
    images = told.images or told.folder / "images"
    if told.images is None:
        draw(images, told.count, told.side)
    effort = Effort(told.side, told.epochs, told.batch_size, told.micro_batch or None, told.cascade, told.threads)
    values = recipe(images.resolve(), Networks(told.clean, told.robust, told.student), effort)
    told.folder.mkdir(parents=True, exist_ok=True)
    seconds = walk(told.folder, values)
    walked = {"seconds": seconds, "MiB": peaks(told.folder), "models": numbers(told.folder)}
    print(json.dumps(walked, indent=1))
    if told.out is not None:
        names = ("clean", "robust", "student", "count", "side", "epochs", "batch_size", "micro_batch", "cascade")
        chosen = {name: getattr(told, name) for name in names} | {"threads": told.threads}
        write_json(told.out, {"machine": machine(["torch", "timm"]), "options": chosen} | walked)


if __name__ == "__main__":
    main()
