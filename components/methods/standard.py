"""Empirical risk minimisation on clean images."""

from torch import nn

from components.data.batch import Batch
from components.foundation.params import Share, strict
from components.methods.parts.contract import Loss, Method
from components.numerics.losses import accuracy, cross_entropy
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class Standard:
    """The mean cross-entropy of clean images, with label smoothing."""

    label_smoothing: Share  # Share of the target that goes evenly to all classes.

    def build(self) -> "StandardMethod":
        return StandardMethod(self)


class StandardMethod(Method):
    """The objective of `Standard`."""

    fields: Standard

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        logits = model(batch.images)
        clean = cross_entropy(logits, batch.labels, self.fields.label_smoothing)
        return Loss(clean.mean(), {"train_accuracy": accuracy(logits, batch.labels)}, clean=clean)
