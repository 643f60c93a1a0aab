"""A triangle: up in a line, down in a line."""

from components.foundation.params import strict
from components.schedules.parts.schedule import InnerShare, Momentum, between


@strict
class Cyclic:
    """A line from 0 to 1 at the share `peak` of training and back (Wong et al., arXiv 2001.03994, section 5).

    With `momentum_at_peak` the momentum goes the other way, in lines too. Published: 0.8, from 0.9, which is what
    torch's own cyclic schedule does unless it is told not to.
    """

    peak: InnerShare  # Share of training at which the rate is largest.
    momentum_at_peak: Momentum | None = None  # Momentum where the rate is largest; null: the recipe's throughout.

    def factor(self, progress: float, epochs: int) -> float:
        share = progress / epochs
        return share / self.peak if share < self.peak else max(0.0, (1 - share) / (1 - self.peak))

    def momentum(self, progress: float, epochs: int, largest: float) -> float:
        return between(largest, self.momentum_at_peak, self.factor(progress, epochs))
