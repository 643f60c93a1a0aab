"""About how long a recipe takes on this machine: its passes, counted, times the time of one, measured."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from components.attacks.bim import Bim
from components.attacks.iter_ll import IterLl
from components.attacks.parts.ascent import grey_level_steps
from components.attacks.pgd import Pgd
from components.commands.own_recipe import Sizes
from components.data.normalization import Normalization
from components.evaluation.campaign import Task
from components.evaluation.suite import Suite
from components.foundation.params import Params, member
from components.models import MODELS
from components.numerics.compute import Compute, channels_last, training_arithmetic
from components.stages.tasks import read_suite
from components.threats import NORMS
from components.threats.parts.threat import read_threat

TRAINED = ("train_clean_teacher", "train_robust_teacher", "distill_student")
# Of the steps of the cascade, the share that images of a robust model take: the others fall before. Of the embedded
# run, robust teacher, 0.70 of 1,000 steps (evaluation.json, `cost`).
STANDING = 0.7
# Of both passes, the share of the forward one.
FORWARD = 1 / 3
SECONDS = 1.0
"""For each of the two measurements."""
PROCESSES = 8
# Pixels that are measured with on a CPU: as many as a batch of small images has. One image of 224 pixels is enough
# work to fill a processor, and a whole batch of them takes minutes and gigabytes.
PIXELS = 128 * 32 * 32
# Any number will do to count the attacks.
SOME_CLASSES = 10


class Speed(NamedTuple):
    """Seconds for one image, forward and backward: in an attack, and with a step of the optimizer."""

    attack: float
    training: float


class Work(NamedTuple):
    """Images that pass forward and backward, in training and in attacks."""

    training: float
    attack: float


def minutes(work: Work, speed: Speed, start: float) -> float:
    """What a run takes, `start` being the seconds in which one process begins."""
    return (work.training * speed.training + work.attack * speed.attack + PROCESSES * start) / 60


def work_of(values: Mapping[str, Any], split: Sizes) -> Work:
    """The passes of a recipe. What falls early is counted as `STANDING` says, so it is an estimate from above."""
    training = attack = 0.0
    for stage in TRAINED:
        section = values[stage]
        epochs, inner = section["recipe"]["epochs"], section["method"].get("attack")
        attack += epochs * split.train * (inner["steps"] if inner else 0)
        # A student's images pass through two teachers, forward.
        training += epochs * split.train * (1 + (2 * FORWARD if stage == TRAINED[-1] else 0))
        attack += epochs * split.validation * (FORWARD + section["validation_attack"]["steps"])
    return Work(training, attack + split.test * steps_of(read_suite(Params(values), "evaluate_attacks", SOME_CLASSES)))


def steps_of(suite: Suite) -> float:
    """The steps that an evaluation takes for each image, of three selected models and of their last checkpoints."""
    full = {task.name: _steps(task) for task in suite.full_tasks()}
    cascade = sum(steps for name, steps in full.items() if name.startswith("cascade/"))
    last = sum(map(_steps, suite.short_tasks(suite.section.last_epoch_attacks)))
    # Of the clean teacher nothing stands that a cascade could be tried on.
    return 3 * (sum(full.values()) - cascade + last) + 2 * STANDING * cascade


def _steps(task: Task) -> float:
    """How many gradients, or queries, an attack takes for one image."""
    attack = task.attack
    if attack is None or isinstance(attack, (Bim, IterLl)):
        return 0 if attack is None else grey_level_steps(task.threat.epsilon)
    return math.prod(
        max(1, getattr(attack, field, 1)) for field in ("steps", "queries", "samples", "targets", "restarts")
    )


def speed_of(values: Mapping[str, Any], num_classes: int, shape: tuple[int, int, int]) -> Speed:
    """Measured now, with the recipe's student on images of noise."""
    params = Params(values)
    device, section = params.typed(Compute, "compute").prepare(), values["distill_student"]
    nothing = Normalization(method="none", offset=(0.0,) * shape[0], scale=(1.0,) * shape[0])
    model = channels_last(member(MODELS, section["model"], "model").build(num_classes, shape, nothing).to(device))
    rng = torch.Generator(device).manual_seed(0)
    count = section["recipe"]["batch_size"]
    if device.type == "cpu":
        count = min(count, max(2, PIXELS // (shape[1] * shape[2])))
    images = torch.rand((count, *shape), generator=rng, device=device)
    labels = torch.arange(len(images), device=device) % num_classes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    threat = read_threat(NORMS, values["threat"], "threat")
    attack = params.typed(Pgd, "distill_student", "validation_attack", epsilon=threat.epsilon)
    precision = section["recipe"]["precision"]

    def step() -> None:
        with training_arithmetic(device, precision):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def climb() -> None:
        with training_arithmetic(device, precision):
            attack(model, images, labels, threat, rng)

    return Speed(_seconds(climb, device) / len(images) / attack.steps, _seconds(step, device) / len(images))


def _seconds(once: Callable[[], None], device: torch.device) -> float:
    """The time of one call, over as many as fit into `SECONDS`, after one that is not counted."""
    once()
    began, calls = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        once()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        calls += 1
    return (time.monotonic() - began) / calls
