"""Up along a cosine, then down to 0."""

from components.foundation.params import Real, strict
from components.schedules.parts.schedule import InnerShare, half_cosine


@strict
class OneCycle:
    """A cosine from `start` up to 1 at the share `peak` of training, then to 0 (Smith & Topin, arXiv 1708.07120)."""

    start: Real  # Share of the base rate at the start.
    peak: InnerShare  # Share of training at which the rate is largest.

    def factor(self, progress: float, epochs: int) -> float:
        share = progress / epochs
        if share < self.peak:
            return self.start + (1 - self.start) * (1 - half_cosine(share / self.peak))
        return half_cosine((share - self.peak) / (1 - self.peak))
