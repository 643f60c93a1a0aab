"""Adversarial training at scale: clean and attacked images in one batch (Kurakin et al., arXiv 1611.01236)."""

from pydantic.dataclasses import dataclass

from components.foundation.params import STRICT, Real
from components.methods.parts.mixed_batch import Mix, MixedMethod, require_delay


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mixed:
    """The weighted mean loss of a batch of which a share is attacked through the model itself (section 3, algorithm 1).

    The first `delay` steps train on clean images alone. Errors: a negative delay.
    """

    mix: Mix
    delay: int
    label_smoothing: Real

    def __post_init__(self) -> None:
        require_delay(self.delay)

    def build(self) -> MixedMethod:
        return MixedMethod(self)
