"""Models on their way between machines: bfloat16 weights in parts that a transfer takes, with the files beside them."""

import hashlib
from pathlib import Path

import torch

from benchmarks.run_preset import BROUGHT, seconds_of
from components.foundation.storage import read_json, read_text, sha256, write_json, write_text
from components.numerics.tensor_files import read_tensors, write_tensors

TEACHERS, STUDENT = ("clean_teacher", "robust_teacher"), "student"
# Below the 16 MiB of a file that may come back.
PART = 15 * 2**20
# The chain whose models are called by their role alone.
FIRST = "chain"
SMALL = ("curves/{0}.csv", "curves/{0}.sentinel.json", "metrics/{0}.json")


def folder_of(name: str, seed: int, work: Path, chain: str = FIRST) -> Path:
    return work / "weights" / f"{'' if chain == FIRST else f'{chain}-'}{name}.{seed}"


def kept(run: Path, name: str, seed: int, work: Path, chain: str = FIRST) -> None:
    """Keeps the best weights of a model of the run `run`, to be brought along."""
    folder = folder_of(name, seed, work, chain)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, metadata = read_tensors(run / f"models/{name}.safetensors")
    small = {key: t.bfloat16() if t.dtype == torch.float32 else t for key, t in tensors.items()}
    write_tensors(folder / "model.safetensors", small, metadata)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    for old in folder.glob("part.*"):
        old.unlink()
    for number, start in enumerate(range(0, len(data), PART)):
        (folder / f"part.{number}").write_bytes(data[start : start + PART])
    beside = {path.format(name): read_text(run / path.format(name)) for path in SMALL}
    told = {"sha256": hashlib.sha256(data).hexdigest(), "seconds": seconds_of(run, _stage(name)), "files": beside}
    write_json(folder / "beside.json", told)


def restored(run: Path, name: str, seed: int, work: Path, chain: str = FIRST) -> bool:
    """Puts a model that was brought here into the run `run`, unless one is there; whether it is one that was brought,
    now or in an earlier call.

    Errors: neither of the two has it, or not all of its parts are here.
    """
    target, folder = run / f"models/{name}.safetensors", folder_of(name, seed, work, chain)
    told = run / f"{_stage(name)}.seconds.json"
    if target.exists():
        return told.exists() and read_json(told)["code"] == BROUGHT
    if not (folder / "beside.json").exists():
        raise SystemExit(f"{folder.name} is neither on this disk nor among the weights: run its part first")
    noted = read_json(folder / "beside.json")
    data = b"".join(path.read_bytes() for path in sorted(folder.glob("part.*"), key=lambda one: int(one.suffix[1:])))
    if hashlib.sha256(data).hexdigest() != noted["sha256"]:
        raise SystemExit(f"{folder}: not all parts are here")
    for path, text in noted["files"].items():
        write_text(run / path, text)
    whole = folder / "model.safetensors"
    whole.write_bytes(data)
    tensors, metadata = read_tensors(whole)
    whole.unlink()
    widened = {key: t.float() if t.dtype == torch.bfloat16 else t for key, t in tensors.items()}
    for suffix in ("", ".last"):
        write_tensors(run / f"models/{name}{suffix}.safetensors", widened, metadata)
    write_json(told, {"seconds": noted["seconds"], "code": BROUGHT, "ended": True})
    return True


def lent(run: Path, other: Path, name: str, seed: int, work: Path, chain: str) -> bool:
    """Puts the best weights of a model of the run `other`, trained there or brought here, into the run `run`; whether
    they were brought. Errors: those of `restored`."""
    brought = restored(other, name, seed, work, chain)
    target, source = run / f"models/{name}.safetensors", other / f"models/{name}.safetensors"
    if not target.exists() or sha256(target) != sha256(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(target, *read_tensors(source))
    return brought


def _stage(name: str) -> str:
    return f"train_{name}" if name in TEACHERS else "distill_student"
