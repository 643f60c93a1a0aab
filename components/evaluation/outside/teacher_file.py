"""A teacher's file in models/teachers/: a network of ours with its card, or a program with its weights, no pickle.

`fetch_teachers` writes either as safetensors, and `distill_student` reads both alike.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from components.data.splits import Splits
from components.evaluation.outside.program_files import ProgramParts, built
from components.foundation.errors import InputError
from components.foundation.params import strict, typed
from components.models.parts.model_file import load_frozen
from components.numerics.tensor_files import read_metadata, read_tensors, write_tensors

TEACHERS = Path("models/teachers")


class Taught(NamedTuple):
    """A teacher, frozen, in evaluation mode; of a network of ours its architecture, `{name: …, …}`, of a program the
    file from which it was read.
    """

    network: nn.Module
    architecture: Mapping[str, Any] | None = None
    source: str = ""


@strict
class ProgramCard:
    """What a teacher's file says of a program, whose weights are the file's tensors."""

    source: str
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    parameters: tuple[str, ...]
    graph: dict[str, Any]
    signature: dict[str, Any]


def file_of(name: str) -> Path:
    """Where the teacher of that name in `fetch_teachers` lies."""
    return TEACHERS / f"{name}.safetensors"


def save_program(path: Path, parts: ProgramParts, source: str, splits: Splits) -> None:
    """Writes a program as a teacher of these data; the same program gives the same bytes."""
    card = {
        "source": source,
        "image_shape": splits.image_shape,
        "classes": splits.classes,
        "parameters": [name for name, (_, is_parameter) in parts.tensors.items() if is_parameter],
        "graph": parts.graph,
        "signature": parts.signature,
    }
    write_tensors(path, {name: tensor for name, (tensor, _) in parts.tensors.items()}, {"program": card})


def load_taught(path: Path, splits: Splits, device: torch.device) -> Taught:
    """The teacher in a file. Errors: those of `load_frozen` and of `load_program`; made for other classes or images."""
    metadata = read_metadata(path)
    if not isinstance(metadata, dict) or "program" not in metadata:
        network, card = load_frozen(path, splits, device)
        return Taught(network, card.architecture)
    card = typed(ProgramCard, metadata["program"], f"{path}: program")
    if (card.classes, card.image_shape) != (splits.classes, splits.image_shape):
        raise InputError(f"{path}: fetched for other data, run the stage fetch_teachers again")
    tensors = {name: (tensor, name in card.parameters) for name, tensor in read_tensors(path)[0].items()}
    program = built(ProgramParts(card.graph, card.signature, tensors), str(path), device).requires_grad_(False)
    network = program.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Taught(network, None, card.source)
