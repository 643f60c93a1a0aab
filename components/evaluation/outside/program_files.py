"""Programs of torch.export in .pt2 files, read as what they are: JSON and raw bytes.

`torch.export.load` unpickles sample inputs and weights and evaluates text from the file, so a file can make it run any
code. Here only JSON is read, and the raw bytes of the weights; what would need more is refused.
"""

import json
import math
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from components.evaluation.outside.programs import DTYPES, Program, Spec, reason
from components.foundation.errors import InputError
from components.foundation.storage import require_bytes

PROGRAM = ".pt2"
SCHEMA = 8
# Weights may share bytes of their file, so they can be larger than it: by how much, and what always passes.
MOST_SHARING, SMALL = 4, 2**26
SAVE_AGAIN = "save it with torch.export.save of a current torch, or give a safetensors state dict"


class ProgramParts(NamedTuple):
    """What a program is made of: its operators, what it takes and returns, and its tensors by name, parameters marked
    true."""

    graph: Spec
    signature: Spec
    tensors: dict[str, tuple[Tensor, bool]]


def load_program(path: Path | str, device: torch.device | str = "cpu") -> Program:
    """The program of a .pt2 file on `device`. Reads no pickle and runs no text of the file as code.

    Errors: another file, one of an older torch whose weights are pickled, compiled code, operators that are not ATen's,
    a program that takes or returns anything but one tensor.
    """
    return built(read_program(path), str(path), device)


def built(parts: ProgramParts, where: str, device: torch.device | str = "cpu") -> Program:
    """The program of such parts, tried out without memory. Errors: as of `load_program`; `where` names the file."""
    with _reading(where):
        program = Program(parts.graph, parts.signature, parts.tensors, where)
        program.try_out()
        return program.to(device).eval()


def read_program(path: Path | str) -> ProgramParts:
    """What a .pt2 file holds. Errors: as of `load_program`."""
    with _reading(path):
        require_bytes(path)
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise InputError(f"{path}: compressed, which torch.export.save never does ({SAVE_AGAIN})")
            files = {name.partition("/")[2]: name for name in archive.namelist()}
            if "models/model.json" not in files:
                raise InputError(f"{path}: no program of torch.export in it ({SAVE_AGAIN})")
            program = json.loads(archive.read(files["models/model.json"]))
            version = program["schema_version"]["major"]
            if version != SCHEMA:
                raise InputError(f"{path}: schema {version} of torch.export, want {SCHEMA} ({SAVE_AGAIN})")
            tensors = _tensors(archive, files, "weights", path) | _tensors(archive, files, "constants", path)
        module = program["graph_module"]
        return ProgramParts(module["graph"], module["signature"], tensors)


@contextmanager
def _reading(path: Path | str) -> Generator[None]:
    """Has whatever goes wrong while a program is read end in one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    # Whatever a file holds instead of what is expected: there is no end to the kinds of errors.
    except Exception as error:
        raise InputError(f"{path}: no readable program of torch.export: {reason(error)}") from None


def _tensors(
    archive: zipfile.ZipFile, files: Mapping[str, str], kind: str, path: Path | str
) -> dict[str, tuple[Tensor, bool]]:
    name = f"data/{kind}/model_{kind}_config.json"
    if name not in files:
        raise InputError(f"{path}: its {kind} are pickled, and pickles are not read ({SAVE_AGAIN})")
    found, left = {}, max(SMALL, MOST_SHARING * Path(path).stat().st_size)
    for target, entry in json.loads(archive.read(files[name]))["config"].items():
        if entry["use_pickle"] or entry["tensor_meta"] is None:
            raise InputError(f"{path}: {target!r} is pickled, and pickles are not read ({SAVE_AGAIN})")
        meta = entry["tensor_meta"]
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        dtype = DTYPES[meta["dtype"]]
        left -= math.prod(sizes) * dtype.itemsize
        if left < 0:
            raise InputError(f"{path}: {target!r} is larger than the file ({sizes})")
        data = bytearray(archive.read(files[f"data/{kind}/{entry['path_name']}"]))
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        strided = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
        found[target] = strided.clone(), bool(entry["is_param"])
    return found
