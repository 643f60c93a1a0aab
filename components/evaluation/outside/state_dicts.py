"""Weights under the names of other people's code: what wraps them is taken off, and our names are put on them."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.models.mobilenet_v2 import STAGES

# What stands in front of all names: checkpoints' own keys, nn.DataParallel, Lightning, torch.compile, averages of
# weights, robustness libraries.
WRAPPERS = frozenset(
    {
        "model",
        "module",
        "net",
        "network",
        "backbone",
        "_orig_mod",
        "state_dict",
        "model_state_dict",
        "model_state",
        "net_state_dict",
        "ema",
        "model_ema",
        "ema_model",
        "ema_state_dict",
        "state_dict_ema",
        "swa_model",
        "averaged_model",
        "classifier_model",
        "base_model",
    }
)
# What a checkpoint holds beside the weights, or a second time.
BESIDE = frozenset(
    {
        "optimizer",
        "optimizer_state_dict",
        "optim",
        "opt",
        "opt_state",
        "scheduler",
        "lr_scheduler",
        "scheduler_state_dict",
        "scaler",
        "amp",
        "epoch",
        "step",
        "iteration",
        "acc",
        "best_acc",
        "n_averaged",
        "num_averaged",
        "updates",
        "attacker",
        "args",
        "rng_state",
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

    Errors: two networks beside each other, two normalisations, one that divides by zero.
    """
    state, found = dict(tensors), []
    while state:
        state, normalization = _without_normalization(state, where)
        found += [normalization] if normalization else []
        groups: dict[str, State] = {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            groups.setdefault(first, {})[rest] = tensor
        if len(groups) > 1 and groups.keys() & BESIDE:
            state = {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in BESIDE}
            continue
        wrappers = sorted(first for first in groups if first in WRAPPERS)
        if len(wrappers) > 1:
            raise InputError(
                f"{where}: holds several networks ({', '.join(wrappers)}), want one: keep its tensors alone"
            )
        (first, *others) = groups
        # `1.` is what an nn.Sequential calls the network behind its normalisation.
        if others or "" in groups[first] or not (first in WRAPPERS or (first.isdecimal() and found)):
            break
        state = groups[first]
    if any(other != found[0] for other in found):
        raise InputError(f"{where}: holds {len(found)} normalisations that differ, want one")
    return Unwrapped(state, found[0] if found else None)


def _without_normalization(
    state: State, where: str
) -> tuple[State, tuple[tuple[float, ...], tuple[float, ...]] | None]:
    """The state dict without a layer that normalises, and what that one holds."""
    for name, tensor in state.items():
        front, dot, last = name.rpartition(".")
        for first, second in NORMALIZATIONS:
            other = state.get(f"{front}{dot}{second}")
            if last == first and other is not None and tensor.numel() == other.numel() <= MOST_CHANNELS:
                offset, scale = (tuple(part.float().flatten().tolist()) for part in (tensor, other))
                if not all(torch.tensor([*offset, *scale]).isfinite()) or min(scale) <= 0:
                    raise InputError(
                        f"{where}: {name} and {second} normalise by {offset} and {scale}, want finite, above 0"
                    )
                names = {name, f"{front}{dot}{second}"}
                return {key: value for key, value in state.items() if key not in names}, (offset, scale)
    return state, None


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
# A stage that the code of TRADES builds and never runs.
UNUSED = "sub_block1."


def own_names(state: State, architecture: Mapping[str, Any]) -> tuple[State, dict[str, Any]]:
    """The weights under our names, and the architecture, if they have the names of published code for it.

    WideResNet of TRADES, MART, AWP and RobustBench (`block1.layer.0.conv1`), PreActResNet-18 of fast_adversarial, Rice
    and AWP and residual networks of CIFAR code and torchvision (`layer1.0.conv1`), MobileNet-v2 of CIFAR code
    (`layers.0.conv1`), which is its `cifar` form. Any other state dict stays as it is.
    """
    name = str(architecture.get("name"))
    known = NAMES.get(name)
    if known is None or "conv1.weight" not in state or not any(known[0].fullmatch(key) for key in state):
        return state, dict(architecture)
    pattern, blocks, outer, inner = known
    used = {key: tensor for key, tensor in state.items() if not key.startswith(UNUSED)}
    matches = [match for key in used if (match := pattern.fullmatch(key))]
    places = sorted({(match[1], int(match[2])) for match in matches})
    numbers = _mobile_numbers() if name == "mobilenet_v2" else [str(number) for number in range(len(places))]
    found = {}
    for key, tensor in used.items():
        if match := pattern.fullmatch(key):
            place = places.index((match[1], int(match[2])))
            number = numbers[place] if place < len(numbers) else f"{place}"
            found[f"{blocks}.{number}.{_renamed(match[3], inner)}"] = tensor
        else:
            found[_renamed(key, outer)] = tensor
    form = {"form": "cifar"} if name == "mobilenet_v2" else {}
    return found, {**architecture, **form}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """A tensor's name with another name of its layer: `bn1.weight` becomes `norm1.weight`."""
    layer, _, last = name.rpartition(".")
    return f"{names.get(layer, layer)}.{last}"


def _mobile_numbers() -> list[str]:
    """Where our MobileNet-v2 keeps its blocks, in order: stage, counted from 1, and block."""
    return [f"{stage}.{block}" for stage, (_, _, count, _) in enumerate(STAGES, 1) for block in range(count)]
