"""FGSM with a random start: one step of adversarial training for little more than clean training's price."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.parts.ascent import View
from components.data.batch import Batch
from components.foundation.params import STRICT, Fractional, Real
from components.methods.parts import one_step
from components.methods.parts.contract import Loss
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FgsmRs:
    """Mean cross-entropy of x̃ = Π(x + η + step), η uniform in the ball of `noise` · ε (Wong et al., arXiv 2001.03994,
    algorithm 3).

    Published: `noise` 1, `step_size` 1.25 ε, and `batch_norm` train: the crafting pass normalises with the batch's own
    statistics and counts among those that the running ones are averaged from. Errors: `noise` outside [0, 1].
    """

    step_size: Fractional
    noise: Fractional
    label_smoothing: Real
    batch_norm: Literal["eval", "train"]
    keeps_graph: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_step.require_share("step_size", self.step_size)
        one_step.require_share("noise", self.noise, most=1)

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        start = self.start(model, batch, threat, rng)
        view = one_step.look_at_start(model, batch, start, self.batch_norm, self.keeps_graph)
        return self.loss_from(model, batch, start, view, threat, rng)

    def start(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        return one_step.noisy_start(batch.images, threat, self.noise, rng)

    def loss_from(self, model: nn.Module, batch: Batch, start: Tensor, view: View, threat: Threat, rng: Rng) -> Loss:
        images_adv = one_step.attacked(threat, start, view.gradient, float(self.step_size), batch.images)
        return one_step.starting_from(view, self.objective(model, batch, images_adv))

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        start = self.start(model, batch, threat, rng)
        gradient = one_step.look_at_start(model, batch, start, self.batch_norm, self.keeps_graph).gradient
        return one_step.attacked(threat, start, gradient, float(self.step_size), batch.images)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        return one_step.adversarial_loss(model, batch, images_adv, self.label_smoothing)[0]
