"""Where the experiments of the GPU programme work, what they are told, and where their results go."""

import argparse
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from components.foundation.arguments import Arguments
from components.foundation.provenance import git_commit, versions
from components.foundation.storage import read_json, write_text

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "benchmarks" / "gpu" / "published.json"
DONE, MORE_TO_DO = 0, 3
# What a result keeps of a model's report.
KINDS = ("clean", "attacks", "cascade", "worst_case")
# What a recipe becomes at toy size: digits and a small network for two epochs, so that the same code runs on a CPU.
_TRAINED = ("train_clean_teacher", "train_robust_teacher", "distill_student")
TOY: dict[str, Any] = {
    "compute.threads": 1,
    "ntk.epochs": [],
    "fetch_data": {"dataset": {"name": "digits"}, "files": "components/datasets/parts/no_files.txt"},
    "normalize_data": {"train_limit": 128, "test_limit": 24, "validation": "1/10"},
    "distill_student.required": None,
    "evaluate_attacks": {
        "batch_size": 24,
        "cascade": "quick",
        "curve_epsilons": [],
        "grid": {"epsilons": [], "attacks": {}},
        "probe_images": 12,
    },
} | {
    f"{stage}.{key}": value
    for stage in _TRAINED
    for key, value in {
        "model": {"name": "small_cnn", "width": 0.125, "batch_norm": {"estimator": "running", "momentum": 0.1}},
        "schedule": {"name": "constant"},
        "recipe.epochs": 2,
        "recipe.batch_size": 32,
        "recipe.augmentation": {"crop": 1, "flip": False, "cutmix": 0, "rand_augment": None},
        "sentinel": None,
    }.items()
}


def toy_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The delta that makes a recipe one of toy size. Some methods know for how many epochs they train."""
    known = [stage for stage in _TRAINED if values[stage]["method"].get("epochs") == values[stage]["recipe"]["epochs"]]
    return TOY | {f"{stage}.method.epochs": TOY[f"{stage}.recipe.epochs"] for stage in known}


class Place(NamedTuple):
    """The folders of the programme.

    `data` has the downloaded data sets; `work` keeps what is unfinished, on the machine's own disk; `results` is where
    finished experiments are kept for good, one JSON file each.
    """

    data: Path | None
    work: Path
    results: Path
    toy: bool

    def result(self, name: str) -> Path:
        return self.results / f"{name}.json"

    def made(self, name: str) -> Path:
        """What an experiment writes when it is over, before it is a result."""
        return self.work / "made" / f"{name}.json"

    def failure(self, name: str) -> Path:
        return self.work / "failed" / f"{name}.json"

    def has(self, name: str) -> bool:
        """Whether there is a result; one that was made before a call ended becomes one."""
        if self.made(name).exists():
            self.publish(name)
        return self.result(name).exists()

    def wrong(self, name: str) -> bool:
        """Whether a result says that something is wrong."""
        return self.has(name) and bool(read_json(self.result(name)).get("wrong"))

    def publish(self, name: str) -> None:
        """Moves what an experiment has made among the results, so that a deleted result is measured anew."""
        self.results.mkdir(parents=True, exist_ok=True)
        write_text(self.result(name), self.made(name).read_text(encoding="utf-8"))
        self.made(name).unlink()

    def options(self) -> list[str]:
        """What every experiment is told."""
        data = ["--data", str(self.data.resolve())] if self.data is not None else []
        folders = ["--work", str(self.work.resolve()), "--results", str(self.results.resolve())]
        return [*folders, *data, *(["--toy"] if self.toy else [])]


def parser(doc: str | None) -> Arguments:
    """The options that every experiment takes, to which it adds its own."""
    options = Arguments(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="folder with CIFAR-10 in torchvision's layout")
    options.add_argument("--work", type=Path, required=True, help="folder for what is unfinished")
    options.add_argument("--results", type=Path, help="folder of the results that there are already")
    options.add_argument("--out", type=Path, required=True, help="the JSON file of the result")
    options.add_argument("--stop-after", type=float, metavar="SECONDS", help="stop, to be continued; exit status 3")
    options.add_argument("--toy", action="store_true", help="toy size")
    return options


class Aim(NamedTuple):
    """A number that was to be reached, and what was measured; None: it could not be."""

    what: str
    aim: float
    measured: float | None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.aim if self.at_most else self.measured >= self.aim

    def told(self) -> dict[str, Any]:
        return {**self._asdict(), "met": self.met}


def write_result(out: Path, headline: str, **content: Any) -> None:
    """The result with what it belongs to: device, versions, commit and date. The headline is a table's line.

    Where there are `aims`, it says how many of those that could be measured are met.
    """
    judged = [aim["met"] for aim in content.get("aims", ()) if aim["met"] is not None]
    headline += f" [aims met: {sum(judged)} of {len(judged)}]" * bool(judged)
    made = {"headline": headline, "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), **content}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(made, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Device, its memory in GiB, CUDA, versions and commit; the commit is empty where there is no Git."""
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else f"CPU {platform.machine()}",
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "versions": versions(),
        "commit": git_commit(),
    }
