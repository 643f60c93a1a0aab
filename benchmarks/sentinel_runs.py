"""Finished training runs for the back-test of the sentinel: what is read, what is true of each, and who sees which.

The criterion was fixed, and the runs were split, before any rule was replayed on them. It looks at the whole run, so no
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

A run is in `learn` or in `judge` by a hash of its id: a quarter of all to learn from, the rest to judge, so that the
healthy ones to judge by may be sixty. Nothing that is chosen or learned looks at `judge`.
"""

import hashlib
from collections.abc import Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from components.training.sentinel.rules import LEARNED, Look

Kind = Literal["collapse", "overfitting", "healthy"]
Part = Literal["learn", "judge"]

HALF = 0.5  # Of the largest accuracy so far: below it a run has collapsed.
NEAR = 0.9  # Of the largest accuracy so far: the last epoch above it is the last before the fall.
SLOW = 3  # Epochs from the start to the collapse.
LAST = 3  # Epochs whose mean says whether a collapse lasts.
WINDOW = 5  # Epochs of a mean, for robust overfitting.
DECLINE = 0.03  # What such a mean must have lost.
TO_LEARN = 64  # Of 256 values of the hash's first byte.


class Truth(NamedTuple):
    """What a run is by the criterion: its kind, and the epochs at which that starts and, of a collapse, has come."""

    kind: Kind
    start: int | None = None
    collapse: int | None = None
    slow: bool = False
    lasting: bool = False


class Run(NamedTuple):
    """A finished run: looks at it, in order of time.

    `group` names what is judged together (a data set), `family` the runs that differ by data set and seed alone (a
    method), `batches` those of an epoch where known.
    """

    id: str
    group: str
    family: str
    looks: Sequence[Look]
    batches: int | None = None


def part(run_id: str) -> Part:
    """Whether this run is learned from or judged by."""
    return "learn" if hashlib.sha256(f"sentinel back-test 1\n{run_id}".encode()).digest()[0] < TO_LEARN else "judge"


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
