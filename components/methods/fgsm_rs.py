"""FGSM with a random start: one step of adversarial training for little more than clean training's price."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from components.foundation.params import Fractional, NotNegativeLength, Share, strict
from components.methods.parts import one_step
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.one_step import NoisyStep
from components.threats.parts.threat import Threat


@strict
class FgsmRs:
    """Mean cross-entropy of x̃ = Π(x + η + step), η uniform in the ball of `noise` · ε (Wong et al., arXiv 2001.03994,
    algorithm 3).

    Published: `noise` 1, `step_size` 1.25 ε, and `batch_norm` train: the crafting pass normalises with the batch's own
    statistics and counts among those that the running ones are averaged from. Errors: `noise` outside [0, 1].
    """

    step_size: NotNegativeLength  # Length of the step, a fraction of the pixel range.
    noise: Annotated[Fractional, Field(ge=0, le=1)]  # Radius of the random start, as a multiple of ε.
    label_smoothing: Share  # Share of the target that goes evenly to all classes.
    batch_norm: BatchNormMode  # Which mode batch norm is in while images are crafted.

    def build(self) -> NoisyStep:
        return NoisyStep(self)

    def attacked(self, threat: Threat, start: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        """The step, brought back into the ball."""
        return one_step.attacked(threat, start, gradient, float(self.step_size), images)
