"""The base learning rate throughout."""

from pydantic.dataclasses import dataclass

from components.foundation.params import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Constant:
    """The base rate throughout."""

    def factor(self, progress: float, epochs: int) -> float:
        return 1.0
