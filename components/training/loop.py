"""`fit`, the one training loop: it owns modes, optimizer, precision and checkpoints, and yields a record per epoch."""

import time
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from components.data.augmentation import Augmentation
from components.data.batch import Batch, num_parts
from components.data.loader import Batches
from components.foundation.errors import InputError
from components.foundation.params import Epochs, Fractional, Positive, Ratio, is_mapping, strict
from components.methods.parts.contract import Loss, Method
from components.models.parts.averaging import Ema, Swa
from components.models.parts.batch_norm import synchronised
from components.ntk.probe import ProbeSchedule
from components.numerics import parallel
from components.numerics.compute import Precision, channels_last
from components.numerics.cost import PassCounter
from components.numerics.random_numbers import Part, derived
from components.optimizers.parts.optimizer import Optimizer
from components.schedules.parts.schedule import Schedule, factor_of_step, momentum
from components.threats.parts.threat import Threat
from components.training.capture import IN_PARTS, Gradient
from components.training.checkpoint import Measure, TrainingState
from components.training.layers import Layers, groups_of, waiting
from components.training.parts import losses_of_parts

Record = dict[str, float]
"""One finished epoch: `epoch`, `learning_rate`, `train_loss`, the method's parts, and what was measured after it."""

# A loss that is not finite is looked for this often, so that a GPU is not stopped at every step.
CHECK_EVERY = 50


def _fields_or_rule(value: object) -> object:
    if not is_mapping(value) and not hasattr(value, "move"):
        raise ValueError("input should be an object")
    return value


@strict
class Recipe:
    """How a model is trained, apart from the objective: the fields are keys of a training section in params.yaml.

    `average` is what becomes of the weights on the way (`ema`, `swa`, or null); `gradient_clip` the largest gradient
    norm, or null. The best epoch is the last one with the highest `select_by` on the validation split; training ends
    early once `patience` epochs have not reached it, or never with null.
    """

    epochs: Epochs  # Passes over the training images.
    batch_size: Annotated[int, Field(ge=2, le=2**20)]  # Images of one step.
    learning_rate: Positive  # The largest of the run; the schedule multiplies it.
    optimizer: Annotated[Any, BeforeValidator(_fields_or_rule)]
    """The optimizer's name, with that member's fields; when training begins, the member itself."""
    gradient_clip: Positive | None  # The largest gradient norm; null: no limit.
    average: Annotated[Ema | Swa, Field(discriminator="name")] | None  # How weights are averaged; null: not at all.
    augmentation: Augmentation  # How each image is changed before a step.
    precision: Precision  # What matrix products and convolutions compute in.
    select_by: Literal["clean_accuracy", "robust_accuracy", "mean_accuracy"]
    """The best epoch is the last one with the highest such value on the validation split."""
    patience: Epochs | None  # Training ends after that many epochs without a best one; null: never early.
    extra_share: Annotated[Fractional, Field(ge=0, lt=1)] = Ratio(0)  # Of each batch, from `fetch_data.extra`.
    layers: Layers | None = None  # How layers differ in what they learn; null: not at all.
    micro_batch: Annotated[int, Field(ge=2)] | None = None
    """Images that go through the network at a time, where a batch is more than memory holds; null: the whole batch.
    Parts are even, and batch norm sees one of them."""

    @property
    def at_a_time(self) -> int:
        """Images that go through the network at a time, while it is measured too."""
        return min(self.micro_batch or self.batch_size, self.batch_size)

    def remedy(self, stage: str, divisible: bool, ntk: ProbeSchedule) -> str:
        """What to lower where memory is short: the keys that bound what goes through the network at a time."""
        key = "micro_batch" if self.micro_batch else "batch_size"
        parts = ", or set micro_batch to less than that" * (divisible and not self.micro_batch)
        kernel = f", or ntk.size ({ntk.size})" * bool(ntk.epochs)
        return f"lower {stage}.recipe.{key} ({getattr(self, key)}){parts}{kernel}"


class Plan(NamedTuple):
    """All that a run follows besides its state: recipe, learning rates, threat model and the seed of its order.

    `batch_norm` matters where processes train together.
    """

    recipe: Recipe
    schedule: Schedule
    threat: Threat
    seed: int
    batch_norm: parallel.BatchNormOver = "synchronised"


class _Speed(NamedTuple):
    """What the schedule sets of the optimizer for one step."""

    learning_rate: float
    momentum: float


class _StepRecord(NamedTuple):
    """What is kept of a step until the epoch ends: still tensors, so that nothing waits for the device."""

    learning_rate: float
    loss: Loss
    gradient_norm: Tensor | None


def start(model: nn.Module, method: Method, measure: Measure, recipe: Recipe, seed: int) -> TrainingState:
    """The state before the first step. `model` is already on its device; the generator is on the same one."""
    model = channels_last(model)
    if recipe.micro_batch is not None and not method.divisible:
        raise InputError(f"recipe.micro_batch: {method.name} needs the whole batch at once (want null)")
    device = next(model.parameters()).device
    optimizer = Optimizer(recipe.optimizer, groups_of(model, method, recipe.layers))
    rng = torch.Generator(device).manual_seed(derived(seed, "training"))
    average = None if recipe.average is None else recipe.average.of(model)
    return TrainingState(model, optimizer, rng, method.to(device), measure, average, recipe.layers)


def fit(state: TrainingState, loader: Batches, plan: Plan, folder: Path) -> Iterator[Record]:
    """Trains `state.model` and yields the record of each epoch that ran now (earlier ones are in `state.history`).

    A checkpoint is written to `folder` before each yield; if there is one already, training continues after it, bit
    for bit as if it had never stopped. After a roll back of the sentinel, records of epochs that were rolled back come
    again. Errors: a loss that is not finite, with what led to it; a checkpoint that does not fit.
    """
    state.load(folder)
    while len(state.history) <= plan.recipe.epochs and not _is_over(state, plan.recipe):
        began = time.monotonic()
        record = _epoch(state, loader, plan, len(state.history))
        state.seconds += time.monotonic() - began
        if state.watch is not None and state.watch.alarmed:
            state.give_up_epoch(folder)
            continue
        _keep(state, record, plan.recipe, folder)
        yield record


def _epoch(state: TrainingState, loader: Batches, plan: Plan, epoch: int) -> Record:
    """The record of an epoch that runs now; cut short where the sentinel gives the epoch up."""
    counter, watch = PassCounter(state.model, *state.method.networks()), state.watch
    state.capture.counter = counter
    shared_norms = _networks(state) if plan.batch_norm == "synchronised" else []
    try:
        # Record 0 is the model before training: the reference of every curve.
        with synchronised(*shared_norms):
            trained = _train_epoch(state, loader, plan, epoch - 1) if epoch else {}
        record: Record = {"epoch": epoch} | trained
        # Looking is not training.
        passes = {name: n - (watch.passes[name] if watch is not None else 0) for name, n in counter.take().items()}
    finally:
        counter.close()
    passes = dict(zip(passes, parallel.total(*passes.values()), strict=True))
    for name, count in passes.items():
        state.passes[name] += count
    if watch is not None and watch.alarmed:
        return record
    record |= parallel.agreed(state.measure(state.published, epoch))
    state.method.end_validation(record)
    if watch is not None:
        record |= watch.end_epoch(state.model, record, sum(passes.values()), averaged=state.average is not None)
    return record


def _train_epoch(state: TrainingState, loader: Batches, plan: Plan, epoch: int) -> Record:
    state.model.train()
    state.method.train()
    state.method.begin_epoch(epoch)
    with waiting(state.model, plan.recipe.layers, epoch):
        cut = num_parts(loader.largest_batch, parallel.world_size(), plan.recipe.micro_batch) > 1
        state.capture.begin_epoch(state.model, state.method, state.rng, IN_PARTS if cut else "")
        steps = _steps(state, loader, plan, epoch)
    if not steps:
        return {}
    parallel.average_buffers(*_networks(state))
    state.method.end_epoch(state.model)
    if state.average is not None:
        state.average.end_epoch(state.model, epoch + 1, loader.clean)
        parallel.average_buffers(state.average.model)
    return _summary(steps)


def _steps(state: TrainingState, loader: Batches, plan: Plan, epoch: int) -> list[_StepRecord]:
    """The steps of an epoch; none of them where the sentinel gives it up."""
    recipe, replays = plan.recipe, state.method.replays
    steps: list[_StepRecord] = []
    # The order of an epoch is a function of seed and epoch, so a checkpoint needs no sampler position.
    batches = loader.epoch(order_seed=derived(plan.seed, "order", epoch), rng=state.rng)
    num_steps = loader.num_batches * replays
    for index, batch in enumerate(batch for batch in batches for _ in range(replays)):
        progress = epoch + index / num_steps
        rate = recipe.learning_rate * factor_of_step(plan.schedule, progress, recipe.epochs, 1 / num_steps)
        speed = _Speed(rate, momentum(plan.schedule, progress, recipe.epochs, state.optimizer.rule.largest_momentum))
        gradient = state.capture.gradient(lambda batch: _gradient(state, plan, batch), batch)
        steps.append(_update(state, gradient, speed))
        if len(steps) % CHECK_EVERY == 0 or len(steps) == num_steps:
            _require_finite(steps, epoch)
        if state.watch and state.watch.after_step(state.model, steps[-1].loss.total, epoch, index + 1, num_steps):
            return []
    return steps


def _stream(state: TrainingState, batch: Batch) -> Part:
    """What this process draws from for its part of the batch. Error: too small a part for batch norm."""
    ranks = parallel.world_size()
    if batch.total < 2 * ranks and ranks > 1:
        raise InputError(f"recipe.batch_size: got a batch of {batch.total} for {ranks} processes, want at least 2 each")
    return Part.share(state.rng, parallel.rank(), ranks, batch.total)


def _gradient(state: TrainingState, plan: Plan, batch: Batch) -> Gradient:
    """Leaves the gradient of the whole batch's loss in `.grad`; of that batch this process has a share of the images.

    The loss and its parts are those of the whole batch.
    """
    state.optimizer.zero_grad()
    loss, parameters = _backward(state, batch, plan), state.optimizer.parameters
    total, *parts = parallel.sum_gradients(parameters, loss.total, *loss.parts.values())
    clip = plan.recipe.gradient_clip
    norm = None if clip is None else nn.utils.clip_grad_norm_(parameters, clip)
    return Gradient(Loss(total, dict(zip(loss.parts, parts, strict=True))), norm)


def _backward(state: TrainingState, batch: Batch, plan: Plan) -> Loss:
    """Adds the gradients of this process's share of the batch's loss; that share, and those of its parts, detached.

    With `micro_batch`, in parts: each draws what it would draw within the whole.
    """
    rng, shares = _stream(state, batch), list[Loss]()
    count = num_parts(batch.total, parallel.world_size(), plan.recipe.micro_batch)
    cut = [(part, rng if count == 1 else rng.alike(places)) for places, part in batch.cut(count)]
    losses = losses_of_parts(state.model, state.method, cut, plan.threat, plan.recipe.precision)
    for (part, _), loss in zip(cut, losses, strict=True):
        share = len(part.images) / batch.total
        (loss.total * share).backward()
        shares.append(Loss(loss.total.detach() * share, {n: value.detach() * share for n, value in loss.parts.items()}))
    if count > 1:
        rng.generator.set_state(cut[-1][1].generator.get_state())
    names = shares[0].parts
    return Loss(_sum(one.total for one in shares), {name: _sum(one.parts[name] for one in shares) for name in names})


def _sum(numbers: Iterable[Tensor]) -> Tensor:
    return reduce(add, numbers)


def _update(state: TrainingState, gradient: Gradient, speed: _Speed) -> _StepRecord:
    """Steps along the gradient in `.grad`."""
    state.optimizer.step(*speed)
    if state.average is not None:
        state.average.update(state.model)
    return _StepRecord(speed.learning_rate, gradient.loss, gradient.norm)


def _require_finite(steps: list[_StepRecord], epoch: int) -> None:
    """Stops at the first loss that is not finite among the steps not looked at yet, and says what led to it."""
    losses = torch.stack([step.loss.total for step in steps])
    finite = losses.isfinite()
    if bool(finite.all()):
        return
    bad = int((~finite).nonzero()[0])
    before = ", ".join(
        f"{float(step.loss.total):.4g}"
        + (f" (gradient norm {float(step.gradient_norm):.3g})" if step.gradient_norm is not None else "")
        for step in steps[max(0, bad - 5) : bad]
    )
    parts = ", ".join(f"{name} {float(value):.4g}" for name, value in steps[bad].loss.parts.items())
    raise InputError(
        f"training: loss became {float(losses[bad])} in epoch {epoch + 1}, step {bad + 1}, at learning rate "
        f"{steps[bad].learning_rate:.4g}; {parts}; losses before: {before or 'none in this epoch'}. "
        "Lower learning_rate, set gradient_clip, or use precision float32"
    )


def _summary(steps: list[_StepRecord]) -> Record:
    """Means over the epoch's steps; one transfer from the device for all of them."""
    names = ["train_loss", *steps[0].loss.parts]
    values = torch.stack([torch.stack([s.loss.total, *(s.loss.parts[n] for n in names[1:])]).double() for s in steps])
    return {"learning_rate": steps[-1].learning_rate} | dict(zip(names, values.mean(0).tolist(), strict=True))


def _keep(state: TrainingState, record: Record, recipe: Recipe, folder: Path) -> None:
    state.history.append(record)
    score = record[recipe.select_by]
    # Ties go to the later epoch: with few validation images they are common, and it has seen more.
    if score >= state.best_score:
        state.best_epoch, state.best_score = int(record["epoch"]), score
    state.save(folder)


def _is_over(state: TrainingState, recipe: Recipe) -> bool:
    """Whether patience has run out, or the sentinel has stopped training."""
    stopped = state.watch is not None and state.watch.stopped
    return stopped or (recipe.patience is not None and len(state.history) - 1 - state.best_epoch >= recipe.patience)


def _networks(state: TrainingState) -> list[nn.Module]:
    """All that has running statistics of the training batches: no frozen teacher, and nothing that a method
    remembers."""
    average = [] if state.average is None else [state.average.model]
    return [state.model, *state.method.companions(), *average]
