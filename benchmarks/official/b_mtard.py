"""The two papers of `cifar10_paper`: TRADES, yaodongyu/TRADES, and B-MTARD, zhaoshiji123/MTARD-extension and MTARD."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import torchvision

from benchmarks.official import ours, script
from benchmarks.official.case import Case, Outcome
from benchmarks.official.tape import Tape, differences_beside, pictures

BATCHES, IMAGES = 2, 16
PRESET = "cifar10_paper"


def no_data(feed: script.Feed) -> list[Any]:
    """Patches under which the scripts find no data set, and a loader that yields the feed."""
    return [
        patch.object(torchvision.datasets, "CIFAR10", lambda *_, **__: []),
        patch.object(torch.utils.data, "DataLoader", lambda *_, **__: feed),
    ]


def trades(folder: Path, preset: str) -> Outcome:
    tape, num_epochs, num_batches = Tape(), 2, 5
    given = ours.epochs_of(pictures(num_epochs * num_batches * IMAGES, 0, saturated=False), num_epochs, num_batches)

    def prepare(members: dict[str, Any]) -> None:
        members["args"].epsilon = 8 / 255
        members["WideResNet"] = tape.network
        members |= script.no_evaluation("eval_train", "eval_test")

    official = script.run(
        folder / "train_trades_cifar10.py",
        tape,
        argv={"--epochs": num_epochs},
        patches=no_data(script.Feed(given, tape)),
        prepare=prepare,
    )
    settings = ours.settings_of(preset, "train_robust_teacher", {"recipe.epochs": num_epochs})
    steps = ours.train(settings, tape, ours.batches(given))
    return Outcome(tape.steps, steps, _trades_constants(official, preset))


def _trades_constants(official: dict[str, Any], preset: str) -> dict[str, tuple[Any, Any]]:
    """The recipe's numbers, and the learning rate of each epoch of the whole run."""
    settings = ours.settings_of(preset, "train_robust_teacher", {})
    recipe, args, theirs = settings.section.recipe, official["args"], list[float]()
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    for epoch in range(1, recipe.epochs + 1):
        official["adjust_learning_rate"](optimizer, epoch)
        theirs.append(round(optimizer.param_groups[0]["lr"], 12))
    factors = [settings.schedule.factor(epoch, recipe.epochs) for epoch in range(recipe.epochs)]
    rates = [round(recipe.learning_rate * factor, 12) for factor in factors]
    return {
        "learning_rate": (theirs, rates),
        "weight_decay": (args.weight_decay, recipe.optimizer.weight_decay),
        "momentum": (args.momentum, recipe.optimizer.momentum),
        "batch_size": (args.batch_size, recipe.batch_size),
    }


def b_mtard(folder: Path, preset: str) -> Outcome:
    tape, num_epochs = Tape(), 5
    given = ours.epochs_of(pictures(num_epochs * BATCHES * IMAGES, 0, saturated=False), num_epochs, BATCHES)
    feed = script.Feed([[(*batch, batch[1]) for batch in epoch] for epoch in given], tape)
    names = dict.fromkeys(("CIFAR10", "CIFAR100", "SVHN"), lambda **_: [])
    networks = dict.fromkeys(("resnet18", "WideResNet", "resnet56"), tape.network)
    # A teacher's file holds what the network just made has drawn.
    weights = patch.object(torch, "load", lambda _: tape.networks[-1].state_dict())
    official = script.run(
        folder / "resnet18_mtard_cifar10.py",
        tape,
        edits={
            "epochs = 300": f"epochs = {num_epochs}",
            "[215,260,285]": "[2,3,4]",
            "or epoch == 1:": "and False:",
            "torch.log(b+1e-5)": "torch.log(b)",
            "torch.log(a+1e-5)": "torch.log(a)",
        },
        modules={
            "mtard_loss": _module(folder.parent / "MTARD" / "mtard" / "mtard_loss.py"),
            "cifar10_models": script.stand_in("cifar10_models", **networks),
            "dataset": script.stand_in("dataset", **names),
        },
        patches=[*no_data(feed), weights],
        noted=lambda members: weights_of(members) | first_losses_of(members) | temperatures_of(members),
    )
    changes = {"recipe.epochs": num_epochs, "schedule.milestones": [2, 3, 4], "method.balance_milestones": [2, 3, 4]}
    settings = ours.settings_of(preset, "distill_student", changes)
    own = Tape()
    ours.train(settings, tape, ours.batches(given), teachers=(2, 1), own=own)
    return Outcome(tape.steps, own.steps, _b_mtard_constants(official, preset), differences_beside(tape, own))


def weights_of(members: dict[str, Any]) -> dict[str, Any]:
    """What MTARD, B-MTARD and CIARD weigh both sides with."""
    weight = members["weight"]
    return {"weight_robust": weight["adv_loss"], "weight_clean": weight["nat_loss"]}


def first_losses_of(members: dict[str, Any]) -> dict[str, Any]:
    """What they hold later losses against."""
    return {"first_loss_robust": members["init_loss_adv"], "first_loss_clean": members["init_loss_nat"]}


def temperatures_of(members: dict[str, Any]) -> dict[str, Any]:
    """The temperatures of the next step of B-MTARD and CIARD."""
    return {"temperature_robust": members["temp_adv"], "temperature_clean": members["temp_nat"]}


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _b_mtard_constants(official: dict[str, Any], preset: str) -> dict[str, tuple[Any, Any]]:
    settings = ours.settings_of(preset, "distill_student", {})
    recipe, group = settings.section.recipe, official["optimizer"].defaults
    names = ("lr", "momentum", "weight_decay")
    values = (recipe.learning_rate, recipe.optimizer.momentum, recipe.optimizer.weight_decay)
    pairs = {name: (group[name], value) for name, value in zip(names, values, strict=True)}
    return pairs | {"batch_size": (official["batch_size"], recipe.batch_size)}


INTERIOR = "pixels lie in [0.1, 0.9], where neither side clips the start x + 0.001 N"
CLIPPED = "the start x + 0.001 N is clipped to [0, 1]; theirs is not"
CASES = [
    Case(
        PRESET,
        "train_robust_teacher",
        "yaodongyu/TRADES",
        "train_trades_cifar10.py",
        trades,
        (INTERIOR, "epsilon is 8/255 on both sides; theirs is 0.031"),
        (CLIPPED, "epsilon is 8/255; theirs is 0.031"),
    ),
    Case(
        PRESET,
        "distill_student",
        "zhaoshiji123/MTARD-extension",
        "resnet18_mtard_cifar10.py",
        b_mtard,
        (INTERIOR, "1e-5 inside their two logarithms is taken out"),
        (CLIPPED, "1e-5 inside their two logarithms, which shifts losses and entropies by about as much"),
    ),
]
