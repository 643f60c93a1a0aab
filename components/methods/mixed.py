"""Adversarial training at scale: clean and attacked images in one batch (Kurakin et al., arXiv 1611.01236)."""

from components.foundation.params import Share, Whole, strict
from components.methods.parts.mixed_batch import Mix, MixedMethod


@strict
class Mixed:
    """The weighted mean loss of a batch of which a share is attacked through the model itself (section 3, algorithm 1).

    The first `delay` steps train on clean images alone. Errors: a negative delay.
    """

    mix: Mix  # Which share of a batch is attacked, how, and how much it counts.
    delay: Whole  # Steps on clean images before attacks begin.
    label_smoothing: Share  # Share of the target that goes evenly to all classes.

    def build(self) -> MixedMethod:
        return MixedMethod(self)
