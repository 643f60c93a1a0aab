"""How many rows of a published table are reached: each arm's mean over its seeds beside the published one."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.gpu.place import PUBLISHED, Place
from components.foundation.storage import read_json

# Points of AutoAttack within which a row counts as reached, and rows that are to be reached.
NEAR, ROWS = 0.6, {"fast_at": 8}
# Points by which PGD-50 leaves more images than AutoAttack where a model only hides its gradients: of honest published
# rows the largest is 6, of the masked one of that benchmark 34.
MASKED = 10.0


class Row(NamedTuple):
    """An arm: the mean under AutoAttack over so many seeds, in percent, the published one, and the seeds in which
    gradients are hidden although the verdict calls the model trusted."""

    arm: str
    mean: float
    seeds: int
    published: float
    unseen: tuple[int, ...]

    @property
    def reached(self) -> bool:
        return abs(self.mean - self.published) <= NEAR


def rows(study: str, published: Mapping[str, Any], place: Place, seeds: int = 10) -> Iterator[Row]:
    """The arms of a study that have a result."""
    for arm, theirs in published.items():
        found = {
            seed: read_json(place.result(name)) for seed in range(seeds) if place.has(name := f"{study}.{arm}.{seed}")
        }
        if found:
            attacked = [100 * one["accuracies"]["best"]["worst_case"]["value"] for one in found.values()]
            unseen = tuple(seed for seed, one in found.items() if is_masked(one) and not is_suspect(one))
            yield Row(arm, fmean(attacked), len(found), theirs["autoattack"], unseen)


def is_masked(numbers: Mapping[str, Any]) -> bool:
    """Whether PGD-50 leaves many more images than the worst case."""
    best = numbers["accuracies"]["best"]
    pgd = best["attacks"].get("pgd_50")
    return pgd is not None and 100 * (pgd["value"] - best["worst_case"]["value"]) > MASKED


def is_suspect(numbers: Mapping[str, Any]) -> bool:
    """Whether the verdict tells of it."""
    return numbers["verdicts"]["best"] == "suspect"


def lines(place: Place) -> list[str]:
    """A paragraph for each published table of which something is measured."""
    told = []
    for study, aim in ROWS.items():
        found = list(rows(study, read_json(PUBLISHED)[study], place))
        if not found:
            continue
        reached = sum(row.reached for row in found)
        told.append(
            f"{study}: {reached} of {len(found)} rows within {NEAR} points of the published AutoAttack (aim: {aim})"
        )
        told += [
            f"  {row.arm:24} {row.mean:5.1f} (n = {row.seeds} seeds), published {row.published:5.1f}" for row in found
        ]
        told += [
            f"  WRONG: {row.arm}, seed {seed}: PGD-50 is over {MASKED:g} points above AutoAttack, but not suspect"
            for row in found
            for seed in row.unseen
        ]
    return told
