"""A search network whose passes over few images are CUDA graphs: recorded once for each of a few sizes, and replayed.

Late in an attack few images still stand, and then a GPU waits for the host, which launches each operation by itself.
Images are filled up to the next recorded size, which costs a GPU nothing that it would not have waited. In evaluation
mode no image changes what another one gets.
"""

# torch leaves the types of some functions open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable
from typing import Any, cast
from weakref import ref

import torch
from torch import Tensor, nn

from components.attacks.parts.victim import Victim
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.numerics.compute import CaptureMode

SIZES = (16, 64, 256)
"""Passes over more images keep a GPU busy by themselves."""

Pass = Callable[[Tensor], Tensor]
Recorder = Callable[[Pass, Tensor], Pass]
"""A pass and the images to record it with -> the pass replayed: results and gradients lie in tensors that the next one
overwrites."""


def cuda_graphs(work: Pass, images: Tensor) -> Pass:
    """The pass over images of this shape, and the way back to them, as CUDA graphs."""
    # Not the module itself: torch would put the replay in the place of its `forward`, for every size.
    recorded: Any = torch.cuda.make_graphed_callables(lambda pixels: work(pixels), (images,))
    return recorded


def captured(
    victim: Victim, mode: CaptureMode, device: torch.device, note: Callable[[str], None], record: Recorder | None = None
) -> Victim:
    """The victim with a search network that is replayed, on a GPU and where it has one of its own; else as it is.

    Error: with `on`, a network that cannot be recorded.
    """
    record = record or (cuda_graphs if device.type == "cuda" else None)
    if record is None or mode == "off" or victim.search is victim.exact:
        return victim
    return Victim(victim.exact, CapturedSearch(victim.search, record, note, required=mode == "on"))


class CapturedSearch(nn.Module):
    """`network` in evaluation mode; passes over at most 256 images are replayed. No gradients but those of images."""

    def __init__(self, network: nn.Module, record: Recorder, note: Callable[[str], None], required: bool) -> None:
        super().__init__()
        self.network, self._record, self._note, self._required = network, record, note, required
        self._recorded: dict[tuple[Any, ...], tuple[Pass, _Latest]] = {}
        self._refused = False

    def forward(self, images: Tensor) -> Tensor:
        size = next((size for size in SIZES if len(images) <= size), None)
        if size is None or self._refused:
            return self.network(images)
        key = (size, images.shape[1:], images.dtype, images.device)
        if key not in self._recorded and not self._try(key, images):
            return self.network(images)
        replay, latest = self._recorded[key]
        if latest.awaited:
            return self.network(images)
        latest.number += 1
        return _Taken.apply(replay(_Filled.apply(images, size)), len(images), latest)  # pyright: ignore

    def _try(self, key: tuple[Any, ...], images: Tensor) -> bool:
        """Whether passes of this kind can be recorded; if one cannot, none is tried again."""
        sample = images.new_zeros((key[0], *images.shape[1:])).requires_grad_()
        try:
            with torch.enable_grad():
                self._recorded[key] = self._record(self.network, sample), _Latest()
        except RuntimeError as error:
            # torch raises its errors of recording as this, with what the network did in the first line.
            line = f"the search cannot be captured: {one_line(str(error).splitlines()[0])}"
            if self._required:
                raise InputError(f"compute.capture: got 'on', but {line}") from None
            self._note(line)
            self._refused = True
        return not self._refused


class _Way:
    """Lives as long as the way back of a pass can be asked for."""


class _Latest:
    """The latest pass of a recording, by its number: the way back is that of this one alone."""

    def __init__(self) -> None:
        self.number, self._way = 0, cast("ref[_Way] | None", None)

    @property
    def awaited(self) -> bool:
        """Whether someone may still ask for its way back, and has not yet."""
        return self._way is not None and self._way() is not None

    def begin(self) -> _Way:
        way = _Way()
        self._way = ref(way)
        return way

    def end(self) -> None:
        self._way = None


class _Filled(torch.autograd.Function):
    """Zeros after the images, up to the size of a recording; the gradient in a tensor that no replay overwrites."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, size: int) -> Tensor:
        ctx.num = len(images)
        filled = images.new_zeros((size, *images.shape[1:]))
        filled[: len(images)] = images
        return filled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient[: ctx.num].clone(), None


class _Taken(torch.autograd.Function):
    """The logits of the images, in a tensor that no replay overwrites."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, num: int, latest: _Latest) -> Tensor:
        ctx.size, ctx.latest, ctx.number, ctx.way = len(logits), latest, latest.number, latest.begin()
        return logits[:num].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert ctx.number == ctx.latest.number, "the way back of a pass after another pass of the same recording"
        ctx.latest.end()
        filled = gradient.new_zeros((ctx.size, *gradient.shape[1:]))
        filled[: len(gradient)] = gradient
        return filled, None, None
