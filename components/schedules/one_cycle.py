"""Up along a cosine, then down to 0."""

from components.foundation.params import Real, strict
from components.schedules.parts.schedule import InnerShare, Momentum, between, half_cosine


@strict
class OneCycle:
    """A cosine from `start` up to 1 at the share `peak` of training, then to 0 (Smith & Topin, arXiv 1708.07120).

    With `momentum_at_peak` the momentum goes down and up again, along cosines as well.
    """

    start: Real  # Share of the base rate at the start.
    peak: InnerShare  # Share of training at which the rate is largest.
    momentum_at_peak: Momentum | None = None  # Momentum where the rate is largest; null: the recipe's throughout.

    def factor(self, progress: float, epochs: int) -> float:
        height = self._height(progress / epochs)
        return self.start + (1 - self.start) * height if progress / epochs < self.peak else height

    def momentum(self, progress: float, epochs: int, largest: float) -> float:
        return between(largest, self.momentum_at_peak, self._height(progress / epochs))

    def _height(self, share: float) -> float:
        """From 0 up to 1 at the peak, and to 0 again."""
        if share < self.peak:
            return 1 - half_cosine(share / self.peak)
        return half_cosine((share - self.peak) / (1 - self.peak))
