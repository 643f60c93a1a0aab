"""The sentinel's rules on a run after the fact: the same looks and the same rules as while it is trained."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from components.training.sentinel.rules import RULES, Look, RuleName, Rules, alarms

# What a look has from an epoch's record under the same name, and what the record has under the same name anyhow.
OF_TRAINING = ("train_adversarial_accuracy", "pert_align")
OF_RECORD = ("train_loss", *OF_TRAINING)
PREFIX = "sentinel_"
# Columns of the sentinel that are no signals.
ABOUT_LOOKS = ("roll_backs", "share")


class Lead(NamedTuple):
    """What one rule said of one run: the epoch of its first alarm; how many epochs before the collapse that was
    (negative: after it); and all of its alarms if the run never collapses, each of which is false then."""

    first: float | None
    lead: float | None
    false_alarms: int


def of_epoch(record: Mapping[str, float], before: Sequence[Look], averaged: bool) -> dict[str, float]:
    """What a look at an epoch's end takes from the epoch's record.

    Args:
        record: columns of a curves file.
        before: the looks before it.
        averaged: whether the record's accuracies are of averaged weights.
    """
    known = {name: record[name] for name in OF_TRAINING if name in record}
    if averaged:
        known["averaged_accuracy"] = record["robust_accuracy"]
    return known | _kernel(record, before)


def looks_of(rows: Iterable[Mapping[str, str]]) -> list[Look]:
    """The looks at the ends of epochs in the rows of a curves file, `curves/MODEL.csv`, as text.

    An empty cell is a number that is not known. Without a sentinel's columns the PGD accuracy is the validation
    accuracy under attack, of the published weights.
    """
    looks: list[Look] = []
    for row in rows:
        record = {name: float(text) for name, text in row.items() if text}
        signals = {
            name.removeprefix(PREFIX): value
            for name, value in record.items()
            if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in ABOUT_LOOKS
        } or {"clean_accuracy": record["clean_accuracy"], "pgd_accuracy": record["robust_accuracy"]}
        # An epoch with one look: what was lost since the look before.
        trained = {name: record[name] for name in ("train_loss",) if name in record}
        looks.append({"epoch": record["epoch"], **signals, **trained, **of_epoch(record, looks, averaged=False)})
    return looks


def replay(looks: Sequence[Look], rules: Rules, names: Iterable[RuleName] = tuple(RULES)) -> list[list[RuleName]]:
    """Which of these rules alarm at each of the looks, each of which knows the looks before it alone."""
    names = tuple(names)
    return [alarms(looks[:count], rules, names) for count in range(1, len(looks) + 1)]


def lead_times(looks: Sequence[Look], rules: Rules) -> dict[str, Lead]:
    """How early each rule alarms in a run; None where it never does, or where there is no collapse to be early for."""
    heard = list(zip(looks, replay(looks, rules), strict=True))
    found = {name: [look["epoch"] for look, names in heard if name in names] for name in RULES}
    collapse = next(iter(found["collapse"]), None)
    leads: dict[str, Lead] = {}
    for name, epochs in found.items():
        first = next(iter(epochs), None)
        lead = None if first is None or collapse is None else collapse - first
        leads[name] = Lead(first, lead, len(epochs) if collapse is None else 0)
    return leads


def _kernel(record: Mapping[str, float], before: Sequence[Look]) -> dict[str, float]:
    """The kernel's effective rank and how far it turned per epoch, where it was measured in this epoch."""
    if "ntk_adversarial_effective_rank" not in record:
        return {}
    earlier = [look["epoch"] for look in before if "kernel_rank" in look]
    known = {"kernel_rank": record["ntk_adversarial_effective_rank"]}
    if earlier and "ntk_adversarial_distance_previous" in record:
        known["kernel_velocity"] = record["ntk_adversarial_distance_previous"] / (record["epoch"] - earlier[-1])
    return known
