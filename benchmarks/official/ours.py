"""Runs a training section of a preset through the project's own loop, on given batches, from given weights."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.official.tape import Step, Tape, TinyNet, pictures, recording, replaying
from components.data.batch import Batch
from components.data.normalization import Normalization, Normalize
from components.distillation import DISTILLATIONS
from components.distillation.parts.balance import Pair
from components.distillation.parts.balances import Temperatures, Weights, named
from components.foundation.params import Params
from components.foundation.recipes import changed
from components.methods import METHODS
from components.methods.parts.contract import needs
from components.schedules.parts.schedule import Schedule
from components.stages import distill_student
from components.stages.training_stage import Settings, read_settings, wrapped
from components.training.loop import Plan, fit, start
from pipelines.parameters.presets import preset_values

ROOT = Path(__file__).resolve().parents[2]
OWN_KEYS = {"train_robust_teacher": ("warm_start",), "distill_student": distill_student.OWN_KEYS}


class Replay:
    """Stands in for the loader: these batches, epoch after epoch."""

    def __init__(self, epochs: Sequence[Sequence[Batch]]) -> None:
        self.epochs, self.num_batches = iter(epochs), len(epochs[0])
        self.largest_batch = max(len(batch.images) for batch in epochs[0])

    def clean(self, num_batches: int) -> Iterator[Tensor]:
        raise NotImplementedError("no preset here averages weights")

    def epoch(self, order_seed: int, rng: torch.Generator) -> Iterator[Batch]:
        return iter(next(self.epochs))


class Unmeasured:
    """Stands in for the validation: every epoch is as good as any other."""

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {"clean_accuracy": 0.0, "robust_accuracy": 0.0, "mean_accuracy": 0.0}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


def settings_of(preset: str, stage: str, changes: Mapping[str, Any]) -> Settings:
    """The settings of a preset's training stage; the changes are keys of that stage."""
    # Averages change no step.
    delta = {stage: {"recipe.average": None, **changes}}
    values = changed(preset_values(ROOT, preset), delta, "benchmark")
    methods = DISTILLATIONS if stage == "distill_student" else METHODS
    return read_settings(Params(values), stage, methods, OWN_KEYS[stage])


def in_front(network: TinyNet, offset: Sequence[float], scale: Sequence[float]) -> nn.Module:
    """The network behind a first layer that normalises."""
    normalization = Normalization(method="standardize", offset=tuple(offset), scale=tuple(scale))
    return nn.Sequential(Normalize(normalization), network)


def train(
    settings: Settings,
    tape: Tape,
    epochs: Sequence[Sequence[Batch]],
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    teachers: Sequence[int] = (),
    schedule: Callable[[Schedule], Schedule] = lambda schedule: schedule,
    drawn: Callable[[Tensor], Tensor] | None = None,
    own: Tape | None = None,
    companion: str = "",
) -> list[Step]:
    """The steps of our code from the official one's first weights, with its draws.

    Args:
        normalization: offset and scale of the model's first layer; None: no such layer.
        teachers: the places on the tape of the networks that the method asks for.
        schedule: what becomes of the preset's schedule.
        drawn: the draws for images, where they are not simply those of the tape, in order.
        own: where the steps go, with the method's balances; None: a tape that nobody sees.
        companion: the name of the method's network that learns beside.
    """
    own, watched = Tape() if own is None else own, list[TinyNet]()
    patches = replaying(tape.drawn if drawn is None else drawn)
    with recording(own, lambda: watched[0], patches), tempfile.TemporaryDirectory() as folder:
        network = tape.fresh()
        watched.append(network)
        model = network if normalization is None else in_front(network, *normalization)
        method = wrapped(settings, settings.method.build(*(tape.fresh(place).eval() for place in teachers)))
        own.noted = partial(balances_of, method)
        own.companion = method.get_submodule(companion) if companion else None
        recipe = settings.section.recipe
        state = start(model, method, Unmeasured(), recipe, settings.seed)
        plan = Plan(recipe, schedule(settings.schedule), settings.threat, settings.seed)
        with patch.object(torch, "save", None):
            list(fit(state, Replay(epochs), plan, Path(folder)))
    return own.steps


def balances_of(method: nn.Module) -> dict[str, Tensor]:
    """The temperatures, which are those of the next step, the weights of this step, and the losses of the first."""
    noted = dict[str, Tensor]()
    for module in method.modules():
        if isinstance(module, Weights):
            noted |= named(weight=Pair(*module.current), first_loss=Pair(*module.first_losses))
        elif isinstance(module, Temperatures):
            noted |= named(temperature=Pair(*module.current))
    return noted


def alone(preset: str, stage: str) -> list[float]:
    """The losses of ten steps of the preset's section, without official code: from seeded weights, with seeded draws.

    Whoever changes what a method computes changes them, so that a comparison that was made once is known to hold.
    """
    settings = settings_of(preset, stage, {"recipe.epochs": 2})
    teachers = range(1, 1 + sum(name.endswith("teacher") for name in needs(settings.method)))
    tape = seeded_tape(1 + len(teachers))
    given = batches(epochs_of(pictures(80, 0, saturated=True), 2, 5))
    steps = train(
        settings, tape, given, teachers=teachers, drawn=lambda x: torch.rand(x.shape, generator=tape.generator)
    )
    return [float(step.loss) for step in steps]


def seeded_tape(num_networks: int) -> Tape:
    """A tape with so many networks, as if an official script had begun with them."""
    tape = Tape()
    with torch.random.fork_rng(), recording(Tape(), TinyNet, ()):
        torch.manual_seed(0)
        for _ in range(num_networks):
            tape.network()
        tape.begin()
    return tape


def batches(epochs: Sequence[Sequence[tuple[Tensor, ...]]]) -> list[list[Batch]]:
    """Images in [0, 1] and labels as the loop takes them, unmoved."""
    return [[Batch.of(images, labels)._replace(total=len(images)) for images, labels, *_ in epoch] for epoch in epochs]


def epochs_of(pictures: tuple[Tensor, Tensor], num_epochs: int, num_batches: int) -> list[list[tuple[Tensor, ...]]]:
    """The pictures cut into batches."""
    parts = list(zip(*(part.chunk(num_epochs * num_batches) for part in pictures), strict=True))
    return [parts[first : first + num_batches] for first in range(0, len(parts), num_batches)]


def constants(args: Any, preset: str) -> dict[str, tuple[Any, Any]]:
    """What a script's command line says of the optimizer and the length of the run, and what the preset says."""
    recipe = settings_of(preset, "train_robust_teacher", {}).section.recipe
    own = {name: getattr(recipe, name) for name in ("epochs", "learning_rate", "batch_size")}
    own["weight_decay"] = recipe.optimizer.weight_decay
    pairs = {"epochs": "epochs", "lr_max": "learning_rate", "weight_decay": "weight_decay", "batch_size": "batch_size"}
    # One script has its epochs as a constant of the file, which is shortened by an edit.
    return {name: (getattr(args, t), own[name]) for t, name in pairs.items() if hasattr(args, t)}
