"""Up along a cosine, then down to 0."""

from components.foundation.params import Real, strict
from components.schedules.parts.schedule import half_cosine, require_share


@strict
class OneCycle:
    """A cosine from `start` up to 1 at the share `peak` of training, then to 0 (Smith & Topin, arXiv 1708.07120)."""

    start: Real
    peak: Real

    def __post_init__(self) -> None:
        require_share(self.peak)

    def factor(self, progress: float, epochs: int) -> float:
        share = progress / epochs
        if share < self.peak:
            return self.start + (1 - self.start) * (1 - half_cosine(share / self.peak))
        return half_cosine((share - self.peak) / (1 - self.peak))
