"""The state of a training run, and the file it continues from: all that the next step depends on, without pickle."""

import os
from collections.abc import ItemsView, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.storage import replacing
from components.methods.parts.contract import Companioned, Method, Stateful
from components.models.parts.averaging import Average
from components.numerics import parallel
from components.numerics.tensor_files import read_metadata, read_tensors, write_tensors
from components.training.sentinel.watch import Watch


class Measure(Protocol):
    """The model after an epoch -> named numbers, among them the one that selects the best epoch."""

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]: ...


@dataclass
class TrainingState:
    """Model, optimizer, generator, averages, history and the best epoch so far.

    `method` and `measure` take part in checkpoints when they have a state of their own (`Stateful`).
    `history` holds one record per finished epoch; the first is of the untrained model, epoch 0. `watch` is the
    overfitting sentinel, if there is one; `good_epoch` the last it would go back to, `good_best` the best one by then.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rng: torch.Generator
    method: Method
    measure: Measure
    average: Average | None = None
    watch: Watch | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -1.0
    good_epoch: int = 0
    good_best: int = 0
    passes: dict[str, int] = field(default_factory=lambda: {"forward": 0, "backward": 0})
    seconds: float = 0.0

    @property
    def published(self) -> nn.Module:
        """The model that is evaluated and published: the average where there is one."""
        return self.model if self.average is None else self.average.model

    def save(self, folder: Path) -> None:
        """Writes `folder/checkpoint.safetensors`, and the published weights too if this epoch is the best.

        Of processes that train together only the first writes: all have the same state.
        """
        epoch = int(self.history[-1]["epoch"])
        good = self.watch is not None and self.watch.good
        if good:
            self.good_epoch, self.good_best = epoch, self.best_epoch
        if parallel.rank() == 0:
            self._write(folder, epoch, good)

    def _write(self, folder: Path, epoch: int, good: bool) -> None:
        if self.best_epoch == epoch:
            write_tensors(_best_file(folder, epoch), self.published.state_dict())
        path = folder / "checkpoint.safetensors"
        if good:
            write_tensors(_good_file(folder, epoch), self._tensors(), self._numbers())
            with replacing(path) as partial:
                os.link(_good_file(folder, epoch), partial)
        else:
            write_tensors(path, self._tensors(), self._numbers())
        # Only now are older files out of use: a kill between the writes must find them.
        used = {_best_file(folder, self.best_epoch), _good_file(folder, self.good_epoch)}
        if self.watch is not None:
            used.add(_best_file(folder, self.good_best))
        for stale in {*folder.glob("best-*.safetensors"), *folder.glob("good-*.safetensors")} - used:
            stale.unlink()

    def load(self, folder: Path) -> bool:
        """Continues from `folder` if it holds a checkpoint; whether it did. Errors: a truncated or foreign file."""
        path = folder / "checkpoint.safetensors"
        found = parallel.total(path.exists())[0]
        if found not in (0, parallel.world_size()):
            raise InputError(f"{path}: {found} of {parallel.world_size()} processes see it, want a disk that all share")
        if not found:
            return False
        self._read(path, {})
        return True

    def give_up_epoch(self, folder: Path) -> None:
        """Goes back to the end of the epoch that the sentinel chooses, with the method that it chooses.

        What has been spent and seen stays spent and seen. Error: the method changed into one that cannot go on from
        the other's memory.
        """
        assert self.watch is not None, "only the sentinel gives epochs up"
        last = int(self.history[-1]["epoch"])
        epoch = self.watch.act(last, self.good_epoch)
        path = folder / "checkpoint.safetensors" if epoch == last else _good_file(folder, epoch)
        self._read(path, {"passes": dict(self.passes), "seconds": self.seconds, "watch": self.watch.numbers()})
        self.save(folder)

    def _read(self, path: Path, kept: dict[str, Any]) -> None:
        tensors, numbers = read_tensors(path)
        try:
            self._restore(tensors, numbers | kept)
            parallel.wait()  # until all have read what the first one may write next
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{path}: does not fit this run, remove it to start anew: {error}") from None

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
            "good_epoch": self.good_epoch,
            "good_best": self.good_best,
            "watch": None if self.watch is None else self.watch.numbers(),
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
        if self.watch is not None:
            self.watch.load(numbers["watch"])
            method = self.watch.method()
            self._adopt(self.method if method is None else method)
        self.model.load_state_dict(groups["model"])
        if self.average is not None:
            self.average.model.load_state_dict(groups["average"])
            self.average.updates = numbers["average_updates"]
        for name, parameter in self._trained():
            if name in groups.get("momentum", {}):
                self.optimizer.state[parameter]["momentum_buffer"] = groups["momentum"][name].to(parameter)
        if isinstance(self.method, Stateful):
            self.method.load_state_dict(_fitting(self.method, groups.get("method", {})))
        if isinstance(self.measure, Stateful):
            self.measure.load_state_dict(groups.get("measure", {}))
        self.rng.set_state(groups["rng"]["generator"])
        torch.set_rng_state(groups["rng"]["global"])
        if "cuda" in groups["rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(groups["rng"]["cuda"])
        self.history = [dict(pairs) for pairs in numbers["history"]]
        self.passes |= numbers["passes"]
        for name in ("best_epoch", "best_score", "seconds", "good_epoch", "good_best"):
            setattr(self, name, numbers[name])

    def _adopt(self, method: Method) -> None:
        """Takes a method in the place of the one so far; its companion, if it has one, in the other's too."""
        self.method = method
        self.optimizer.param_groups[0]["params"] = list(trained_parameters(self.model, method).values())
        # What is not in a checkpoint was not there yet.
        self.optimizer.state.clear()


def saved_epoch(folder: Path) -> int | None:
    """The epoch after which the checkpoint in `folder` was written, or None where there is none."""
    path = folder / "checkpoint.safetensors"
    return int(dict(read_metadata(path)["history"][-1])["epoch"]) if path.exists() else None


def trained_parameters(model: nn.Module, method: Method) -> dict[str, nn.Parameter]:
    """What one optimizer moves, by name: the model's parameters, and those of the method's companion."""
    companion = method.companion.named_parameters("companion") if isinstance(method, Companioned) else ()
    return {**dict(model.named_parameters()), **dict(companion)}


def _best_file(folder: Path, epoch: int) -> Path:
    return folder / f"best-{epoch:04d}.safetensors"


def _good_file(folder: Path, epoch: int) -> Path:
    return folder / f"good-{epoch:04d}.safetensors"


def _fitting(method: Stateful, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` for a method, also if the method has since been wrapped or unwrapped: a wrapper puts its own name and a
    dot before the names of what it wraps. What is not remembered is as in a new method."""
    fresh = method.state_dict()
    if fresh.keys() <= state.keys():
        return dict(state)
    found = dict(fresh)
    for name, tensor in fresh.items():
        for old, remembered in state.items():
            same = name == old or name.endswith(f".{old}") or old.endswith(f".{name}")
            if same and remembered.shape == tensor.shape:
                found[name] = remembered
    return found
