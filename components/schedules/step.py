"""The learning rate falls by a factor at given epochs."""

from itertools import pairwise

from components.foundation.params import Real, strict
from components.schedules.parts.schedule import Warmup, warmed


@strict
class Step:
    """The base rate times `decay` for each of `milestones` (in epochs) that has passed, after a linear warm-up."""

    milestones: tuple[int, ...]  # Epochs at which the rate is multiplied, increasing.
    decay: Real  # What the rate is multiplied by at each milestone.
    warmup: Warmup = 0.0  # Epochs of the linear warm-up.

    def __post_init__(self) -> None:
        if any(late <= early for early, late in pairwise(self.milestones)):
            raise ValueError(f"got milestones {list(self.milestones)}, want them increasing")

    def factor(self, progress: float, epochs: int, step: float = 0.0) -> float:
        return warmed(progress + step, self.warmup) * self.decay ** sum(
            progress >= milestone for milestone in self.milestones
        )
