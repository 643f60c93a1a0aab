"""Weights under the names of other people's code: what wraps them is taken off, and our names are put on them."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.models.parts.mobile_stages import STAGES

# What a checkpoint holds beside the weights, or a second time.
BESIDE = frozenset(
    {
        *("optimizer", "optimizer_state_dict", "optimizer_states", "optim", "opt", "opt_state"),
        *("scheduler", "lr_scheduler", "lr_schedulers", "scheduler_state_dict", "scaler", "amp", "rng_state"),
        *("criterion", "loss", "loss_fn", "loss_func", "attacker", "args", "hyper_parameters", "callbacks", "loops"),
    }
)
# What normalisation layers call their offset and their scale.
NORMALIZATIONS = (("mean", "std"), ("mu", "sigma"), ("offset", "scale"), ("new_mean", "new_std"), ("_mean", "_std"))
# A normalisation has a number for each channel, and images have at most so many.
MOST_CHANNELS = 4

State = dict[str, Tensor]


class Unwrapped(NamedTuple):
    """Weights under the names that a network gives them, and the normalisation in front of it: offsets and scales."""

    state: State
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None


def unwrap(tensors: Mapping[str, Tensor], where: str) -> Unwrapped:
    """The weights without what wraps them: `module.0.mean` and `module.1.conv1.weight` are a mean and `conv1.weight`.

    Whatever stands in front of the names of one network goes. Where none is known, all stays. Errors: two networks
    beside each other, other layers beside one, two normalisations, one that divides by zero.
    """
    state = {name: tensor for name, tensor in tensors.items() if not _is_beside(name, tensor)}
    found = []
    while normalization := _normalization(state, where):
        names, values = normalization
        state = {name: tensor for name, tensor in state.items() if name not in names}
        found.append(values)
    if any(other != found[0] for other in found):
        raise InputError(f"{where}: holds {len(found)} normalisations that differ, want one")
    return Unwrapped(_network(state, where), found[0] if found else None)


def _is_beside(name: str, tensor: Tensor) -> bool:
    """Whether it is none of a network's weights: numbers such as an epoch or an accuracy, what belongs to training."""
    counts = name.endswith("num_batches_tracked")
    return (tensor.ndim == 0 and not counts) or not BESIDE.isdisjoint(name.split("."))


def _network(state: State, where: str) -> State:
    """The weights of the one network that is known by its names; without such a one, all of them."""
    fronts = {match[1] for name in state if (match := FIRST.fullmatch(name)) and _goes_on(state, match[1])}
    if not fronts:
        return state
    if len(fronts) > 1:
        names = ", ".join(one_line(front.rstrip(".")) or "one without a prefix" for front in sorted(fronts))
        raise InputError(f"{where}: holds several networks ({names}), want one: keep its tensors alone")
    (front,) = fronts
    others = [name for name in state if not name.startswith(front)]
    if others:
        raise InputError(
            f"{where}: holds a network ({one_line(front.rstrip('.'))}) and {len(others)} tensors beside it, such as "
            f"{others[0]!r}, that may belong to the model: keep those of the network alone"
        )
    return {name.removeprefix(front): tensor for name, tensor in state.items()}


# The first layer of a network, in published code and here, with all that stands in front of its name.
FIRST = re.compile(r"((?:.*\.)?)(?:conv1|features\.0(?:\.0)?)\.weight", re.DOTALL)
NEXT = ("layer1.0.", "block1.layer.0.", "layers.0.", "head.")


def _goes_on(state: State, front: str) -> bool:
    """Whether more of a network than its first layer has this in front: the first layer of a block has not."""
    return any(name.startswith(f"{front}{part}") for name in state for part in NEXT)


def _normalization(state: State, where: str) -> tuple[set[str], tuple[tuple[float, ...], tuple[float, ...]]] | None:
    """The names of a layer that normalises and what they hold, if there is one."""
    for name, tensor in state.items():
        front, dot, last = name.rpartition(".")
        for first, second in NORMALIZATIONS:
            other = state.get(f"{front}{dot}{second}")
            if last == first and other is not None and tensor.numel() == other.numel() <= MOST_CHANNELS:
                offset, scale = (tuple(part.float().flatten().tolist()) for part in (tensor, other))
                if not all(torch.tensor([*offset, *scale]).isfinite()) or min(scale) <= 0:
                    raise InputError(
                        f"{where}: {one_line(name)} and {second} normalise by {offset} and {scale}, "
                        "want finite, above 0"
                    )
                return {name, f"{front}{dot}{second}"}, (offset, scale)
    return None


# The parts of a network outside of its blocks, and a block's layers: their names in published code, and ours.
_PREACTIVATION = (
    {"conv1": "features.0", "bn": "features.2", "bn1": "features.2", "fc": "head.linear", "linear": "head.linear"},
    {"bn1": "norm1", "bn2": "norm2", "convShortcut": "shortcut", "shortcut.0": "shortcut"},
)
_RESIDUAL = (
    {"conv1": "features.0", "bn1": "features.1", "fc": "head.linear", "linear": "head.linear"},
    {"shortcut.0": "downsample.0", "shortcut.1": "downsample.1"},
)
_MOBILE = (
    {
        "conv1": "features.0.0",
        "bn1": "features.0.1",
        "conv2": f"features.{len(STAGES) + 1}.0",
        "bn2": f"features.{len(STAGES) + 1}.1",
        "linear": "head.linear",
    },
    {
        "conv1": "expand.0",
        "bn1": "expand.1",
        "conv2": "depthwise.0",
        "bn2": "depthwise.1",
        "conv3": "project.0",
        "bn3": "project.1",
    },
)
# Architecture -> how its blocks are counted in published code, where our blocks stand, its names.
_STAGED = re.compile(r"(?:layer|block)(\d+)\.(?:layer\.)?(\d+)\.(.*)")
_SEQUENCE = re.compile(r"(layers)\.(\d+)\.(.*)")
NAMES = {
    "wide_resnet": (_STAGED, "features.1", *_PREACTIVATION),
    "preact_resnet18": (_STAGED, "features.1", *_PREACTIVATION),
    "resnet18": (_STAGED, "features.3", *_RESIDUAL),
    "resnet56": (_STAGED, "features.3", *_RESIDUAL),
    "mobilenet_v2": (_SEQUENCE, "features", *_MOBILE),
}
# Architectures whose networks another library builds: its names are those of the weights.
LIBRARIES = ("timm", "torchvision")
# A stage that the code of TRADES builds and never runs.
UNUSED = "sub_block1."


def own_names(state: State, architecture: Mapping[str, Any], where: str) -> tuple[State, dict[str, Any]]:
    """The weights under our names, and the architecture, if they have the names of published code for it.

    WideResNet of TRADES, MART, AWP and RobustBench (`block1.layer.0.conv1`), PreActResNet-18 of fast_adversarial, Rice
    and AWP and residual networks of CIFAR code and torchvision (`layer1.0.conv1`), MobileNet-v2 of CIFAR code
    (`layers.0.conv1`), which is its `cifar` form; networks of timm and torchvision. Any other state dict stays as
    it is. Error: two tensors of one name, such as those of `fc` and `linear`.
    """
    name = str(architecture.get("name"))
    known = NAMES.get(name)
    if name in LIBRARIES:
        return _within(state), dict(architecture)
    if known is None or "conv1.weight" not in state or not any(known[0].fullmatch(key) for key in state):
        return state, dict(architecture)
    pattern, blocks, outer, inner = known
    used = {key: tensor for key, tensor in state.items() if not key.startswith(UNUSED)}
    matches = [match for key in used if (match := pattern.fullmatch(key))]
    places = sorted({(match[1], int(match[2])) for match in matches})
    numbers = _mobile_numbers() if name == "mobilenet_v2" else [str(number) for number in range(len(places))]
    known_as: dict[str, str] = {}
    for key in used:
        if match := pattern.fullmatch(key):
            place = places.index((match[1], int(match[2])))
            number = numbers[place] if place < len(numbers) else f"{place}"
            own = f"{blocks}.{number}.{_renamed(match[3], inner)}"
        else:
            own = _renamed(key, outer)
        if known_as.setdefault(own, key) != key:
            raise InputError(f"{where}: {known_as[own]!r} and {key!r} are both {own}, want one of them")
    form = {"form": "cifar"} if name == "mobilenet_v2" else {}
    return {own: used[key] for own, key in known_as.items()}, {**architecture, **form}


def _within(state: State) -> State:
    """The weights of a library's network, with nothing in front of their names but our name of the network."""
    for front in ("module.", "state_dict.", "model.", "network."):
        if state and all(name.startswith(front) for name in state):
            state = {name.removeprefix(front): tensor for name, tensor in state.items()}
    return {f"network.{name}": tensor for name, tensor in state.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """A tensor's name with another name of its layer: `bn1.weight` becomes `norm1.weight`."""
    layer, _, last = name.rpartition(".")
    return f"{names.get(layer, layer)}.{last}"


def _mobile_numbers() -> list[str]:
    """Where our MobileNet-v2 keeps its blocks, in order: stage, counted from 1, and block."""
    return [f"{stage}.{block}" for stage, (_, _, count, _) in enumerate(STAGES, 1) for block in range(count)]
