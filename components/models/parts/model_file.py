"""A model as one safetensors file: its weights, and a card from which it can be built and traced. No pickle."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from components.data.normalization import Normalization
from components.data.splits import Splits
from components.foundation.errors import InputError
from components.foundation.params import flat, member, strict, typed
from components.foundation.storage import told_of
from components.models import MODELS
from components.numerics.tensor_files import read_tensors, write_tensors


@strict
class ModelCard:
    """What a model file says about its weights.

    `architecture` is the section of params.yaml, `{name: …, …}`; `image_shape` is (channels, height, width); `epoch`
    counts the finished epochs of `stage`; `upstream` maps a name such as `clean_teacher` to that file's SHA-256.
    """

    architecture: dict[str, Any]
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    normalization: Normalization
    stage: str
    epoch: int
    upstream: dict[str, str]


def save_model(path: Path | str, state: Mapping[str, Tensor], card: ModelCard) -> None:
    """Writes a model's state dict and its card, atomically; equal content gives equal bytes."""
    write_tensors(path, state, TypeAdapter(ModelCard).dump_python(card, mode="json"))


def load_model(path: Path | str, device: torch.device | str = "cpu") -> tuple[nn.Module, ModelCard]:
    """The model of a file, in evaluation mode on `device`, and its card.

    Draws no random numbers. Errors: missing, truncated or foreign file, no or a wrong card, an unknown architecture,
    weights that do not fit the card.
    """
    tensors, metadata = read_tensors(path)
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: no model card in the file (want a file that a training stage wrote)")
    card = typed(ModelCard, metadata, f"{path}: model card")
    _require_sizes(card, f"{path}: model card")
    return assemble(card, tensors, path).to(device), card


def _require_sizes(card: ModelCard, where: str) -> None:
    if min(card.image_shape) < 1 or len(card.classes) < 2:
        shape = f"{len(card.classes)} classes of {card.image_shape} images"
        raise InputError(f"{where}: got {shape}, want at least 2 and every size at least 1")
    card.normalization.require_channels(card.image_shape[0], f"{where}: normalization")


def load_frozen(path: Path, splits: Splits, device: torch.device) -> tuple[nn.Module, ModelCard]:
    """The model of a file, frozen, in evaluation mode, and its card. Errors: made for other classes or images."""
    model, card = load_model(path, device)
    if (card.classes, card.image_shape) != (splits.classes, splits.image_shape):
        raise InputError(
            f"{path}: made for {len(card.classes)} classes of {card.image_shape} images, "
            f"but the data has {len(splits.classes)} of {splits.image_shape}"
        )
    frozen = model.requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return frozen, card


def assemble(card: ModelCard, tensors: Mapping[str, Tensor], path: Path | str) -> nn.Module:
    """The model that a card describes, with these weights, in evaluation mode. Error: weights that do not fit."""
    architecture = member(MODELS, card.architecture, f"{path}: architecture")
    # Without random numbers for weights that are replaced at once, and without memory for our own.
    cheaply = torch.random.fork_rng(devices=[]) if hasattr(architecture, "library") else torch.device("meta")
    with told_of(path, "no such model can be built"), cheaply:
        model = architecture.build(len(card.classes), card.image_shape, card.normalization)
    _require_fit(model.state_dict(), tensors, path)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def require_same_architecture(card: ModelCard, architecture: Mapping[str, Any], where: str) -> None:
    """Refuses weights of another architecture, as a warm start needs.

    Args:
        card: of the file that holds the weights.
        architecture: the section of params.yaml that wants them.
        where: file and key of that section, for the message, which names the first field that differs.
    """
    ours, theirs = _flat(architecture, where), _flat(card.architecture, "model card: architecture")
    for field in ours | theirs:
        wanted, start = ours.get(field), theirs.get(field)
        if wanted != start:
            raise InputError(f"{where}.{field}: got {wanted!r}, but the {card.stage} model to start from has {start!r}")


def _flat(architecture: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Name and typed fields, `batch_norm.momentum` for a nested one, so that 1, 1.0 and `1e0` are the same."""
    return flat({"name": architecture.get("name"), **asdict(member(MODELS, architecture, where))})


def _require_fit(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path | str) -> None:
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    forms = {name: (_form(tensors[name]), _form(expected[name])) for name in sorted(expected.keys() & tensors.keys())}
    problems += [f"{name} is {got}, want {want}" for name, (got, want) in forms.items() if got != want]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        wanted = f"; wanted {len(expected)} tensors: {', '.join(list(expected)[:3])}, …"
        raise InputError(f"{path}: weights do not fit the model card: {problems[0]}{more}{wanted}")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
