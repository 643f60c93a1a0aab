"""FGSM-MEP of Jia et al., jiaxiaojunQAQ/FGSM-PGI, and ConvergeSmooth around it, Mengnan-Zhao-Happy/ConvergeSmooth.

Both scripts hold all images in memory, in an order that they change every epoch, and crop and flip them themselves.
What they draw for that is recorded, and our code gets the same crops with each image's place.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.official import ours, script
from benchmarks.official.case import Case, Outcome
from benchmarks.official.tape import CLASSES, SIDE, Tape
from components.data.batch import Batch

NUM, BATCHES, PADDED = 32, 2, SIDE + 8


class Moves:
    """What the script draws to order and to move images: lists, in the order of drawing."""

    def __init__(self) -> None:
        self.orders: list[Tensor] = []
        self.shuffles: list[Tensor] = []
        self.numbers: list[int] = []

    def patches(self) -> list[Any]:
        """Patches under which everything drawn is noted too."""

        def noting(draw: Any, notes: list[Any]) -> Any:
            def drawn(*args: Any) -> Any:
                notes.append(draw(*args))
                return notes[-1]

            return drawn

        return [
            patch.object(np.random, "permutation", noting(np.random.permutation, self.orders)),
            patch.object(torch, "randperm", noting(torch.randperm, self.shuffles)),
            patch.object(random, "randint", noting(random.randint, self.numbers)),
            patch.object(random, "getrandbits", noting(random.getrandbits, self.numbers)),
        ]


class Seen(NamedTuple):
    """The batches of every epoch as the script saw them, and the noise of each batch that met new images."""

    epochs: list[list[Batch]]
    noise: list[Tensor]


def seen(images: Tensor, labels: Tensor, moves: Moves, draws: list[Tensor], reset_every: int) -> Seen:
    """The same crops and flips of `images` [N, C, 40, 40], by the recorded numbers."""
    places, numbers, drawn = torch.arange(NUM), iter(moves.numbers), iter(draws)
    epochs, noise = list[list[Batch]](), list[Tensor]()
    for epoch, (order, shuffle) in enumerate(zip(moves.orders, moves.shuffles, strict=True)):
        corners = torch.zeros(NUM, 3, SIDE, SIDE, dtype=torch.float64)
        if epoch % reset_every == 0:
            corners[places] = torch.stack([next(drawn) for _ in range(3)], 1)
        places = places[shuffle]
        batches: list[Batch] = []
        for chosen in places[torch.as_tensor(order)].chunk(BATCHES):
            cropped = torch.stack([_moved(images[place], numbers) for place in chosen])
            batches.append(Batch.of(cropped, labels[chosen])._replace(indices=chosen, total=len(chosen)))
            if epoch % reset_every == 0:
                # The script has +epsilon above the middle, ours below it.
                noise.append(1 - corners[chosen])
        epochs.append(batches)
    return Seen(epochs, noise)


def _moved(image: Tensor, numbers: Any) -> Tensor:
    flipped, down, right = next(numbers), next(numbers), next(numbers)
    cropped = image[:, down : down + SIDE, right : right + SIDE]
    return cropped.flip(2) if flipped else cropped


class Run(NamedTuple):
    """One of the two scripts: its file, options and edits, and the changes of the preset that shorten it alike."""

    file: str
    argv: dict[str, Any]
    edits: dict[str, str]
    changes: dict[str, Any]
    reset_every: int


def both(folder: Path, preset: str, run: Run) -> Outcome:
    tape, moves, rng = Tape(), Moves(), torch.Generator().manual_seed(0)
    images = 0.1 + 0.8 * torch.rand((NUM, 3, PADDED, PADDED), generator=rng, dtype=torch.float64)
    labels = torch.randint(CLASSES, (NUM,), generator=rng)
    loaders = lambda *_: (script.Feed([[(images, labels)]], tape), [])  # noqa: E731
    random.seed(0)
    official = script.run(
        folder / run.file,
        tape,
        argv={"--batch-size": NUM // BATCHES, "--epochs_reset": run.reset_every} | run.argv,
        edits=run.edits,
        modules={"models": script.stand_in("models", ResNet18=tape.network)},
        patches=moves.patches(),
        prepare=lambda members: members.update(
            {"get_all_loaders": loaders} | script.no_evaluation("evaluate_pgd", "evaluate_standard")
        ),
    )
    past = seen(images, labels, moves, tape.draws, run.reset_every)
    changes = {"method.reset_every": run.reset_every, "method.align": False} | run.changes
    settings = ours.settings_of(preset, "train_robust_teacher", changes)
    noise = iter(past.noise)
    steps = ours.train(settings, tape, past.epochs, drawn=lambda _: next(noise))
    return Outcome(tape.steps, steps, ours.constants(script.defaults(official), preset))


def fgsm_mep(folder: Path, preset: str) -> Outcome:
    edits = {"num_of_example = 50000": f"num_of_example = {NUM}", "torch.rand(50000,": f"torch.rand({NUM},"}
    edits |= {"100/110": "3/5", "105 / 110": "4/5"}
    changes = {"recipe.epochs": 5, "schedule.milestones": [3, 4]}
    return both(folder, preset, Run("FGSM_MEP.py", {"--epochs": 5}, edits, changes, 2))


def converge_smooth(folder: Path, preset: str) -> Outcome:
    edits = {"(50000,3,32,32)": f"({NUM},3,32,32)", "[0, 100, 105, 110]": "[0, 8, 12, 16]"}
    changes = {"recipe.epochs": 16, "schedule.milestones": [8, 12]}
    options = {"--initialize": True, "--reg-single": True}
    return both(folder, preset, Run("FGSM_MEP_CS.py", options, edits, changes, 6))


INTERIOR = "pixels lie in [0.1, 0.9], padding too: there the start x + delta is not clipped, here it is"
CASES = [
    Case(
        "cifar10_fgsm_mep",
        "train_robust_teacher",
        "jiaxiaojunQAQ/FGSM-PGI",
        "FGSM_MEP.py",
        fgsm_mep,
        (INTERIOR, "crops, flips and order are the script's"),
        ("the start x + delta is clipped to [0, 1]",),
    ),
    Case(
        "cifar10_converge_smooth",
        "train_robust_teacher",
        "Mengnan-Zhao-Happy/ConvergeSmooth",
        "FGSM_MEP_CS.py",
        converge_smooth,
        (INTERIOR, "crops, flips and order are the script's"),
        (
            "the start x + delta is clipped to [0, 1]",
            "the value of a pulled loss: theirs adds L or -L, ours |L - u|; the gradient is the same",
        ),
        ("loss",),
    ),
]
