"""A line to 0 after a warm-up."""

from components.foundation.params import strict
from components.schedules.parts.schedule import Warmup, share_after, warmed


@strict
class Linear:
    """A line from 1 to 0 at the end of training, after a linear warm-up in epochs.

    >>> schedule = Linear(warmup=2)
    >>> [schedule.factor(progress, epochs=10) for progress in (1, 2, 6, 10)]
    [0.5, 1.0, 0.5, 0.0]
    """

    warmup: Warmup  # Epochs of the linear warm-up.

    def factor(self, progress: float, epochs: int, step: float = 0.0) -> float:
        return warmed(progress + step, self.warmup) * (1 - share_after(progress, epochs, self.warmup))
