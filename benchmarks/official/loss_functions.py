"""MART and HAT, whose authors publish the loss as a function: YisenWang/MART, imrahulr/hat.

The loop around it is ours here: it sets the learning rate that the preset says, passes back and steps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.official import ours, script
from benchmarks.official.b_mtard import CLIPPED, INTERIOR
from benchmarks.official.case import Case, Outcome
from benchmarks.official.tape import Tape, drawing, pictures, recording

EPOCHS, BATCHES, IMAGES = 2, 5, 16
ATTACK = {"step_size": 2 / 255, "epsilon": 8 / 255, "perturb_steps": 10}

LossOf = Callable[[nn.Module, nn.Module, Tensor, Tensor, torch.optim.Optimizer], Tensor]
"""Model, second network, images, labels, optimizer -> the loss, by the official function."""


def stepped(preset: str, loss_of: LossOf, teaches: bool) -> Outcome:
    """Ten steps of both sides; a second network is there, and our method asks for it where it `teaches`."""
    tape = Tape()
    given = ours.epochs_of(pictures(EPOCHS * BATCHES * IMAGES, 0, saturated=False), EPOCHS, BATCHES)
    settings = ours.settings_of(preset, "train_robust_teacher", {"recipe.epochs": EPOCHS})
    recipe, sgd = settings.section.recipe, settings.section.recipe.optimizer
    with recording(tape, lambda: tape.networks[0], drawing(tape)):
        model, second = tape.network(), tape.network().eval()
        tape.begin()
        optimizer = torch.optim.SGD(
            model.parameters(), recipe.learning_rate, sgd.momentum, 0, sgd.weight_decay, sgd.nesterov
        )
        for index, (images, labels) in enumerate(batch for epoch in given for batch in epoch):
            factor = settings.schedule.factor(index / BATCHES, EPOCHS)
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * factor
            loss = loss_of(model.train(), second, images, labels, optimizer)
            loss.backward()
            optimizer.step()
    steps = ours.train(settings, tape, ours.batches(given), teachers=(1,) if teaches else ())
    return Outcome(tape.steps, steps, {})


def mart(folder: Path, preset: str) -> Outcome:
    official = script.run(folder / "mart.py", Tape())["mart_loss"]
    return stepped(preset, lambda model, _, *rest: official(model, *rest, beta=5.0, **ATTACK), teaches=False)


def hat(folder: Path, preset: str) -> Outcome:
    core = {
        "core": script.stand_in("core"),
        "core.attacks": script.stand_in("core.attacks", create_attack=None),
        "core.metrics": script.stand_in("core.metrics", accuracy=lambda *_: 0.0),
    }
    text = {"from .context import": "from context import"}
    official = script.run(folder / "core" / "utils" / "hat.py", Tape(), edits=text, modules=core)["hat_loss"]

    def loss(model: nn.Module, helper: nn.Module, *rest: Any) -> Tensor:
        return official(model, *rest, h=2.0, beta=2.5, gamma=0.5, hr_model=helper, **ATTACK)[0]

    return stepped(preset, loss, teaches=True)


CASES = [
    Case(
        "cifar10_mart",
        "train_robust_teacher",
        "YisenWang/MART",
        "mart.py",
        mart,
        (INTERIOR, "the loop and its one-cycle rates are ours"),
        (CLIPPED, "1e-12 and 1.0000001 inside their divergence", "one-cycle rates; theirs fall in steps"),
    ),
    Case(
        "cifar10_hat",
        "train_robust_teacher",
        "imrahulr/hat",
        "core/utils/hat.py",
        hat,
        (INTERIOR, "the loop and its one-cycle rates are ours"),
        (CLIPPED, "the momentum is constant; theirs goes against the rate"),
    ),
]
