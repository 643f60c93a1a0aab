"""The state of a training run, and the file it continues from: all that the next step depends on, without pickle."""

from collections.abc import ItemsView
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.averaging import Average
from components.contracts import Companioned, Measure, Method, Stateful
from components.errors import InputError
from components.storage import read_tensors, write_tensors


@dataclass
class TrainingState:
    """Model, optimizer, generator, averages, history and the best epoch so far.

    `method` and `measure` take part in checkpoints when they have a state of their own (`Stateful`).
    `history` holds one record per finished epoch; the first is of the untrained model, epoch 0.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rng: torch.Generator
    method: Method
    measure: Measure
    average: Average | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -1.0
    passes: dict[str, int] = field(default_factory=lambda: {"forward": 0, "backward": 0})
    seconds: float = 0.0

    @property
    def published(self) -> nn.Module:
        """The model that is evaluated and published: the average where there is one."""
        return self.model if self.average is None else self.average.model

    def save(self, folder: Path) -> None:
        """Writes `folder/checkpoint.safetensors`, and the published weights too if this epoch is the best."""
        epoch = int(self.history[-1]["epoch"])
        if self.best_epoch == epoch:
            write_tensors(_best_file(folder, epoch), self.published.state_dict())
        write_tensors(folder / "checkpoint.safetensors", self._tensors(), self._numbers())
        # Only now is the older best out of use: a kill between the two writes must find it.
        for stale in set(folder.glob("best-*.safetensors")) - {_best_file(folder, self.best_epoch)}:
            stale.unlink()

    def load(self, folder: Path) -> bool:
        """Continues from `folder` if it holds a checkpoint; whether it did. Errors: a truncated or foreign file."""
        path = folder / "checkpoint.safetensors"
        if not path.exists():
            return False
        tensors, numbers = read_tensors(path)
        try:
            self._restore(tensors, numbers)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{path}: does not fit this run, remove it to start anew: {error}") from None
        return True

    def best_weights(self, folder: Path) -> dict[str, Tensor]:
        """The published weights of the best epoch so far, from `folder`."""
        return read_tensors(_best_file(folder, self.best_epoch))[0]

    def _tensors(self) -> dict[str, Tensor]:
        groups = {
            "model": self.model.state_dict(),
            "average": {} if self.average is None else self.average.model.state_dict(),
            "momentum": self._momentum(),
            "method": self.method.state_dict() if isinstance(self.method, Stateful) else {},
            "measure": self.measure.state_dict() if isinstance(self.measure, Stateful) else {},
            "rng": {"generator": self.rng.get_state(), "global": torch.get_rng_state()},
        }
        if torch.cuda.is_available():
            groups["rng"]["cuda"] = torch.cuda.get_rng_state()
        return {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}

    def _numbers(self) -> dict[str, Any]:
        return {
            # As pairs: metadata is written with sorted keys, but the order of a record is that of the curve's columns.
            "history": [list(record.items()) for record in self.history],
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "passes": self.passes,
            "seconds": self.seconds,
            "average_updates": 0 if self.average is None else self.average.updates,
        }

    def _momentum(self) -> dict[str, Tensor]:
        buffers = ((name, self.optimizer.state[p].get("momentum_buffer")) for name, p in self._trained())
        return {name: buffer for name, buffer in buffers if buffer is not None}

    def _trained(self) -> ItemsView[str, nn.Parameter]:
        return trained_parameters(self.model, self.method).items()

    def _restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = tensor
        self.model.load_state_dict(groups["model"])
        if self.average is not None:
            self.average.model.load_state_dict(groups["average"])
            self.average.updates = numbers["average_updates"]
        for name, parameter in self._trained():
            if name in groups.get("momentum", {}):
                self.optimizer.state[parameter]["momentum_buffer"] = groups["momentum"][name].to(parameter)
        for group, owner in (("method", self.method), ("measure", self.measure)):
            if isinstance(owner, Stateful):
                owner.load_state_dict(groups.get(group, {}))
        self.rng.set_state(groups["rng"]["generator"])
        torch.set_rng_state(groups["rng"]["global"])
        if "cuda" in groups["rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(groups["rng"]["cuda"])
        self.history = [dict(pairs) for pairs in numbers["history"]]
        self.passes |= numbers["passes"]
        for name in ("best_epoch", "best_score", "seconds"):
            setattr(self, name, numbers[name])


def trained_parameters(model: nn.Module, method: Method) -> dict[str, nn.Parameter]:
    """What one optimizer moves, by name: the model's parameters, and those of the method's companion."""
    companion = method.companion.named_parameters("companion") if isinstance(method, Companioned) else ()
    return {**dict(model.named_parameters()), **dict(companion)}


def _best_file(folder: Path, epoch: int) -> Path:
    return folder / f"best-{epoch:04d}.safetensors"
