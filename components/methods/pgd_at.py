"""Adversarial training (Madry et al., arXiv 1706.06083, eq. 2.1)."""

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.foundation.params import STRICT, Real
from components.methods.parts.contract import Loss, Method, attacked
from components.numerics.losses import accuracy, cross_entropy


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PgdAt:
    """The mean cross-entropy of attacked images: crafted in evaluation mode, trained on in training mode.

    >>> method = PgdAt(attack=attack, label_smoothing=0).build()
    >>> method.loss(model, batch, threat, rng).total.backward()
    >>> all(parameter.grad is not None for parameter in model.parameters())
    True
    """

    attack: Pgd
    label_smoothing: Real

    def build(self) -> "PgdAtMethod":
        return PgdAtMethod(self)


class PgdAtMethod(Method):
    """The objective of `PgdAt`."""

    fields: PgdAt
    craft = attacked

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        logits = model(images_adv)
        adversarial = cross_entropy(logits, batch.labels, self.fields.label_smoothing)
        parts = {"train_adversarial_accuracy": accuracy(logits, batch.labels)}
        return Loss(adversarial.mean(), parts, adversarial=adversarial)
