"""Which teacher comes first: a lexicographic rule, with ties wherever the images cannot tell two teachers apart."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from components.statistics.bootstrap import PerImage, means, percentile_interval, rank_intervals

FIRST = "worst_case"
Measures = Mapping[str, Mapping[str, PerImage]]
"""Teacher to measure to what it is for each image."""


class Difference(NamedTuple):
    """The mean of one teacher minus that of another on the same images, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    @property
    def told(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


class Place(NamedTuple):
    """A teacher's `place` from 1 and its group, from 1, of those that worst-case accuracy does not tell apart.

    `low` and `high`: the 95 % interval of its place by worst-case accuracy alone.
    """

    place: int
    group: int
    low: int
    high: int


def second_key(measures: Measures) -> str:
    """What decides within a group: confident errors on the student's attacked images, else on the teacher's own."""
    with_student = all("confident_student" in found for found in measures.values())
    return "confident_student" if with_student else "confident_adversarial"


def difference(one: PerImage, other: PerImage, counts: Tensor) -> Difference:
    """The mean of `one` minus that of `other`, over the same resamples of images."""
    low, high = percentile_interval(means(one, counts) - means(other, counts))
    return Difference(one.mean - other.mean, low, high, min(one.n, other.n))


def ranked(measures: Measures, counts: Tensor) -> dict[str, Place]:
    """The teachers in their order, the best first.

    By worst-case accuracy; who cannot be told from the best of a group (the interval of the difference holds 0) is in
    its group. Within a group, by fewer confident errors (`second_key`). Teachers that are equal in both share a place.
    The order in which they are handed over plays no part.
    """
    key = second_key(measures)
    by_accuracy = sorted(measures, key=lambda name: (-measures[name][FIRST].mean, name))
    group_of, best = dict[str, int](), ""
    for name in by_accuracy:
        if not best or difference(measures[best][FIRST], measures[name][FIRST], counts).told:
            best = name
        group_of[name] = group_of[best] if name != best else len({*group_of.values()}) + 1
    keys = {name: (group_of[name], measures[name][key].mean, -measures[name][FIRST].mean) for name in measures}
    intervals = rank_intervals({name: means(measures[name][FIRST], counts) for name in sorted(measures)})
    return {
        name: Place(1 + sum(other < keys[name] for other in keys.values()), group_of[name], *intervals[name])
        for name in sorted(measures, key=lambda name: (keys[name], name))
    }
