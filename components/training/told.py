"""What a training tells a person, line by line."""

from collections.abc import Mapping

from torch import nn

from components.models.parts.blocks import blocks_of
from components.training.layers import Layers


def progress(record: Mapping[str, float], epochs: int, seconds: float) -> str:
    """One line on an epoch: how far, how good on validation, how much longer."""
    epoch = int(record["epoch"])
    accuracies = f"validation clean {record['clean_accuracy']:6.1%}  robust {record['robust_accuracy']:6.1%}"
    if not epoch:
        return f"epoch {epoch:3d}/{epochs}  (untrained)   {accuracies}"
    left = seconds / (epoch + 1) * (epochs - epoch)
    return f"epoch {epoch:3d}/{epochs}  loss {record['train_loss']:8.4f}  {accuracies}  {left:5.0f} s left"


def rates(model: nn.Module, layers: Layers | None) -> list[str]:
    """A line on layers that learn at rates of their own, or wait; none where all are alike."""
    if layers is None:
        return []
    count, said = len(blocks_of(model)), list[str]()
    if layers.decay < 1:
        said.append(
            f"{count} blocks, of which the first has {layers.decay ** (count - 1):.2g} of the head's learning rate"
        )
    if layers.frozen_epochs:
        said.append(f"the head alone moves until epoch {layers.frozen_epochs}")
    return ["layers: " + "; ".join(said)] if said else []
