"""Tensors in files: safetensors, whole or absent, the same bytes for the same content."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.foundation.errors import InputError
from components.foundation.storage import reading, replacing

# safetensors writes several metadata keys in hash order, so we use a single one: then the bytes are always the same.
METADATA_KEY = "temper"


# The format's names, in the order in which it lays tensors out: those of long elements first, so that all are aligned.
_NAMES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = {dtype: place for place, dtype in enumerate(_NAMES)}
_ALIGNMENT = 8


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Any = None) -> None:
    """Writes a safetensors file with one JSON metadata value, atomically; equal content gives equal bytes.

    By hand, since the library makes all of the file in memory first, several times, and where there is not enough it
    ends the process or hangs. One tensor at a time is copied here, and only if it is on a GPU or not contiguous.
    """
    assert sys.byteorder == "little", "the format's numbers are"
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    laid_out = sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0]))
    entries: dict[str, Any] = {"__metadata__": {METADATA_KEY: text}}
    end = 0
    for name, tensor in laid_out:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % _ALIGNMENT)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(len(head).to_bytes(_ALIGNMENT, "little") + head)
        for _, tensor in laid_out:
            file.write(tensor_bytes(tensor))


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


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The raw bytes of a tensor's values, for files and hashes; of a contiguous one on the CPU without a copy."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
