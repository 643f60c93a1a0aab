"""A triangle: up in a line, down in a line."""

from components.foundation.params import Real, strict
from components.schedules.parts.schedule import require_share


@strict
class Cyclic:
    """A line from 0 to 1 at the share `peak` of training and back (Wong et al., arXiv 2001.03994, section 5)."""

    peak: Real

    def __post_init__(self) -> None:
        require_share(self.peak)

    def factor(self, progress: float, epochs: int) -> float:
        share = progress / epochs
        return share / self.peak if share < self.peak else max(0.0, (1 - share) / (1 - self.peak))
