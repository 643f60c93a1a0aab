"""The base learning rate throughout."""

from components.foundation.params import strict


@strict
class Constant:
    """The base rate throughout."""

    def factor(self, progress: float, epochs: int) -> float:
        return 1.0
