"""A triangle: up in a line, down in a line."""

from components.foundation.params import strict
from components.schedules.parts.schedule import InnerShare


@strict
class Cyclic:
    """A line from 0 to 1 at the share `peak` of training and back (Wong et al., arXiv 2001.03994, section 5)."""

    peak: InnerShare  # Share of training at which the rate is largest.

    def factor(self, progress: float, epochs: int) -> float:
        share = progress / epochs
        return share / self.peak if share < self.peak else max(0.0, (1 - share) / (1 - self.peak))
