"""Finished training runs for the back-test of the sentinel: what is read, what is true of each, and who sees which.

The criterion was fixed before any rule was replayed. It looks at the whole run, so no
rule can use it. Let a(t) be the PGD accuracy of the raw weights on held-out images after epoch t = 1 ... T; where only
the published weights were measured, theirs.

* **Collapse**: a(t) is below half of the largest a before t, and that is above 5 %. The first such t is the run's
  collapse. It *starts* with the epoch after the last one before it at which a was at least 90 % of the largest until
  then. It is *slow* if that is three epochs or more before the collapse, and *lasting* if the mean of the last three a
  is below half of the largest; else the run recovers. An FGSM gap is no part of this.
* **Robust overfitting**: no collapse, and the largest mean of a over five epochs in a row is more than 3 points above
  the mean of the last five, while the accuracy on attacked training images, over the same epochs, is higher at the end.
  It starts with the epoch after those best five (the last such five, if several are equal). Runs shorter than ten
  epochs, or without the training accuracy, cannot have it.
* **Healthy**: neither.

A run is to *learn* from or to *judge* by. Among runs of one data set and one kind, in the order of a hash of the id,
every second sick one and every third healthy one is learned from, so that the healthy ones to judge by are sixty.
Nothing that is chosen or learned looks at those to judge by. (The first split went by the hash alone, a quarter to
learn from. It held one collapse, so the kinds were counted and the split was made by kind; no rule had been replayed on
other runs than that quarter.)
"""

import gzip
import hashlib
import json
import random
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from components.foundation.errors import InputError
from components.foundation.storage import read_csv, read_json
from components.training.sentinel.replay import looks_of
from components.training.sentinel.rules import LEARNED, Look

Kind = Literal["collapse", "overfitting", "healthy"]

HALF = 0.5  # Of the largest accuracy so far: below it a run has collapsed.
NEAR = 0.9  # Of the largest accuracy so far: the last epoch above it is the last before the fall.
SLOW = 3  # Epochs from the start to the collapse.
LAST = 3  # Epochs whose mean says whether a collapse lasts.
WINDOW = 5  # Epochs of a mean, for robust overfitting.
DECLINE = 0.03  # What such a mean must have lost.
TO_LEARN: dict[Kind, int] = {"collapse": 2, "overfitting": 2, "healthy": 3}  # Every so many of a data set's runs.
# The public file's lists, and what a look calls them; the averaged weights' list may be empty.
PUBLIC = {
    "model_val_acc_list": "clean_accuracy",
    "model_pgd_acc_list": "pgd_accuracy",
    "model_fgsm_acc_list": "fgsm_accuracy",
    "train_acc_list": "train_adversarial_accuracy",
    "wa_pgd_acc_list": "averaged_accuracy",
}
# What is not trained against an attack has no robustness to lose.
NOT_ROBUST = "clean_teacher"
# Of a study's curve, and of a recorded look what is no signal.
POINT = ("epoch", "clean_accuracy", "robust_accuracy")
ABOUT = ("attempt", "dropped", "alarms")


class Truth(NamedTuple):
    """What a run is by the criterion: its kind, and the epochs at which that starts and, of a collapse, has come."""

    kind: Kind
    start: int | None = None
    collapse: int | None = None
    slow: bool = False
    lasting: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: looks at it, in order of time. No run equals another.

    `group` names what is judged together (a data set), `family` the runs that differ by data set and seed alone (a
    method).
    """

    id: str
    group: str
    family: str
    looks: Sequence[Look]


def public(path: Path) -> list[Run]:
    """The runs of the public curves: data set, method, `seeds`, seed, lists over epochs; one look per epoch.

    Errors: a file that is missing, or has another form.
    """
    try:
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        return list(_public(json.loads(text)))
    except OSError as error:
        raise InputError(f"{path}: not readable: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: no curves of data set, method, seeds, seed: {error!r}") from None


def _public(content: Mapping[str, Any]) -> Iterator[Run]:
    for dataset, methods in content.items():
        for method, measured in methods.items():
            for seed, curves in measured["seeds"].items():
                lists = {signal: curves[name] for name, signal in PUBLIC.items() if curves.get(name)}
                epochs = zip(*lists.values(), strict=True)
                looks = [{"epoch": epoch, **dict(zip(lists, at, strict=True))} for epoch, at in enumerate(epochs, 1)]
                if not looks or "pgd_accuracy" not in lists:
                    raise ValueError(f"{dataset}/{method}/{seed} has no model_pgd_acc_list")
                yield Run(f"{dataset}/{method}/{seed}", dataset, method, looks)


def given(path: Path) -> list[Run]:
    """Runs to judge alone: a study's `results/SCALE.json`, a folder with `curves/MODEL.csv` at any depth, or a file of
    public curves.

    A run that was looked at has its looks, also those within epochs; of others the validation accuracy under attack
    stands for PGD accuracy. Clean teachers are left out. Errors: a file that is missing or broken.
    """
    runs = _of_study(path) if path.is_file() else _of_folder(path)
    if not runs:
        raise InputError(f"{path}: no curves/MODEL.csv in it")
    return runs


def _of_study(path: Path) -> list[Run]:
    document = {} if path.suffix == ".gz" else read_json(path)
    if not isinstance(document, dict) or document.get("schema") != "temper/study/1":
        return public(path)
    name, role = document["study"], document["role"]
    return [
        Run(f"{name}/{arm}/{seed}", name, arm, looks_of([{k: str(point[k]) for k in POINT} for point in one["curve"]]))
        for arm, seeds in document["arms"].items()
        for seed, one in seeds["seeds"].items()
        if role != NOT_ROBUST
    ]


def _of_folder(folder: Path) -> list[Run]:
    runs: list[Run] = []
    for path in sorted(folder.rglob("curves/*.csv")):
        rows = read_csv(path)
        if path.stem == NOT_ROBUST or "robust_accuracy" not in rows[0]:
            continue
        watched = path.with_suffix(".sentinel.json")
        seen = read_json(watched)["looks"] if watched.exists() else []
        looks = [{name: look[name] for name in look if name not in ABOUT} for look in seen if not look["dropped"]]
        name = str(path.relative_to(folder).with_suffix(""))
        runs.append(Run(name, folder.name, path.stem, looks or looks_of(rows)))
    return runs


def split(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """The runs to learn from, and those to judge by: the order of the runs makes no difference, nor do other data sets
    beside them."""
    strata: dict[tuple[str, Kind], list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: hashlib.sha256(run.id.encode()).digest()):
        strata[run.group, truth(run.looks).kind].append(run)
    learn = {run for (_, kind), some in strata.items() for run in some[:: TO_LEARN[kind]]}
    whole = [run for some in strata.values() for run in some]
    return [run for run in whole if run in learn], [run for run in whole if run not in learn]


def with_fewer(run: Run, num_images: int, seed: int) -> Run:
    """The run as if that many images had been looked at, others at each look: PGD and FGSM accuracy are drawn anew."""
    rng, looks = random.Random(f"{seed} {run.id}"), list[Look]()
    for look in run.looks:
        robust = look["pgd_accuracy"]
        share = max(0.0, look["fgsm_accuracy"] - robust) / max(1 - robust, 1e-9)
        withstood = sum(rng.random() < robust for _ in range(num_images))
        beside = sum(rng.random() < share for _ in range(num_images - withstood))
        drawn = {"pgd_accuracy": withstood / num_images, "fgsm_accuracy": (withstood + beside) / num_images}
        looks.append({**look, **drawn})
    return replace(run, looks=looks)


def truth(looks: Sequence[Look]) -> Truth:
    """What these looks at a whole run show, by the criterion."""
    ends = [look for look in looks if look["epoch"] >= 1 and look["epoch"] == int(look["epoch"])]
    accuracies = [look["pgd_accuracy"] for look in ends]
    best = 0.0
    for index, accuracy in enumerate(accuracies):
        if best > LEARNED and accuracy < HALF * best:
            return _collapse([int(look["epoch"]) for look in ends], accuracies, index)
        best = max(best, accuracy)
    return _overfitting(ends, accuracies)


def _collapse(epochs: Sequence[int], accuracies: Sequence[float], index: int) -> Truth:
    best, whole = 0.0, 0
    for before, accuracy in enumerate(accuracies[:index]):
        best = max(best, accuracy)
        whole = before if accuracy >= NEAR * best else whole
    start, collapse = epochs[whole + 1], epochs[index]
    lasting = fmean(accuracies[-LAST:]) < HALF * max(accuracies)
    return Truth("collapse", start, collapse, collapse - start >= SLOW, lasting)


def _overfitting(ends: Sequence[Look], accuracies: Sequence[float]) -> Truth:
    trained = [look.get("train_adversarial_accuracy") for look in ends]
    known = [value for value in trained if value is not None]
    if len(ends) < 2 * WINDOW or len(known) < len(ends):
        return Truth("healthy")
    means = [fmean(accuracies[first : first + WINDOW]) for first in range(len(ends) - WINDOW + 1)]
    first = max(range(len(means)), key=lambda index: (means[index], index))
    learned_more = fmean(known[-WINDOW:]) > fmean(known[first : first + WINDOW])
    if means[first] - means[-1] <= DECLINE or not learned_more:
        return Truth("healthy")
    return Truth("overfitting", int(ends[first + WINDOW]["epoch"]))
