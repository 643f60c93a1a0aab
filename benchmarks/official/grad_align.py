"""GradAlign of Andriushchenko & Flammarion: tml-epfl/understanding-fast-adv-training."""

import logging
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from benchmarks.official import ours, script
from benchmarks.official.case import Case, Outcome
from benchmarks.official.tape import Tape, pictures
from components.schedules.parts.schedule import Schedule

EPOCHS, BATCHES, IMAGES = 5, 2, 16
# The options of sh/exps_diff_eps_cifar10.sh.
OPTIONS = {
    "cifar10_gradalign": {"--eps": 8, "--grad_align_cos_lambda": 0.2},
    "cifar10_gradalign_16": {"--eps": 16, "--grad_align_cos_lambda": 2.0},
}
SHARED = {"--attack_init": "zero", "--lr_max": 0.3}


class Ahead(NamedTuple):
    """A schedule some epochs ahead."""

    schedule: Schedule
    epochs: float

    def factor(self, progress: float, epochs: int) -> float:
        return self.schedule.factor(progress + self.epochs, epochs)


def grad_align(folder: Path, preset: str) -> Outcome:
    tape, seen = Tape(), pictures(EPOCHS * BATCHES * IMAGES, 0, saturated=False)
    given = ours.epochs_of(seen, EPOCHS, BATCHES)

    def prepare(members: dict[str, Any]) -> None:
        # Epoch 0 is one look without a step.
        feed = script.Feed(given, tape, begins=1)
        members["data"].get_loaders = lambda *_, shuffle, **__: feed if shuffle else []
        members["models"].get_model = tape.network
        members["rob_acc"] = lambda *_, **__: (0.0, 0.0, None)
        members["utils"].configure_logger = lambda *_: logging.Logger("official", logging.CRITICAL)
        members["utils"].get_grad_np = members["utils"].avg_cos_np = lambda *_, **__: 0.0

    official = script.run(
        folder / "train.py",
        tape,
        argv={"--epochs": EPOCHS} | SHARED | OPTIONS[preset],
        modules=script.apex(),
        patches=[patch.object(torch.cuda, "FloatTensor", torch.empty)],
        prepare=prepare,
    )
    settings = ours.settings_of(preset, "train_robust_teacher", {"recipe.epochs": EPOCHS})
    steps = ours.train(settings, tape, ours.batches(given), schedule=lambda schedule: Ahead(schedule, 1 / BATCHES))
    args = script.defaults(official)
    args.lr_max = SHARED["--lr_max"]
    return Outcome(tape.steps, steps, ours.constants(args, preset))


CASES = [
    Case(
        preset,
        "train_robust_teacher",
        "tml-epfl/understanding-fast-adv-training",
        "train.py",
        grad_align,
        (
            "pixels lie in [0.1, 0.9], where neither side clips the nearby point nor halves a gradient",
            "the network normalises nothing; theirs does it inside, as our first layer does",
            "our schedule is read one step later, as theirs counts steps from 1",
            "the first statistics of batch norm are those after the official script's look before training",
        ),
        (
            "the rate of each step is theirs of the step before",
            "the nearby point is clipped to [0, 1]; theirs is not",
            "theirs clips by minimum and maximum, which halve the gradient of pixels at exactly 0 or 1",
        ),
    )
    for preset in OPTIONS
]
