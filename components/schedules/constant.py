"""The base learning rate throughout."""

from components.foundation.params import strict
from components.schedules.parts.schedule import Warmup, warmed


@strict
class Constant:
    """The base rate throughout, after a linear warm-up in epochs."""

    warmup: Warmup = 0.0  # Epochs of the linear warm-up.

    def factor(self, progress: float, epochs: int, step: float = 0.0) -> float:
        return warmed(progress + step, self.warmup)
