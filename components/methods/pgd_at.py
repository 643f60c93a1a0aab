"""Adversarial training (Madry et al., arXiv 1706.06083, eq. 2.1)."""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.contracts import Loss, accuracy
from components.losses import cross_entropy
from components.params import STRICT, Real
from components.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PgdAt:
    """The mean cross-entropy of attacked images: crafted in evaluation mode, trained on in training mode."""

    attack: Pgd
    label_smoothing: Real

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Loss:
        images_adv = self.attack(model, images, labels, threat, rng)
        logits = model(images_adv)
        total = cross_entropy(logits, labels, self.label_smoothing).mean()
        return Loss(total, {"train_adversarial_accuracy": accuracy(logits, labels)})
