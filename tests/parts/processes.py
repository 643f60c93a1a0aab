"""Starts several processes that train together, as torchrun would, on this machine; and compares how they end."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]


def on_two_gpus(value: str) -> Any:
    """A parameter of tests that two processes with a GPU each run with, over NCCL."""
    found = torch.cuda.device_count()
    too_few = pytest.mark.skipif(found < 2, reason=f"two processes want a GPU each, {found} here: NCCL cannot run")
    return pytest.param(value, marks=[pytest.mark.gpu, too_few])


def together(arguments: Sequence[str], ranks: int = 2, timeout: float = 240) -> None:
    """Runs `python ARGUMENTS` as so many ranks. Fails if one fails."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    group = {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        ends = [process.communicate(timeout=timeout)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), ends


def require_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float) -> None:
    """The same up to `tolerance` times the largest number of each tensor, or about that of a tensor of hundredths: some
    numbers are zero but for rounding, as the gradient of a bias before batch norm."""
    assert left.keys() == right.keys()
    for key in left:
        one, other = left[key].double(), right[key].double()
        assert one.shape == other.shape, key
        furthest = (one - other).abs().max() if one.numel() else 0
        assert furthest <= tolerance * (one.abs().amax() if one.numel() else 0) + tolerance / 50, key
