"""Half a cosine after a warm-up."""

from components.foundation.params import strict
from components.schedules.parts.schedule import Warmup, half_cosine, share_after, warmed


@strict
class Cosine:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter, arXiv 1608.03983, eq. 5), after a linear warm-up in epochs.

    >>> schedule = Cosine(warmup=1)
    >>> [round(schedule.factor(progress, epochs=10), 2) for progress in (0.5, 1, 5.5, 10)]
    [0.5, 1.0, 0.5, 0.0]
    """

    warmup: Warmup  # Epochs of the linear warm-up.

    def factor(self, progress: float, epochs: int, step: float = 0.0) -> float:
        return warmed(progress + step, self.warmup) * half_cosine(share_after(progress, epochs, self.warmup))
