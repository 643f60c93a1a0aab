"""A training step recorded once and replayed: the GPU is told to do all of it at once, as a CUDA graph.

Launched one by one, the operations of a step at batch 128 take the host several times as long as they take the GPU.
What is recorded is the inner attack, the loss, the backward pass and the clipping of the gradient. The optimizer and
the average of the weights follow as they are: they are few launches, which the host makes while the GPU is still busy
with the replay, and so learning rate, momentum and the kind of optimizer stay free.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.methods.parts.contract import Crafting, Loss, Method
from components.numerics import parallel
from components.numerics.capturing import uncaptured
from components.numerics.compute import CaptureMode
from components.numerics.cost import PassCounter
from components.numerics.random_numbers import Part, Rng
from components.threats.parts.threat import Threat
from components.training.recording import RESHAPED, Bindings, CudaGraph, Graph, Graphs, Recording, Refused

# So many steps may change what a method remembers in name or shape before it counts as one that always does.
PATIENCE = 8
FROM_OUTSIDE = "a teacher is a program from outside"
# Each part has a place of its own in what is drawn, so a graph for each would be needed, with the memory of each.
IN_PARTS = "batches go through in parts (micro_batch)"


class Gradient(NamedTuple):
    """What a step finds besides the gradients themselves: the loss and its parts for the whole batch, detached, and the
    gradient's norm if it is clipped."""

    loss: Loss
    norm: Tensor | None


class _Found(NamedTuple):
    """A step's outcome as a graph can hold it: all numbers in one tensor, and the gradients."""

    numbers: Tensor
    names: tuple[str, ...]
    clipped: bool
    gradients: list[Tensor | None]


class _Run(NamedTuple):
    """What is trained, what it draws from, and what makes its graphs."""

    model: nn.Module
    method: Method
    rng: torch.Generator
    graphs: Callable[[], Graph]


class Capture:
    """How the steps of a training run are computed: recorded and replayed where that can be, else as they stand.

    Where something keeps a whole step from being recorded, its attack alone is recorded if it is a phase of its own.
    Each reason is told once. Errors, with `on`: any such reason.

    Args:
        mode: `auto` records on a GPU, `on` must, `off` never does.
        tell: takes a line.
        graphs: makes what records, of the generators that are drawn from; None: CUDA's, where the model is on a GPU.
    """

    def __init__(
        self, mode: CaptureMode = "off", tell: Callable[[str], None] = print, graphs: Graphs | None = None
    ) -> None:
        self.mode: CaptureMode = mode
        self.tell, self.graphs = tell, graphs
        # Counts the epoch's passes.
        self.counter = PassCounter()
        self.step: Recording[_Found] | None = None
        self.attack: Recording[Tensor] | None = None
        self._run: _Run | None = None
        self._bindings: Bindings | None = None
        self._told: set[str] = set()
        # Why steps, and why attacks, are recorded no more; how many steps changed the shape of what is remembered.
        self._failed, self._attack_failed, self._unsettled = "", "", 0

    def begin_epoch(self, model: nn.Module, method: Method, rng: torch.Generator, hindrance: str = "") -> None:
        """Takes stock, once an epoch of the method has begun: what was recorded is used again if nothing has moved.

        A method that changes with the epochs is recorded anew. `hindrance` is what besides the networks and the method
        keeps steps, and attacks alone as well, from being recorded.
        """
        graphs = self.graphs or (CudaGraph if rng.device.type == "cuda" else None)
        if self.mode == "off" or graphs is None:
            return
        before, known = self._run, self._bindings
        self._failed, self._attack_failed = self._failed or hindrance, self._attack_failed or hindrance
        self._run, self._bindings = _Run(model, method, rng, lambda: graphs([rng])), Bindings(model, method)
        moved = known is None or known.marks != self._bindings.marks
        if known and before and before.method is method and not moved and not _changes_with_epochs(method):
            self._bindings = known
        else:
            self._choose(self._run, self._bindings)

    def gradient(self, work: Callable[[Batch], Gradient], batch: Batch) -> Gradient:
        """What `work` finds for the batch; the gradients are in `.grad`. `work` depends on the batch and on the tensors
        of the networks alone."""
        if self.step is not None:
            try:
                return self._replayed(self.step, work, batch)
            except Refused as error:
                self._failed = str(error)
                self._start_anew()
        if self.attack is not None:
            with self._crafting(self.attack):
                found = work(batch)
            self._settle()
            return found
        return work(batch)

    def _replayed(self, step: Recording[_Found], work: Callable[[Batch], Gradient], batch: Batch) -> Gradient:
        parameters = step.bindings.parameters
        found = step(lambda inputs: _held(work(inputs), parameters), batch, self.counter)
        self._settle()
        for parameter, gradient in zip(parameters, found.gradients, strict=True):
            parameter.grad = gradient
        total, *rest = found.numbers.clone().unbind()
        norm = rest.pop() if found.clipped else None
        return Gradient(Loss(total, dict(zip(found.names, rest, strict=True))), norm)

    @contextmanager
    def _crafting(self, attack: Recording[Tensor]) -> Iterator[None]:
        """Inside the block the innermost method crafts by way of the recording."""
        assert self._run is not None
        run, method = self._run, cast(Any, _innermost(self._run.method))
        own = method.craft

        def craft(model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
            # A graph knows one generator, and one place of the images in what that draws.
            known = isinstance(rng, Part) and rng.generator is run.rng and isinstance(rng.places, slice)
            if not known or model is not run.model:
                return own(model, batch, threat, rng)
            try:
                return attack(lambda inputs: own(model, inputs, threat, rng), batch, self.counter)
            except Refused as error:
                self._attack_failed = str(error)
            return own(model, batch, threat, rng)

        method.craft = craft
        try:
            yield
        finally:
            del method.craft
        if self._attack_failed:
            self._start_anew()

    def _settle(self) -> None:
        """Looks after a step whether what was recorded still holds."""
        assert self._bindings is not None
        if not self._bindings.settle():
            self._unsettled += 1
            if self._unsettled > PATIENCE:
                self._failed = RESHAPED
            self._start_anew()

    def _start_anew(self) -> None:
        assert self._run is not None
        self._bindings = Bindings(self._run.model, self._run.method)
        self._choose(self._run, self._bindings)

    def _choose(self, run: _Run, bindings: Bindings) -> None:
        """What is recorded from here on: the step, the attack alone, or nothing."""
        self.step = self.attack = None
        reason = self._failed or _obstacle(run.model, run.method)
        if not reason:
            self.step = Recording(run.graphs, bindings)
            return
        alone = _attacks_apart(run.method) and not self._attack_failed
        what = "of each step the attack alone is captured" if alone else "steps are not captured"
        line = uncaptured(self.mode, what, self._attack_failed or reason)
        if alone:
            self.attack = Recording(run.graphs, bindings)
        if line not in self._told:
            self._told.add(line)
            self.tell(line)


def _obstacle(model: nn.Module, method: Method) -> str:
    """Why whole steps cannot be recorded, or nothing."""
    if parallel.world_size() > 1:
        return f"{parallel.world_size()} processes exchange gradients in it"
    layers = [module for network in (model, *method.companions()) for module in network.modules()]
    if any(isinstance(layer, nn.BatchNorm2d) and layer.momentum is None for layer in layers):
        return "batch norm with estimator cumulative asks the device for the number of batches"
    return FROM_OUTSIDE if _asks_program(method) else method.host_decides


def _asks_program(method: Method) -> bool:
    """Whether a teacher is a program, of whose operators nobody here knows what they do with random numbers."""
    return any(getattr(module, "from_outside", False) for teacher in method.networks() for module in teacher.modules())


def _attacks_apart(method: Method) -> bool:
    """Whether the attack is a phase of its own that moves no batch statistic and asks the host for nothing."""
    inner = _innermost(method)
    mode = getattr(inner.fields, "batch_norm", "eval")
    alone = isinstance(inner, Crafting) and mode == "eval" and not inner.host_decides
    # The attack may ask the teacher, too.
    return alone and not _asks_program(method)


def _innermost(method: Method) -> Method:
    inside = [child for child in method.children() if isinstance(child, Method)]
    return _innermost(inside[0]) if inside else method


def _changes_with_epochs(method: Method) -> bool:
    layers = [layer for layer in method.modules() if isinstance(layer, Method)]
    hooks = ("begin_epoch", "end_epoch")
    return any(getattr(type(layer), hook) is not getattr(Method, hook) for layer in layers for hook in hooks)


def _held(gradient: Gradient, parameters: list[nn.Parameter]) -> _Found:
    loss, norm = gradient
    numbers = torch.stack([loss.total, *loss.parts.values(), *([] if norm is None else [norm])])
    return _Found(numbers, tuple(loss.parts), norm is not None, [parameter.grad for parameter in parameters])
