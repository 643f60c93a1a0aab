"""How many images an evaluation puts through its networks at a time, where the recipe leaves that to memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.memory import free_main_memory
from components.foundation.params import count_or_auto, is_count
from components.foundation.provenance import fingerprint
from components.foundation.storage import read_state, write_json

MOST = 2**20
# More images at a time are hardly faster.
ENOUGH = 512
# The share of free memory that what one step keeps may take: attacks keep several copies of images, and others come.
SHARE = 0.25
# Images by which the memory of one is measured, so that what a batch costs whatever its size counts little.
LOOK = 2


# One message for a union of two types.
EvaluationBatch = Annotated[
    Annotated[int, Field(ge=1, le=MOST)] | Literal["auto"], BeforeValidator(count_or_auto(MOST))
]


def settled_batch(
    asked: int | str, networks: Iterable[nn.Module], images: Tensor, key: Any, kept: Path
) -> tuple[int, str]:
    """The batch of an evaluation, and a line on it where it was found by itself.

    What was found once under a key stays: an evaluation that was stopped goes on with the batch that it began with.

    Args:
        asked: a number, or `auto`.
        networks: all that are evaluated, on their device.
        images: some of the test images, [N, C, H, W], on their device too.
        key: what the evaluation is of.
        kept: the file in which the batch is kept.
    """
    if isinstance(asked, int):
        return asked, ""
    own = fingerprint({"key": key})
    before = read_state(kept)
    if before.get("key") == own and is_count(before.get("batch_size"), MOST):
        return before["batch_size"], f"batch_size {before['batch_size']}, as before"
    each = max(bytes_of_an_image(network, images[:1]) for network in networks)
    free = free_memory(images.device)
    found = largest_batch(free, each)
    write_json(kept, {"key": own, "batch_size": found})
    return found, f"batch_size {found}: {each / 2**20:.1f} MiB for each image, {free / 2**20:,.0f} MiB are free"


def largest_batch(free: int, each: int) -> int:
    """The largest power of two, at most 512, whose images take a quarter of the free bytes. Error: not even one."""
    fitting = int(SHARE * free / each)
    if fitting < 1:
        raise InputError(
            f"evaluate_attacks.batch_size: one image takes {each / 2**20:.0f} MiB, a quarter of the {free / 2**20:.0f} "
            "MiB of free memory is less: free some, or take a smaller network or smaller images"
        )
    return min(ENOUGH, 2 ** (fitting.bit_length() - 1))


def bytes_of_an_image(network: nn.Module, image: Tensor) -> int:
    """What the network keeps for the gradient of one image [1, C, H, W], beside its weights; at least the image."""
    images = (image.float() / 255 if image.dtype == torch.uint8 else image).repeat(LOOK, 1, 1, 1).requires_grad_()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(images)
    del logits
    return max(sum(seen.values()) // LOOK, images.element_size() * images[0].numel())


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; of the CPU, for this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_main_memory()
