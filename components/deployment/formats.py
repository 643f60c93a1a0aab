"""The files a model is exported to: how each is written, and how those who get it run it."""

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.deployment.pixel_range import Marking, Refusing, refusing
from components.evaluation.outside.program_files import load_program
from components.foundation.errors import InputError
from components.foundation.storage import replacing
from components.models.parts.model_file import ModelCard, load_model, save_model

Logits = Callable[[Tensor], Tensor]
"""Float32 images [N, C, H, W] on the CPU -> logits [N, classes]."""
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
IMAGES, LOGITS = "images", "logits"


@dataclass(frozen=True)
class Format:
    """A kind of file.

    `tolerance` is the largest difference of a logit that rounding may make, as a share of the largest logit (at least
    1). `runners` has, by name, every program that is known to run such a file. `outside` says what becomes of an image
    outside [0, 1].
    """

    tolerance: float
    write: Callable[[Path, nn.Module, ModelCard], None]
    runners: Mapping[str, Callable[[Path], Logits]]
    outside: str


def require_available(name: str, where: str) -> None:
    """Refuses a format whose packages are not installed."""
    missing = missing_packages(name)
    if missing:
        raise InputError(f"{where}: needs {', '.join(missing)}, which is not installed (pip install '.[onnx]')")


def missing_packages(name: str) -> list[str]:
    """The packages that a format needs and that are not installed."""
    return [package for package in ONNX_PACKAGES if find_spec(package) is None] if name == "onnx" else []


def write_safetensors(path: Path, model: nn.Module, card: ModelCard) -> None:
    """The weights with their card, as a training stage writes them."""
    save_model(path, model.state_dict(), card)


def write_program(path: Path, model: nn.Module, card: ModelCard) -> None:
    """A program of torch.export for batches of any size. Equal models give equal bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it traces
        program = torch.export.export(Refusing(model).eval(), (_example(card),), dynamic_shapes=_any_batch())
        for node in program.graph.nodes:
            # Where the code lay on this machine is nobody's business, and would change the bytes.
            node.meta.pop("stack_trace", None)
        # A pickle that no reader needs.
        program._example_inputs = None  # pyright: ignore[reportPrivateUsage]
        # Into memory: of a file, the archive would keep the name.
        archive = io.BytesIO()
        torch.export.save(program, archive)
    with replacing(path) as partial:
        partial.write_bytes(archive.getvalue())


def write_onnx(path: Path, model: nn.Module, card: ModelCard) -> None:
    """An ONNX model for batches of any size, in one file. Equal models give equal bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it traces
        program = torch.onnx.export(
            Marking(model).eval(),
            (_example(card),),
            dynamo=True,
            dynamic_shapes=_any_batch(),
            input_names=[IMAGES],
            output_names=[LOGITS],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        # Where the code lay on this machine.
        del node.metadata_props[:]
    with replacing(path) as partial:
        partial.write_bytes(proto.SerializeToString(deterministic=True))


def _example(card: ModelCard) -> Tensor:
    # Two, since a batch of one would be taken for the only size.
    return torch.zeros(2, *card.image_shape)


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def with_temper(path: Path) -> Logits:
    """As `temper.load` does."""
    return torch.inference_mode()(refusing(load_model(path)[0]))


def with_torch(path: Path) -> Logits:
    """As whoever has torch alone does. Only of files that this process wrote, since torch unpickles parts of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about buffers that only older ones do not copy
        return torch.inference_mode()(torch.export.load(path).module())


def by_operators(path: Path) -> Logits:
    """As `temper evaluate` does, which runs nothing in a file but operators that it knows."""
    return torch.no_grad()(load_program(path))


def with_onnxruntime(path: Path) -> Logits:
    """As whoever has onnxruntime and numpy alone does, with as many threads as torch has."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([LOGITS], {IMAGES: images.numpy()})[0])


REFUSED, NAN = "refused", "NaN logits"
FORMATS = {
    "safetensors": Format(0.0, write_safetensors, {"temper": with_temper}, REFUSED),
    "pt2": Format(1e-5, write_program, {"torch": with_torch, "temper": by_operators}, REFUSED),
    "onnx": Format(1e-4, write_onnx, {"onnxruntime": with_onnxruntime}, NAN),
}
"""Every format by its suffix. The first of its runners is timed."""
