"""Empirical risk minimisation on clean images."""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.contracts import Loss, accuracy
from components.losses import cross_entropy
from components.params import STRICT, Real
from components.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Standard:
    """The mean cross-entropy of clean images, with label smoothing."""

    label_smoothing: Real

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Loss:
        logits = model(images)
        total = cross_entropy(logits, labels, self.label_smoothing).mean()
        return Loss(total, {"train_accuracy": accuracy(logits, labels)})
