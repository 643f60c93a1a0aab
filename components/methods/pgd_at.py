"""Adversarial training (Madry et al., arXiv 1706.06083, eq. 2.1)."""

from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.foundation.params import Share, strict
from components.methods.parts.contract import Attacked, Loss, Method
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.one_step import adversarial_loss


@strict
class PgdAt:
    """The mean cross-entropy of attacked images: crafted in evaluation mode, trained on in training mode.

    >>> method = PgdAt(attack=attack, label_smoothing=0).build()
    >>> method.loss(model, batch, threat, rng).total.backward()
    >>> all(parameter.grad is not None for parameter in model.parameters())
    True
    """

    attack: Pgd  # How the images to train on are attacked.
    label_smoothing: Share  # Share of the target that goes evenly to all classes.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def build(self) -> Method:
        return Attacked(self)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        """The loss of attacked images."""
        return adversarial_loss(model, batch, images_adv, self.label_smoothing)[0]
