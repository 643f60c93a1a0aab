"""Adversarial training at scale: clean and attacked images in one batch (Kurakin et al., arXiv 1611.01236)."""

from components.foundation.params import Real, Whole, strict
from components.methods.parts.mixed_batch import Mix, MixedMethod


@strict
class Mixed:
    """The weighted mean loss of a batch of which a share is attacked through the model itself (section 3, algorithm 1).

    The first `delay` steps train on clean images alone. Errors: a negative delay.
    """

    mix: Mix
    delay: Whole
    label_smoothing: Real

    def build(self) -> MixedMethod:
        return MixedMethod(self)
