"""Shows that a change of the code changes no number: what stages write, as hashes, of two commits on one machine.

    python benchmarks/same_bytes.py record before.json --code FOLDER_OF_THE_OLD_COMMIT --data FOLDER
    python benchmarks/same_bytes.py record after.json --data FOLDER
    python benchmarks/same_bytes.py compare before.json after.json

Each case is a recipe for the embedded digits or Fashion-MNIST, made short. `record` runs its stages in a fresh folder
with the code of `--code` (default: this checkout) and hashes every file they write. Hashes of code, which are meant
to differ, are left out. `--data` is a folder with Fashion-MNIST in torchvision's layout; without it that case is
skipped and said to be. `compare` lists the files that differ and exits with status 1 if there are any.
"""

import argparse
import copy
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from components.foundation.arguments import Arguments
from components.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = ("data", "models", "curves", "metrics", "evaluation", "plots", "reports")
# The dated page and the costs hold times; the declared page does not.
TIMED = ("reports/costs.json", "reports/robustness.dated.html")
PGD = {"steps": 3, "step_size": "20/255", "start": "uniform", "loss": "cross_entropy", "restarts": 1}
STUDENT_ATTACK = {"steps": 3, "step_size": "20/255", "start": "uniform", "loss": "cross_entropy"}
KL = PGD | {"start": "gaussian", "loss": "kl"}
TRAINING = ["train_robust_teacher"]


def robust(method: dict[str, Any], epochs: int = 3, rate: float = 0.05, **section: Any) -> dict[str, Any]:
    """A recipe whose robust teacher is trained for a few epochs by another method, at a rate at which none diverges."""
    return {"train_robust_teacher": {"method": method, "recipe": {"epochs": epochs, "learning_rate": rate}} | section}


SMOOTHING = {
    "form": "example",
    "weight_adversarial": 1,
    "weight_clean": 1,
    "stride_min": 0.02,
    "stride_max": 0.6,
    "weight_centralisation": 0.1,
    "centre_epochs": 2,
    "clean": "start",
    "warm_up": 1,
    "guard": 1,
}
FGSM_RS = {"name": "fgsm_rs", "step_size": "64/255", "noise": 1, "label_smoothing": 0, "batch_norm": "train"}
FGSM_MEP = {
    "name": "fgsm_mep",
    "step_size": "51/255",
    "momentum": 0.3,
    "reset_every": 2,
    "weight": 10,
    "label_smoothing": 0.1,
    "align": True,
    "batch_norm": "train",
}
ADR = {
    "name": "adr",
    "steps": 2,
    "step_size": "20/255",
    "start": "uniform",
    "temperature_from": 2.5,
    "temperature_to": 2,
    "weight_from": 0.7,
    "weight_to": 0.95,
    "decay": 0.9,
    "epochs": 3,
}
MIXED = {
    "name": "mixed",
    "mix": {"attack": "step_ll", "adversarial": "1/2", "weight": 0.3, "epsilon_sigma": "25/255"},
    "delay": 5,
    "label_smoothing": 0.1,
}
LBGAT = {"name": "lbgat", "beta": 6, "reduction": "class_mean", "companion": "random", "attack": KL}
KD_SWA = {"name": "kd_swa", "attack": STUDENT_ATTACK, "clean_weight": 0.1, "robust_weight": 0.6, "temperature": 2}
SHORT = {"epochs": 2, "augmentation": {"crop": 1, "flip": True, "cutmix": 0, "rand_augment": None}}

# By name: preset, stages to run, what the recipe changes. The other digits begin with the files of the first.
CASES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "digits": ("digits", list(STAGES), {}),
    "companion": ("digits", TRAINING, robust(LBGAT, rate=0.005)),
    "memory": ("digits", TRAINING, robust(FGSM_MEP, 4)),
    "averaged_labels": ("digits", TRAINING, robust(ADR)),
    "mixed": ("digits", TRAINING, robust(MIXED)),
    "converge_smooth": ("digits", TRAINING, robust(FGSM_RS, 4, smoothing=SMOOTHING)),
    "smooth_awp": (
        "digits",
        TRAINING,
        robust(
            {"name": "pgd_at", "label_smoothing": 0, "attack": PGD},
            smoothing=SMOOTHING | {"clean": "pass"},
            perturbation={"gamma": 0.01, "start": 1},
        ),
    ),
    "two_teachers": ("digits", ["distill_student"], {"distill_student": {"method": KD_SWA, "recipe": {"epochs": 3}}}),
    "fashion_mnist": (
        "fashion_mnist",
        ["fetch_data", "normalize_data", "train_clean_teacher"],
        {"normalize_data": {"train_limit": 4000, "test_limit": 500}, "train_clean_teacher": {"recipe": SHORT}},
    ),
}


def main() -> int:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    record = actions.add_parser("record", help="run the cases and write their hashes")
    record.add_argument("out", type=Path)
    record.add_argument("--code", type=Path, default=ROOT, help="the checkout whose code runs")
    record.add_argument("--data", type=Path, help="a folder with Fashion-MNIST")
    record.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    compare = actions.add_parser("compare", help="say which files differ")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.action == "compare":
        return differences(json.loads(args.before.read_text()), json.loads(args.after.read_text()))
    with tempfile.TemporaryDirectory(prefix="same_bytes.") as work:
        hashes = recorded(args.cases, args.code.resolve(), args.data, Path(work))
    args.out.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
    return 0


def recorded(cases: list[str], code: Path, data: Path | None, work: Path) -> dict[str, dict[str, str]]:
    """The hashes of each case, by file. The digits come first, since other cases begin with their data and teachers."""
    hashes: dict[str, dict[str, str]] = {}
    for case in sorted({*cases, "digits"}, key=list(CASES).index):
        preset, stages, changes = CASES[case]
        if preset == "fashion_mnist" and data is None:
            print(f"{case}: skipped, no --data")
            continue
        folder = work / case
        folder.mkdir()
        if preset == "digits" and case != "digits":
            for name in ("data", "models"):
                subprocess.run(["cp", "-r", work / "digits" / name, folder / name], check=True)
        recipe = changed(full_recipe(preset), changes)
        (folder / "params.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        for stage in stages:
            print(f"{case}: {stage}", flush=True)
            run(stage, folder, code, data)
        hashes[case] = hashed(folder)
    return hashes


def full_recipe(preset: str) -> dict[str, Any]:
    """A preset with all its keys, as this checkout has it."""
    sys.path.insert(0, str(ROOT))
    from pipelines.parameters.presets import preset_values

    return preset_values(ROOT, preset)


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` after `changes`; a block with another name takes the place of the old one."""
    result = copy.deepcopy(values)
    for key, value in changes.items():
        old = result.get(key)
        merge = isinstance(value, dict) and isinstance(old, dict) and value.get("name") in (None, old.get("name"))
        result[key] = changed(old, value) if merge and isinstance(old, dict) else copy.deepcopy(value)
    return result


def run(stage: str, folder: Path, code: Path, data: Path | None) -> None:
    """Runs a stage in `folder`. Errors: its own exit status."""
    environment = os.environ | {"PYTHONPATH": str(code), "TEMPER_TRACKING": "off"}
    environment |= {"TEMPER_DATA": str(data.resolve())} if data else {}
    command = [sys.executable, "-m", f"components.stages.{stage}"]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.returncode)


def hashed(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that stages write, by its path; JSON without what names the code."""
    files = sorted(path for name in WRITTEN for path in (folder / name).rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return {name: hashlib.sha256(content(path)).hexdigest() for name, path in named.items() if name not in TIMED}


def content(path: Path) -> bytes:
    """The bytes of a file; of JSON, those that no hash of the code is in."""
    if path.suffix != ".json":
        return path.read_bytes()
    return json.dumps(without_code(json.loads(path.read_text()))).encode()


def without_code(value: Any) -> Any:
    """A document without its entries named `code` or `code.sha256`."""
    if isinstance(value, dict):
        return {key: without_code(entry) for key, entry in value.items() if key.split(".")[0] != "code"}
    return [without_code(entry) for entry in value] if isinstance(value, list) else value


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> int:
    """Prints, for each case, how many files are equal and which are not; 1 if any file differs."""
    worst = 0
    for case in sorted({*before, *after}):
        old, new = before.get(case, {}), after.get(case, {})
        unequal = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        print(f"{case}: {len(old) - len(unequal)} of {len(old)} files equal", *unequal, sep="\n  ")
        worst |= bool(unequal)
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
