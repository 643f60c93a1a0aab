"""Ensemble adversarial training: attacked images come from a frozen model too (Tramèr et al., arXiv 1705.07204)."""

from torch import nn

from components.foundation.params import Share, Whole, strict
from components.methods.parts.mixed_batch import Mix, MixedMethod


@strict
class EnsembleAt:
    """The fields of the method, which are those of `Mixed`.

    The images of a batch are attacked through the model in training or, with the same chance, through the clean
    teacher, whose gradients the model cannot learn to hide (section 4.1). Errors: a negative delay.
    """

    mix: Mix  # Which share of a batch is attacked, how, and how much it counts.
    delay: Whole  # Steps on clean images before attacks begin.
    label_smoothing: Share  # Share of the target that goes evenly to all classes.

    def build(self, clean_teacher: nn.Module) -> MixedMethod:
        return MixedMethod(self, clean_teacher)
