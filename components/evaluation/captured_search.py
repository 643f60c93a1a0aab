"""A search network whose passes over few images are CUDA graphs: recorded once for each of a few sizes, and replayed.

Late in an attack few images still stand, and then a GPU waits for the host, which launches each operation by itself.
Images are filled up to the next recorded size, which costs a GPU nothing that it would not have waited. So a network is
captured only if its answer for an image depends on that image alone. Looks and recordings leave generators and buffers
as they were: what is attacked in between meets the same random numbers.
"""

# torch leaves the types of some functions open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from components.attacks.parts.ascent import eval_mode
from components.attacks.parts.victim import Victim
from components.numerics.capturing import Draws, reason_of, uncaptured, undone_on_failure
from components.numerics.compute import CaptureMode

SIZES = (16, 64, 256)
"""Passes over more images keep a GPU busy by themselves, and would be filled up with more than a GPU does for nothing.
"""
# Of the largest logit: how far two passes over the same images may lie apart, since libraries choose their algorithms
# by the size of a batch.
ROUNDING = 0.05
MIXES = "its answer for an image depends on the others of the batch"

Pass = Callable[[Tensor], Tensor]
Recorder = Callable[[Pass, Tensor], Pass]
"""A pass and the images to record it with -> the pass replayed: results and gradients lie in tensors that the next one
overwrites."""


def cuda_graphs(work: Pass, images: Tensor) -> Pass:
    """The pass over images of this shape, and the way back to them, as CUDA graphs."""
    graphed: Any = torch.cuda.make_graphed_callables
    # Threads beside this one may go on with the device meanwhile. torch 2.11 has no choice here.
    mode = "capture_error_mode"
    options = {mode: "thread_local"} if mode in inspect.signature(graphed).parameters else {}
    with undone_on_failure():
        # Not the module itself: torch would put the replay in the place of its `forward`, for every size.
        return graphed(lambda pixels: work(pixels), (images,), **options)


def recorder_on(device: torch.device) -> Recorder | None:
    """What records passes on this device, if anything does."""
    return cuda_graphs if device.type == "cuda" else None


class SearchCapture:
    """How the passes of an evaluation's attacks are computed: recorded and replayed where that can be, else as they
    stand. Each reason is told once. Errors, with `on`: any such reason."""

    def __init__(self, mode: CaptureMode, device: torch.device, note: Callable[[str], None]) -> None:
        self.mode: CaptureMode = mode
        self._note = note
        self._record = recorder_on(device) if mode != "off" else None
        self._told: set[str] = set()

    def captured(self, name: str, victim: Victim, images: Tensor, compiled: bool = False) -> Victim:
        """The model called `name` with a search network that is replayed, tried on a few `images`; or as it is."""
        if self._record is None:
            return victim
        if victim.search is victim.exact:
            self.refuse("the search is the float32 network itself (search.precision)")
        elif compiled:
            self.refuse("the search is compiled (search.compiled)")
        elif why := _obstacle(victim.search, images):
            self.refuse(f"{name}: {why}")
        else:
            search = CapturedSearch(victim.search, self._record, lambda why: self.refuse(f"{name}: {why}"))
            if search.begin(images):
                return Victim(victim.exact, search)
        return victim

    def refuse(self, reason: str) -> None:
        """Says that passes are not captured, and why."""
        line = uncaptured(self.mode, "passes of attacks are not captured", reason)
        if line not in self._told:
            self._told.add(line)
            self._note(line)


def _obstacle(network: nn.Module, images: Tensor) -> str:
    """Why a replay might not be what the network itself would answer, or nothing."""
    if any(getattr(module, "from_outside", False) for module in network.modules()):
        return "a program from outside may draw random numbers, or mix the images of a batch"
    if any(isinstance(module, _BatchNorm) and module.running_mean is None for module in network.modules()):
        return MIXES
    draws, filled = Draws(images.device), torch.cat([images, torch.zeros_like(images)])
    try:
        with torch.no_grad(), eval_mode(network), _buffers_kept(network) as moved:
            first, again, among = network(images), network(images), network(filled)[: len(images)]
            remembers = moved()
        random = draws.anywhere
    finally:
        draws.put_back()
    if not first.isfinite().all():
        return "its answers are no numbers"
    if random or not _close(first, again):
        return "it answers at random"
    if remembers:
        return "a pass changes what it remembers"
    return "" if _close(first, among) else MIXES


def _close(logits: Tensor, other: Tensor) -> bool:
    return bool((logits - other).abs().max() <= ROUNDING * logits.abs().max())


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[Callable[[], bool]]:
    """Whatever the block does to the network's buffers is undone after it; gives what tells whether it did anything."""
    names = [(module, dict(module._buffers)) for module in network.modules()]  # pyright: ignore[reportPrivateUsage]
    values = [(t, t.clone()) for _, own in names for t in own.values() if t is not None]

    def moved() -> bool:
        same = all(_same(own, module._buffers) for module, own in names)  # pyright: ignore[reportPrivateUsage]
        return not (same and all(torch.equal(tensor, value) for tensor, value in values))

    try:
        yield moved
    finally:
        for module, own in names:
            module._buffers.clear()  # pyright: ignore[reportPrivateUsage]
            module._buffers.update(own)  # pyright: ignore[reportPrivateUsage]
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)


def _same(own: dict[str, Any], now: dict[str, Any]) -> bool:
    return own.keys() == now.keys() and all(now[name] is tensor for name, tensor in own.items())


class CapturedSearch(nn.Module):
    """`network` in evaluation mode; passes over at most 256 images are replayed. No gradients but those of images.

    `refuse` is told why passes of a size cannot be recorded; none is from there on.
    """

    def __init__(self, network: nn.Module, record: Recorder, refuse: Callable[[str], None]) -> None:
        super().__init__()
        self.network, self._record, self._refuse = network, record, refuse
        self._recorded: dict[tuple[Any, ...], tuple[Pass, _Latest]] = {}
        self._refused = False

    def begin(self, images: Tensor) -> bool:
        """Whether passes over images such as these can be recorded, which is tried with the smallest size."""
        with eval_mode(self.network):
            return self._try(_key(SIZES[0], images), images)

    def forward(self, images: Tensor) -> Tensor:
        size = next((size for size in SIZES if len(images) <= size), None)
        if size is None or self._refused:
            return self.network(images)
        key = _key(size, images)
        if key not in self._recorded and not self._try(key, images):
            return self.network(images)
        replay, latest = self._recorded[key]
        if latest.awaited:
            return self.network(images)
        latest.number += 1
        return _Taken.apply(replay(_Filled.apply(images, size)), len(images), latest)  # pyright: ignore

    def _try(self, key: tuple[Any, ...], images: Tensor) -> bool:
        """Whether passes of this kind can be recorded; if one cannot, none is tried again."""
        sample, reason = images.new_zeros((key[0], *images.shape[1:])).requires_grad_(), ""
        draws = Draws(images.device)
        try:
            with torch.enable_grad(), _buffers_kept(self.network):
                self._recorded[key] = self._record(self.network, sample), _Latest()
        except Exception as error:
            # Of whatever kind: the same passes go on as they stand, and a mistake of the network's own shows there.
            reason = f"a pass over {key[0]} images cannot be recorded: {reason_of(error)}"
        finally:
            draws.put_back()
        if reason:
            self._refused = True
            self._recorded.clear()
            self._refuse(reason)
        return not self._refused


def _key(size: int, images: Tensor) -> tuple[Any, ...]:
    return size, images.shape[1:], images.dtype, images.device


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
