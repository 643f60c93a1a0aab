"""N-FGSM: stronger noise around the image, and no clipping of what the step makes of it."""

from torch import Tensor

from components.foundation.params import NotNegativeFraction, NotNegativeLength, Ratio, Share, strict
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.one_step import NoisyStep
from components.threats.parts.threat import Threat


@strict
class NFgsm:
    """Mean cross-entropy of x̃ = x + η + step, η uniform in the ball of `noise` · ε (de Jorge et al., arXiv 2202.01181,
    section 4).

    Only the pixel range is kept: x̃ lies up to `noise` · ε + `step_size` away, on purpose. In L2 the ball and the step
    are those of that norm. Published: `noise` 2, `step_size` ε, `batch_norm` train. Errors: a negative field.
    """

    step_size: NotNegativeLength  # Length of the step, a fraction of the pixel range.
    noise: NotNegativeFraction  # Radius of the random start, as a multiple of ε.
    label_smoothing: Share  # Share of the target that goes evenly to all classes.
    batch_norm: BatchNormMode  # Which mode batch norm is in while images are crafted.

    def build(self) -> NoisyStep:
        return NoisyStep(self)

    def attacked(self, threat: Threat, start: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        """The step, held back by the pixel range alone."""
        reach = threat.up_to(Ratio(self.noise * threat.epsilon + self.step_size))
        step = threat.steepest_step(gradient, float(self.step_size), start)
        return reach.verify((start + step).clamp_(0, 1), images)
