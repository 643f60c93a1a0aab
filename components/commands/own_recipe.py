"""A recipe for a folder of images: what differs from the complete one. Nothing here imports torch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from components.commands.survey_images import Survey

# Of the complete recipe, what the shares below are of.
VALIDATION, TEST = Fraction(1, 10), Fraction(1, 5)
# Images in all epochs of the robust teacher: 30 epochs of a small set, 10 of a large one, as in the presets.
SEEN, FEWEST, MOST = 84_000, 10, 30
# Epochs of the clean teacher and of the student, for one of the robust teacher.
OF_CLEAN, OF_STUDENT = Fraction(2, 3), Fraction(4, 3)
BATCH = 128
# What the student's temperatures may move in all: about 7, as in the recipes of presets/.
TEMPERATURES = 7
# Images that are used where all of them would take too long.
TRAIN_LIMIT, TEST_LIMIT = 12_000, 1_000
# From this side on, an evaluation finds out how many images memory holds, and the kernel's probe looks at few.
LARGE_SIDE, FEW_PROBED = 96, 16


class Sizes(NamedTuple):
    """How many images each split will have."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Effort:
    """How much a run does: a model and its width, how long it is trained, on how many images."""

    model: str
    width: float
    epochs: int
    """Of the robust teacher; the others follow."""
    limited: bool = False


def efforts(found: Survey, gpu: bool) -> Iterator[Effort]:
    """From what one would want to what any machine can do."""
    whole = sizes(found, limited=False)
    epochs = min(MOST, max(FEWEST, round(SEEN / max(1, whole.train))))
    networks = [("resnet18", 1.0)] * gpu + [("small_cnn", 1.0), ("small_cnn", 0.5)]
    for model, width in networks:
        yield Effort(model, width, epochs)
    model, width = networks[-1]
    yield Effort(model, width, FEWEST)
    if (whole.train, whole.test) != sizes(found, limited=True)[::2]:
        for limited_epochs in dict.fromkeys((FEWEST, FEWEST // 2)):
            yield Effort(model, width, limited_epochs, limited=True)


def sizes(found: Survey, limited: bool) -> Sizes:
    """About how many images the splits get, as `normalize_data` divides them."""
    counts = {split: sum(classes.values()) for split, classes in found.counts.items()}
    train, held_out = counts["train"], [name for name in ("test", "val") if name in counts]
    test = counts[held_out[0]] if held_out else round(TEST * train)
    train -= 0 if held_out else test
    if limited:
        train, test = min(train, TRAIN_LIMIT), min(test, TEST_LIMIT)
    if len(held_out) == 2:
        return Sizes(train, min(counts["val"], TEST_LIMIT) if limited else counts["val"], test)
    share = VALIDATION if held_out else VALIDATION / (1 - TEST)
    return Sizes(train - round(share * train), round(share * train), test)


class Wishes(NamedTuple):
    """What a person decides: the radius, whether a mirrored image is one of its class, the side of images, a title."""

    epsilon: Fraction
    flip: bool
    side: int
    title: str


def delta(found: Survey, effort: Effort, wishes: Wishes) -> dict[str, Any]:
    """What the recipe changes of the complete one, for this folder at this effort."""
    split = sizes(found, effort.limited)
    clean, robust, student = (max(1, round(part * effort.epochs)) for part in (OF_CLEAN, Fraction(1), OF_STUDENT))
    limits = {"train_limit": TRAIN_LIMIT, "test_limit": TEST_LIMIT} if effort.limited else {"train_limit": None}
    steps = math.ceil(split.train / BATCH) * student
    large = wishes.side >= LARGE_SIDE
    return {
        "threat.epsilon": _levels(wishes.epsilon),
        "ntk": {
            "epochs": sorted({0, 1, 2, 4, 8, 15, clean, robust, student}),
            "size": min(FEW_PROBED if large else 50, split.train),
        },
        "fetch_data": _data(found, wishes),
        "normalize_data": limits,
        "train_clean_teacher": _training(effort, wishes, clean),
        "train_robust_teacher": _training(effort, wishes, robust),
        "distill_student": _training(effort, wishes, student)
        | {
            "required": None,
            "method.temperature_step": float(f"{TEMPERATURES / steps:.0e}"),
        },
        "evaluate_attacks.probe_images": min(200, split.test),
        **({"evaluate_attacks.batch_size": "auto"} if large else {}),
    }


def _data(found: Survey, wishes: Wishes) -> dict[str, Any]:
    folder = str(found.folder)
    dataset = {
        "name": "image_folder",
        "folder": folder,
        "image_size": wishes.side,
        "color": "gray" if found.gray else "rgb",
        # Where images are no squares, their edges may be what matters.
        "resize": "crop" if found.square else "stretch",
        "streamed": None,
        "title": wishes.title,
    }
    return {"dataset": dataset, "files": folder}


def _training(effort: Effort, wishes: Wishes, epochs: int) -> dict[str, Any]:
    batch_norm = {"estimator": "running", "momentum": 0.1}
    return {
        "model": {"name": effort.model, "width": _plain(effort.width), "batch_norm": batch_norm},
        "recipe": {
            "epochs": epochs,
            "batch_size": BATCH,
            "augmentation": {"crop": wishes.side // 16, "flip": wishes.flip},
        },
    }


def _levels(epsilon: Fraction) -> str:
    """A radius as people write it: in grey levels of 255 where they are whole, else the plain fraction."""
    levels = epsilon * 255
    return f"{levels}/255" if levels.denominator == 1 else str(epsilon)


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else number


def relative(folder: Path, root: Path) -> Path:
    """The folder as the recipe names it: below the project relative to it, else absolute."""
    whole = folder.expanduser().absolute()
    return whole.relative_to(root.absolute()) if whole.is_relative_to(root.absolute()) else whole
