"""Where tensors live and how reproducibly they are computed."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.params import count_or_auto, strict
from components.numerics import parallel
from components.numerics.threads import MOST_THREADS, chosen, warning

Precision = Literal["auto", "float32", "bfloat16"]
"""What matrix products and convolutions compute in.

`auto` is the fastest: bfloat16 where the device is made for it, else float32.
"""

CaptureMode = Literal["auto", "on", "off"]
"""Whether a GPU records a training step, and passes of attacks, once and replays them (CUDA graphs), which spares the
host its launches.

`auto`: wherever it can be, and a line says why where it cannot. `on`: an error where it cannot be. `off`: never.
"""


Threads = Annotated[
    Annotated[int, Field(ge=1, le=MOST_THREADS)] | Literal["auto"], BeforeValidator(count_or_auto(MOST_THREADS))
]


@strict
class Compute:
    """Section `compute` of params.yaml: `auto` takes a GPU where there is one; `threads` are the CPU's, per process.

    The number of threads is fixed because sums of floats depend on it, and outputs must be the same bytes again. With
    `auto` it is what is fastest when a stage begins, and recorded.
    """

    device: Literal["auto", "cpu", "cuda"]  # Where the networks run; `auto` takes a GPU where there is one.
    threads: Threads  # CPU threads of each process, `auto` for the fastest number now; sums of floats depend on it.
    deterministic: bool  # Allow only operations that give the same bits again.
    capture: CaptureMode = "auto"
    """A GPU records steps of training, and an evaluation's passes over at most 256 images, and replays them: `auto`
    where it can, `on` or an error, `off` never. Passes over more images keep a GPU busy by themselves."""

    @property
    def warning(self) -> str:
        """One line where the CPU computes, and busy cores make so many threads slow; else nothing."""
        on_gpu = self.device != "cpu" and torch.cuda.is_available()
        return "" if on_gpu or self.threads == "auto" else warning(self.threads)

    def prepare(self) -> torch.device:
        """The device, after setting this process's threads and determinism and meeting those it trains with.

        Errors: a GPU asked for, or steps to be captured, but none there; more processes than GPUs.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("params.yaml: compute.device: got 'cuda', but no GPU is visible here (allowed: auto, cpu)")
        torch.set_num_threads(chosen() if self.threads == "auto" else self.threads)
        device = torch.device("cpu" if self.device == "cpu" or not torch.cuda.is_available() else "cuda")
        if self.capture == "on" and device.type == "cpu":
            raise InputError("params.yaml: compute.capture: got 'on', but a CPU computes here (allowed: auto, off)")
        if device.type == "cuda":
            index, gpus = parallel.place_on_machine(), torch.cuda.device_count()
            if index >= gpus:
                raise InputError(
                    f"process {index + 1} of this machine finds {gpus} GPUs, want one each (or device cpu)"
                )
            torch.cuda.set_device(index)
        parallel.join(device)
        # Otherwise a GPU's convolutions round float32 to ten bits, and float32 decides what an attack has achieved.
        torch.backends.cudnn.allow_tf32 = False
        if self.deterministic:
            # cuBLAS reads this when it is first used, which is after this line.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # The same switch as torch.use_deterministic_algorithms, without that one's import of the compiler
            # (seconds).
            torch.set_deterministic_debug_mode("error")
            # It would fill each new tensor before an operation writes it: a fifth of a small network's epoch.
            torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.benchmark = not self.deterministic
        return device


def resolved(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision that `auto` stands for on this device, or the one that is named.

    Processors without bfloat16 instructions compute it too, ten to a hundred times as slowly as float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16") else "float32"


def training_arithmetic(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Inside the block, matrix products and convolutions compute in `precision`; weights and losses stay float32."""
    if resolved(precision, device) == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def channels_last(model: nn.Module) -> nn.Module:
    """`model` itself, its weights laid out channels last; what it flattens gets its gradient in that layout too.

    The gradient of a flattening arrives in rows. The backward pass of the last ReLU would then mix two layouts, which
    is ten times as slow.
    """
    for module in model.modules():
        if isinstance(module, nn.Flatten):
            module.register_forward_pre_hook(_gradient_channels_last)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _gradient_channels_last(_: nn.Module, args: tuple[Tensor]) -> None:
    if args[0].requires_grad and args[0].ndim == 4:
        args[0].register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
