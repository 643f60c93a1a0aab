"""TRADES: clean accuracy plus smoothness around each image (Zhang et al., arXiv 1901.08573, eq. 5)."""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.parts.ascent import Start, ascend, eval_mode, start_point
from components.data.batch import Batch
from components.foundation.params import STRICT, Fractional, Real
from components.methods.parts.contract import Loss, Method
from components.numerics.losses import accuracy, cross_entropy, kl_divergence
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Trades:
    """CE(f(x), y) + beta · KL(p(x) ‖ p(x̃)), both averaged over the batch; x̃ climbs that same divergence."""

    beta: Real
    steps: int
    step_size: Fractional
    start: Start
    label_smoothing: Real

    def __post_init__(self) -> None:
        # At x itself the divergence is at its minimum, so its gradient is zero and the attack would never leave.
        if self.start == "zero":
            raise ValueError(
                "got start 'zero', want 'gaussian' or 'uniform': the divergence has no gradient at the image"
            )

    def build(self) -> "TradesMethod":
        return TradesMethod(self)


class TradesMethod(Method):
    """The objective of `Trades`."""

    fields: Trades

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        logits, logits_adv = model(batch.images), model(images_adv)
        clean = cross_entropy(logits, batch.labels, self.fields.label_smoothing)
        # Gradient flows through both sides, as in the paper's code.
        smoothness = kl_divergence(logits, logits_adv, "batch_mean")
        parts = {
            "loss_clean": clean.detach().mean(),
            "loss_smoothness": smoothness.detach(),
            "train_accuracy": accuracy(logits, batch.labels),
            "train_adversarial_accuracy": accuracy(logits_adv, batch.labels),
        }
        return Loss(
            clean.mean() + self.fields.beta * smoothness,
            parts,
            adversarial=cross_entropy(logits_adv, batch.labels, self.fields.label_smoothing),
            clean=clean,
        )

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        images = batch.images
        with eval_mode(model), torch.no_grad():
            target = model(images)
        start = start_point(self.fields.start, images, threat, rng)
        return ascend(
            model,
            images,
            start,
            lambda logits: kl_divergence(target, logits, "none"),
            threat,
            float(self.fields.step_size),
            self.fields.steps,
        )
