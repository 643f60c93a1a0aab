"""What a training tells a person, line by line, and what it publishes of itself."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from components.models.parts.blocks import blocks_of
from components.training.checkpoint import TrainingState
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


def seen(state: TrainingState) -> dict[str, Any]:
    """What the sentinel saw and did, all of it, epochs that were given up too; empty lists without one."""
    watch = state.watch
    return {"events": [], "looks": []} if watch is None else {"events": watch.events, "looks": watch.rows}


def metrics_of(state: TrainingState) -> dict[str, Any]:
    """What is published of a finished training: its best and its last epoch, its passes and its size."""
    by_epoch = {int(record["epoch"]): record for record in state.history}
    accuracies = ("clean_accuracy", "robust_accuracy", "mean_accuracy")
    rows = {"best": by_epoch[state.best_epoch], "last": state.history[-1]}
    chosen = {k: {"epoch": int(r["epoch"])} | {name: r[name] for name in accuracies} for k, r in rows.items()}
    return chosen | {"passes": state.passes, "num_parameters": sum(p.numel() for p in state.model.parameters())}
