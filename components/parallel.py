"""Data parallel training over processes and machines that torchrun starts; with one process each function changes
nothing.

Every process ("rank") holds the whole model and works on its part of each batch. Ranks must call these functions in the
same order: each waits for all.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# Rank 0 measures and writes while the others wait for it.
PATIENCE = timedelta(hours=2)


def join(device: torch.device) -> None:
    """Joins the group that torchrun's environment speaks of: gloo on the CPU, nccl on GPUs; alone, nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)


def leave() -> None:
    """Leaves the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's place among all, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_(tensor: Tensor) -> Tensor:
    """The sum over ranks, detached, same shape and type."""
    total = tensor.detach()
    if world_size() > 1:
        total = total.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
    return total


def mean(tensor: Tensor, count: int = 1) -> Tensor:
    """The mean over ranks, detached, same shape and floating type; `count` is this rank's weight in it.

    With the rank's number of images as `count`, a mean over each rank's images becomes the mean over the whole batch.
    """
    if world_size() == 1:
        return tensor.detach()
    weighted = torch.cat([tensor.detach().reshape(-1) * count, tensor.new_tensor([count])])
    total = sum_(weighted)
    return (total[:-1] / total[-1]).view(tensor.shape)


def broadcast(tensor: Tensor) -> Tensor:
    """Rank 0's tensor on every rank, detached; the others give one of the same shape and type."""
    received = tensor.detach()
    if world_size() > 1:
        received = received.clone(memory_format=torch.contiguous_format)
        dist.broadcast(received, src=0)
    return received
