"""Work on a batch that a device does once, notes, and does again at each replay, told so by a single call.

A graph reads and writes the tensors that it was recorded with. So a batch is copied into the one that was recorded, a
buffer that the work replaces is copied into the old one, and random numbers come from generators that the graph knows:
a replay moves them as far as the work itself would, so a checkpoint means the same with and without.
"""

# pyright: reportPrivateUsage=false
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.data.placement import Placement
from components.numerics.capturing import Draws, reason_of, undone_on_failure
from components.numerics.cost import PassCounter

T = TypeVar("T")

# Batches of a kind that run as they stand first: libraries choose their algorithms, and a method makes its memory.
WARM_UP = 2
RESHAPED = "what the method remembers changes its shape"
DRAWS = "random numbers are drawn on the host"
# What is the same if it is equal.
Plain = int | float | str | tuple
Notes = dict[nn.Module, dict[str, Any]]


class Graph(Protocol):
    """Work of the device, recorded once and done again at each replay."""

    def run(self, work: Callable[[], T]) -> T:
        """Does the work as it stands."""
        ...

    def record(self, work: Callable[[], Any]) -> None:
        """Notes what the work would do, and does nothing."""
        ...

    def replay(self) -> Any:
        """Does what was noted. The result is in the same tensors each time."""
        ...


Graphs = Callable[[Sequence[torch.Generator]], Graph]


class CudaGraph:
    """A CUDA graph whose random numbers come from `generators` and the device's own generator."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators, self.graph, self.result = generators, torch.cuda.CUDAGraph(), None
        self.stream = torch.cuda.Stream()

    def run(self, work: Callable[[], T]) -> T:
        """On the stream that is recorded later, where gradients must have been accumulated before."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = work()
        current.wait_stream(self.stream)
        return result

    def record(self, work: Callable[[], Any]) -> None:
        # Casts of weights that were made outside are not the graph's, and the graph's own hold nothing before a replay.
        torch.clear_autocast_cache()
        try:
            with undone_on_failure(self.generators):
                for generator in self.generators:
                    self.graph.register_generator_state(generator)
                # Threads that decode images may go on meanwhile.
                with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                    self.result = work()
        finally:
            torch.clear_autocast_cache()

    def replay(self) -> Any:
        self.graph.replay()
        return self.result


class Bindings:
    """Which tensor each name of the networks stands for."""

    def __init__(self, *networks: nn.Module) -> None:
        self.buffers = {module: dict(module._buffers) for network in networks for module in network.modules()}
        self.parameters = [parameter for network in networks for parameter in network.parameters()]
        self.marks = [
            (parameter.data_ptr(), parameter.stride(), parameter.requires_grad) for parameter in self.parameters
        ] + [(t.data_ptr(), t.stride(), False) for own in self.buffers.values() for t in own.values() if t is not None]

    def settle(self) -> bool:
        """Has each name stand for its tensor again, with the values of what took its place. False: that cannot be,
        since names came or went, or another shape."""
        for module, own in self.buffers.items():
            if module._buffers.keys() != own.keys():
                return False
            for name, tensor in own.items():
                current = module._buffers[name]
                if current is tensor:
                    continue
                if current is None or tensor is None or not _alike(current, tensor):
                    return False
                module._buffers[name] = tensor.copy_(current)
        return True

    def notes(self) -> Notes:
        """What the networks hold as plain attributes: numbers, and tensors that are no buffers."""
        return {module: dict(vars(module)) for module in self.buffers}

    def changed(self, notes: Notes) -> str:
        """The name of an attribute that is not what it was, or nothing."""
        for module, before in notes.items():
            now = vars(module)
            for name in {**before, **now}:
                if name not in before or name not in now or not _unchanged(before[name], now[name]):
                    return f"{type(module).__name__}.{name}"
        return ""

    def put_back(self, notes: Notes) -> None:
        """Has each name stand for its tensor again, as it is, and each attribute for what it was: what took its place
        was never computed."""
        for module, before in notes.items():
            vars(module).clear()
            vars(module).update(before)
        for module, own in self.buffers.items():
            module._buffers.clear()
            module._buffers.update(own)
        for parameter in self.parameters:
            parameter.grad = None


def _unchanged(before: object, now: object) -> bool:
    return before is now or (isinstance(now, Plain) and type(before) is type(now) and before == now)


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


@dataclass
class _Kind:
    """Batches of the same shapes: how many ran as they stand, and what was recorded with which inputs."""

    graph: Graph
    ran: int = 0
    inputs: Batch | None = None
    passes: tuple[int, int] = (0, 0)


class Refused(Exception):
    """Work that cannot be recorded, and why, in one line. Nothing of it was done."""


class Recording(Generic[T]):
    """Work on a batch that runs as it stands at first, is recorded then, and replayed from there on.

    The result of a replay lies in tensors that the next one overwrites. Errors: `Refused`.
    """

    def __init__(self, graphs: Callable[[], Graph], bindings: Bindings) -> None:
        self.graphs, self.bindings = graphs, bindings
        self.kinds: dict[Any, _Kind] = {}

    def __call__(self, work: Callable[[Batch], T], batch: Batch, counter: PassCounter) -> T:
        key = _key(batch)
        if key not in self.kinds:
            self.kinds[key] = _Kind(self.graphs())
        kind = self.kinds[key]
        if kind.ran < WARM_UP:
            kind.ran += 1
            return kind.graph.run(lambda: work(batch))
        before = counter.forward, counter.backward
        if kind.inputs is None:
            kind.inputs = self._record(kind.graph, work, batch, counter)
            result = kind.graph.replay()
            kind.passes = counter.forward - before[0], counter.backward - before[1]
            return result
        for own, new in zip(_tensors(kind.inputs), _tensors(batch), strict=True):
            own.copy_(new)
        result = kind.graph.replay()
        # No hook of the networks sees a replay.
        counter.forward, counter.backward = (n + m for n, m in zip(before, kind.passes, strict=True))
        return result

    def _record(self, graph: Graph, work: Callable[[Batch], T], batch: Batch, counter: PassCounter) -> Batch:
        inputs = _copied(batch)
        self.bindings.settle()
        passes, draws, notes = (counter.forward, counter.backward), Draws(batch.images.device), self.bindings.notes()

        def settled() -> T:
            result = work(inputs)
            if not self.bindings.settle():
                raise RuntimeError(RESHAPED)
            # A replay would take these for ever as they are now.
            if draws.on_host:
                raise RuntimeError(DRAWS)
            if changed := self.bindings.changed(notes):
                raise RuntimeError(f"{changed} changes on the host")
            return result

        try:
            graph.record(settled)
        except Exception as error:
            # Of whatever kind: the same work is done as it stands next, and a mistake of its own shows there.
            self.bindings.put_back(notes)
            draws.put_back()
            counter.forward, counter.backward = passes
            raise Refused(reason_of(error)) from error
        return inputs


def _tensors(batch: Batch) -> list[Tensor]:
    return [batch.images, batch.labels, batch.indices, *batch.placement[1:]]


def _key(batch: Batch) -> Any:
    """What the operations of a step depend on besides numbers of the device."""
    shapes = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in _tensors(batch)]
    return batch.total, batch.placement.pad, *shapes


def _copied(batch: Batch) -> Batch:
    images, labels, indices, *moves = (tensor.clone() for tensor in _tensors(batch))
    return Batch(images, labels, indices, Placement(batch.placement.pad, *moves), batch.total, batch.num_images)
