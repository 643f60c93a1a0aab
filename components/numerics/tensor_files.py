"""Tensors in files: safetensors, whole or absent, the same bytes for the same content."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from components.foundation.errors import InputError
from components.foundation.storage import reading, replacing

# safetensors writes several metadata keys in hash order, so we use a single one: then the bytes are always the same.
METADATA_KEY = "temper"


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Any = None) -> None:
    """Writes a safetensors file with one JSON metadata value, atomically; equal content gives equal bytes."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    data = tensors_to_bytes(contiguous, {METADATA_KEY: json.dumps(metadata, sort_keys=True, allow_nan=False)})
    with replacing(path) as partial:
        partial.write_bytes(data)


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], Any]:
    """Tensors (on the CPU) and the metadata value of a safetensors file. Errors: missing, truncated or foreign file."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _metadata(file)  # noqa: SIM118


def read_metadata(path: Path | str) -> Any:
    """The metadata value of a safetensors file, without its tensors. Errors: missing, truncated or foreign file."""
    with _opened(path) as file:
        return _metadata(file)


@contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    foreign = "truncated, or no safetensors file"
    try:
        with reading(path, foreign), safe_open(str(path), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise InputError(f"{path}: {foreign}: {error}") from None


def _metadata(file: Any) -> Any:
    return json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))


def tensor_bytes(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor's values, for hashing images."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
