"""N-FGSM: stronger noise around the image, and no clipping of what the step makes of it."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.parts.ascent import View
from components.data.batch import Batch
from components.foundation.params import STRICT, Fractional, Ratio, Real
from components.methods.parts import one_step
from components.methods.parts.contract import Loss
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NFgsm:
    """Mean cross-entropy of x̃ = x + η + step, η uniform in the ball of `noise` · ε (de Jorge et al., arXiv 2202.01181,
    section 4).

    Only the pixel range is kept: x̃ lies up to `noise` · ε + `step_size` away, on purpose. In L2 the ball and the step
    are those of that norm. Published: `noise` 2, `step_size` ε, `batch_norm` train. Errors: a negative field.
    """

    step_size: Fractional
    noise: Fractional
    label_smoothing: Real
    batch_norm: Literal["eval", "train"]
    keeps_graph: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_step.require_share("step_size", self.step_size)
        one_step.require_share("noise", self.noise)

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        start = self.start(model, batch, threat, rng)
        view = one_step.look_at_start(model, batch, start, self.batch_norm, self.keeps_graph)
        return self.loss_from(model, batch, start, view, threat, rng)

    def start(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        return one_step.noisy_start(batch.images, threat, self.noise, rng)

    def loss_from(self, model: nn.Module, batch: Batch, start: Tensor, view: View, threat: Threat, rng: Rng) -> Loss:
        images_adv = self._attacked(threat, start, view.gradient, batch.images)
        return one_step.starting_from(view, self.objective(model, batch, images_adv))

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        start = self.start(model, batch, threat, rng)
        view = one_step.look_at_start(model, batch, start, self.batch_norm, self.keeps_graph)
        return self._attacked(threat, start, view.gradient, batch.images)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        return one_step.adversarial_loss(model, batch, images_adv, self.label_smoothing)[0]

    def _attacked(self, threat: Threat, start: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        reach = threat.up_to(Ratio(self.noise * threat.epsilon + self.step_size))
        step = threat.steepest_step(gradient, float(self.step_size), start)
        return reach.verify((start + step).clamp_(0, 1), images)
