"""The state of a training run, and the file it continues from: all that the next step depends on, without pickle."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.memory import lack_of_memory
from components.foundation.storage import replacing
from components.methods.parts.contract import Method
from components.models.parts.averaging import Average
from components.numerics import parallel
from components.numerics.tensor_files import read_metadata, read_tensors, write_tensors
from components.optimizers.parts.optimizer import Optimizer
from components.training.capture import Capture
from components.training.layers import Layers, by_layer, groups_of, layer_of, trained_parameters
from components.training.sentinel.watch import Watch

# The numbers of a state that stand in its file as they are.
KEPT = ("best_epoch", "best_score", "seconds", "good_epoch", "good_best")


class Measure(Protocol):
    """The model after an epoch -> named numbers, among them the one that selects the best epoch; and what the next
    answers depend on."""

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@dataclass
class TrainingState:
    """Model, optimizer, generator, averages, history and the best epoch so far.

    `history` holds one record per finished epoch; the first is of the untrained model, epoch 0. `watch` is the
    overfitting sentinel, if there is one; `good_epoch` the last it would go back to, `good_best` the best one by then.
    `capture` computes the steps, and is in no checkpoint. `layers` says how the optimizer tells layers apart, if it
    does.
    """

    model: nn.Module
    optimizer: Optimizer
    rng: torch.Generator
    method: Method
    measure: Measure
    average: Average | None = None
    layers: Layers | None = None
    watch: Watch | None = None
    capture: Capture = field(default_factory=Capture)
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
                partial.unlink()  # a link is not made over a file
                os.link(_good_file(folder, epoch), partial)
        else:
            write_tensors(path, self._tensors(), self._numbers())
        # Only now are older files out of use: a kill between the writes must find them.
        used = {_best_file(folder, self.best_epoch), _good_file(folder, self.good_epoch)}
        if self.watch is not None:
            used.add(_best_file(folder, self.good_best))
        for stale in {*folder.glob("best-*.safetensors"), *folder.glob("good-*.safetensors")} - used:
            stale.unlink()

    def load(self, folder: Path) -> None:
        """Continues from `folder` if it holds a checkpoint. Errors: a truncated or foreign file."""
        path = folder / "checkpoint.safetensors"
        found = parallel.total(path.exists())[0]
        if found not in (0, parallel.world_size()):
            raise InputError(f"{path}: {found} of {parallel.world_size()} processes see it, want a disk that all share")
        if found:
            self._read(path, {})

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
            if lack_of_memory(error):
                raise
            raise InputError(f"{path}: does not fit this run, remove it to start anew: {error}") from None

    def best_weights(self, folder: Path) -> dict[str, Tensor]:
        """The published weights of the best epoch so far, from `folder`."""
        return read_tensors(_best_file(folder, self.best_epoch))[0]

    def _tensors(self) -> dict[str, Tensor]:
        groups = {
            "model": self.model.state_dict(),
            "average": {} if self.average is None else self.average.model.state_dict(),
            "optimizer": self.optimizer.state(trained_parameters(self.model, self.method)),
            "method": by_layer(self.method, self.method.state_dict()),
            "measure": self.measure.state_dict(),
            "rng": {"generator": self.rng.get_state(), "global": torch.get_rng_state()},
        }
        if torch.cuda.is_available():
            groups["rng"]["cuda"] = torch.cuda.get_rng_state()
        return {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}

    def _numbers(self) -> dict[str, Any]:
        return {
            # As pairs: metadata is written with sorted keys, but the order of a record is that of the curve's columns.
            "history": [list(record.items()) for record in self.history],
            **{name: getattr(self, name) for name in KEPT},
            "passes": self.passes,
            "average_updates": 0 if self.average is None else self.average.updates,
            "watch": None if self.watch is None else self.watch.numbers(),
            "layers": list(self.method.layers()),
        }

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
        self.optimizer.load(trained_parameters(self.model, self.method), groups.get("optimizer", {}))
        self._remember(groups.get("method", {}), numbers["layers"])
        self.measure.load_state_dict(groups.get("measure", {}))
        self.rng.set_state(groups["rng"]["generator"])
        torch.set_rng_state(groups["rng"]["global"])
        if "cuda" in groups["rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(groups["rng"]["cuda"])
        self.history = [dict(pairs) for pairs in numbers["history"]]
        self.passes |= numbers["passes"]
        for name in KEPT:
            setattr(self, name, numbers[name])

    def _remember(self, tensors: dict[str, Tensor], layers: list[str]) -> None:
        """Gives the method what a checkpoint holds of its layers; one that was not there yet begins anew."""
        prefixes = self.method.layers()
        state = {n: t for n, t in self.method.state_dict().items() if layer_of(prefixes, n)[0] not in layers}
        for name, tensor in tensors.items():
            kind, own = name.split(".", 1)
            if kind in prefixes:
                state[f"{prefixes[kind]}{own}"] = tensor
        self.method.load_state_dict(state)

    def _adopt(self, method: Method) -> None:
        """Takes a method in the place of the one so far; its companions in those of the other too."""
        self.method = method.to(next(self.model.parameters()).device)
        self.optimizer.regroup(groups_of(self.model, method, self.layers))


def saved_epoch(folder: Path) -> int | None:
    """The epoch after which the checkpoint in `folder` was written, or None where there is none."""
    path = folder / "checkpoint.safetensors"
    return int(dict(read_metadata(path)["history"][-1])["epoch"]) if path.exists() else None


def _best_file(folder: Path, epoch: int) -> Path:
    return folder / f"best-{epoch:04d}.safetensors"


def _good_file(folder: Path, epoch: int) -> Path:
    return folder / f"good-{epoch:04d}.safetensors"
