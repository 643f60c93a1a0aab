"""Where tensors live and how reproducibly they are computed."""

import os
from typing import Literal

import torch
from pydantic.dataclasses import dataclass

from components.errors import InputError
from components.params import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Compute:
    """Section `compute` of params.yaml: `auto` takes a GPU where there is one; `threads` are the CPU's.

    The number of threads is fixed because sums of floats depend on it, and outputs must be the same bytes again.
    """

    device: Literal["auto", "cpu", "cuda"]
    threads: int
    deterministic: bool

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"got threads {self.threads}, want at least 1")

    def prepare(self) -> torch.device:
        """The device, after setting this process's threads and determinism. Error: a GPU asked for, but none there."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("params.yaml: compute.device: got 'cuda', but no GPU is visible here (allowed: auto, cpu)")
        torch.set_num_threads(self.threads)
        device = torch.device("cpu" if self.device == "cpu" or not torch.cuda.is_available() else "cuda")
        # Else a GPU's convolutions round float32 to ten bits, and float32 decides what an attack has achieved.
        torch.backends.cudnn.allow_tf32 = False
        if self.deterministic:
            # cuBLAS reads this when it is first used, which is after this line.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # The same switch as torch.use_deterministic_algorithms, without that one's import of the compiler
            # (seconds).
            torch.set_deterministic_debug_mode("error")
            torch.backends.cudnn.benchmark = False
        else:
            torch.backends.cudnn.benchmark = True
        return device
