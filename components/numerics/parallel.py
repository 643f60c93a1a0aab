"""Data parallel training over processes and machines that torchrun starts. With one process, each function changes
nothing.

Every process ("rank") holds the whole model and works on its part of each batch. Ranks must call these functions in the
same order: each waits for all.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from components.foundation.params import strict

# How long a rank waits for the others: rank 0 writes files, and what one rank measures alone can take long.
PATIENCE = timedelta(hours=2)
# Elements of gradients in one message: enough to keep a network busy, and little memory beside a model.
BUCKET = 2**23


BatchNormOver = Literal["synchronised", "per_process"]


@strict
class Parallel:
    """Section `parallel` of params.yaml: how training is shared.

    Each of `processes` on this machine takes its part of every batch, with one GPU each where there are GPUs.
    `batch_norm` says over which images it normalises. `synchronised`: over the whole batch, so that training equals
    training in one process. `per_process`: over the process's own part; running statistics are averaged after an epoch.
    """

    processes: Annotated[int, Field(ge=1, le=64)]  # Processes on this machine; each takes its part of every batch.
    batch_norm: BatchNormOver  # Over which images batch norm normalises in training.


def join(device: torch.device) -> None:
    """Joins the group that torchrun's environment names, if any: gloo on the CPU, nccl on GPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)


def place_on_machine() -> int:
    """This process's place among those of its machine, from 0, in or before a group."""
    return int(os.environ.get("LOCAL_RANK", "0"))


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
    """Rank 0's tensor on every rank, detached; each rank passes a tensor of the same shape and type."""
    received = tensor.detach()
    if world_size() > 1:
        received = received.clone(memory_format=torch.contiguous_format)
        dist.broadcast(received, src=0)
    return received


def agreed(numbers: Mapping[str, float]) -> dict[str, float]:
    """Rank 0's `numbers`, on every rank. Decisions need them, since rounding may differ between devices."""
    if world_size() == 1:
        return dict(numbers)
    text = torch.frombuffer(bytearray(json.dumps(numbers).encode()), dtype=torch.uint8).to(_device())
    length = int(broadcast(torch.tensor(len(text), device=_device())))
    # Only rank 0's bytes count, but every rank must pass the same number.
    sent = broadcast(torch.cat([text, text.new_zeros(length)])[:length])
    return json.loads(bytes(sent.tolist()))


def total(*numbers: int) -> list[int]:
    """The sums of integers over ranks."""
    if world_size() == 1:
        return list(numbers)
    return sum_(torch.tensor(numbers, dtype=torch.int64, device=_device())).tolist()


def wait() -> None:
    """Returns once every rank has called it."""
    total(0)


def num_own(first: int) -> int:
    """How many of the `first` rows of a whole batch are this rank's."""
    return len(range(rank(), first, world_size()))


def interleaved(own: Tensor) -> Tensor:
    """The rows [N, ...] of a whole batch from this rank's [n, ...]: row i of rank r among W is row r + i W."""
    if world_size() == 1:
        return own
    whole = own.new_zeros((total(len(own))[0], *own.shape[1:]))
    whole[rank() :: world_size()] = own
    return sum_(whole)


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter], *numbers: Tensor) -> list[Tensor]:
    """Replaces each gradient by its sum over ranks, in a few large messages; returns the sums of scalar `numbers`.

    The same parameters must have gradients on every rank; parameters without a gradient stay without.
    """
    if world_size() == 1:
        return list(numbers)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sums = [number.to(gradients[0]).reshape(1) for number in numbers]
    for bucket in _buckets([*sums, *gradients]):
        flat = sum_(torch.cat([tensor.reshape(-1) for tensor in bucket]))
        for tensor, values in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(values.view(tensor.shape))
    return [number.squeeze(0) for number in sums]


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    buckets, size = [[]], 0
    for tensor in tensors:
        if buckets[-1] and size + tensor.numel() > BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets


@torch.no_grad()
def average_buffers(*models: nn.Module) -> None:
    """Replaces floating-point buffers, such as batch norm's running statistics, by their means over ranks."""
    if world_size() > 1:
        for buffer in (buffer for model in models for buffer in model.buffers() if buffer.is_floating_point()):
            buffer.copy_(mean(buffer))


def gathered(tensor: Tensor) -> Tensor:
    """Every rank's tensor, [W, *shape]. Gradients of any order go back to the rank that the tensor came from."""
    if world_size() == 1:
        return tensor[None]
    own_row = torch.arange(world_size(), device=tensor.device) == rank()
    return _Sum.apply(own_row.to(tensor.dtype).view(-1, *[1] * tensor.ndim) * tensor[None])  # pyright: ignore


class _Sum(torch.autograd.Function):
    """The sum over ranks. Each rank's loss depends on all ranks' inputs, so an input's gradient is a sum as well."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return sum_(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Sum.apply(gradient)  # pyright: ignore[reportReturnType]


def _device() -> torch.device:
    """Where this group's tensors must be."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
