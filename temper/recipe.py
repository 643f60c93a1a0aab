"""Writes a recipe for a folder of images, which needs no change (`temper init`). torch is imported late."""

import os
import re
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from components.commands.own_recipe import Effort, Sizes, Wishes, delta, efforts, relative, sizes
from components.commands.survey_images import Survey, epsilon_for, survey
from components.evaluation.few_classes import require_classes
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.params import Params, PositiveFraction, strict, typed
from components.foundation.process import WORK
from components.foundation.provenance import fingerprint
from components.foundation.recipes import changed
from components.foundation.storage import read_json, read_text, write_json, write_text
from pipelines.parameters.change import edited, preset_text
from pipelines.parameters.presets import COMPLETE, PRESETS, preset_values, presets

if TYPE_CHECKING:
    from components.commands.recipe_time import Speed, Work

PARAMS, WRITTEN = Path("params.yaml"), WORK / "init.json"
# A larger image costs more, and robust training of small networks does not get better by it.
LARGEST_SIDE, COLUMNS, LONGEST_TITLE = 32, 118, 100


class Wanted(NamedTuple):
    """What was typed; `minutes` is about how long a run may take."""

    images: Path
    epsilon: str | None = None
    flip: bool = False
    size: int | None = None
    title: str | None = None
    minutes: float = 15


@strict
class Asked:
    """What may stand behind `--epsilon`."""

    epsilon: PositiveFraction


class Chosen(NamedTuple):
    """The effort that fits the machine, what it changes of the complete recipe, its minutes, and whence they are."""

    effort: Effort
    change: dict[str, Any]
    minutes: float
    measured: str


def write(wanted: Wanted, out: Path, force: bool, root: Path) -> Iterator[str]:
    """Writes the recipe to `out`, and says what was there, what was written and what to type next.

    Errors, with nothing written: what is wrong with the folder, too few classes, a file with changes of the user's.
    """
    complete = preset_values(root, COMPLETE)
    given = None if wanted.epsilon is None else typed(Asked, {"epsilon": wanted.epsilon}, "init").epsilon
    if one_line(wanted.images.absolute()) != str(wanted.images.absolute()) or "${" in str(wanted.images):
        raise InputError(f"--images: {one_line(wanted.images)}: want a path of printable characters, without ${{")
    if not force:
        _require_replaceable(out, root)
    found = survey(relative(wanted.images, root))
    _require_classes(complete["evaluate_attacks"], found)
    yield _found(found)
    epsilon, reason = (given, "as asked for") if given is not None else epsilon_for(found)
    side, title = (
        wanted.size or min(found.side, LARGEST_SIDE),
        wanted.title or found.folder.absolute().name[:LONGEST_TITLE],
    )
    wishes = Wishes(epsilon, wanted.flip, side, title)
    chosen = _chosen(found, wishes, complete, wanted.minutes)
    change, split = chosen.change, sizes(found, chosen.effort.limited)
    text = edited(preset_text(root, COMPLETE), change, "init")
    said = [
        _about(found, chosen.effort, split),
        f"Epsilon {change['threat.epsilon']}: {reason}.",
        _flips(wanted.flip),
        *_shrunk(found, wanted.size),
        chosen.measured,
    ]
    text = "".join(f"# {line}\n" for one in said for line in textwrap.wrap(one, COLUMNS)) + _below_head(text)
    write_text(out, text)
    write_json(root / WRITTEN, {"file": str(out), "content": fingerprint({"text": text})})
    yield from _written(out, said, chosen, root)


def _require_classes(evaluation: dict[str, Any], found: Survey) -> None:
    """Refuses too few classes for the complete recipe, with an advice for who writes another one."""
    try:
        require_classes(evaluation, len(found.classes), one_line(found.folder))
    except InputError as error:
        raise InputError(f"{error}; init writes no such recipe: change a file of {PRESETS}/ by hand") from None


def _require_replaceable(out: Path, root: Path) -> None:
    """Refuses to replace a file that holds what is nowhere else."""
    if not out.exists():
        return
    text = out.read_text(encoding="utf-8", errors="replace")
    # Their first comments differ, so few have to be made.
    heads = {name: read_text(path).partition("\n")[0] for name, path in presets(root).items()}
    if any(text == preset_text(root, name) for name, head in heads.items() if text.startswith(head)):
        return
    if (root / WRITTEN).exists() and read_json(root / WRITTEN).get("content") == fingerprint({"text": text}):
        return
    command = ["git", "show", f"HEAD:./{out.name}"]
    committed = subprocess.run(command, cwd=out.resolve().parent, capture_output=True, check=False)
    if committed.returncode or committed.stdout != out.read_bytes():
        raise InputError(
            f"{out}: has changes that are in no commit and no recipe of {PRESETS}/, so it is kept "
            "(--force replaces it, --out FILE writes another file)"
        )


def _chosen(found: Survey, wishes: Wishes, complete: dict[str, Any], budget: float) -> Chosen:
    """The first of the efforts that takes no longer than the budget, or the last. Errors: what the stages refuse."""
    began = time.monotonic()
    import torch

    from components.commands.recipe_time import minutes, speed_of, work_of

    start, shape = time.monotonic() - began, (1 if found.gray else 3, wishes.side, wishes.side)
    options = list(efforts(found, torch.cuda.is_available()))
    _check(changed(complete, delta(found, options[0], wishes), "init"))

    def speed(effort: Effort) -> "Speed":
        return speed_of(changed(complete, delta(found, effort, wishes), "init"), len(found.classes), shape)

    speeds: dict[tuple[str, float], Speed] = {}
    for effort in options:
        network = (effort.model, effort.width)
        speeds |= {} if network in speeds else {network: speed(effort)}
        change = delta(found, effort, wishes)
        work = work_of(changed(complete, change, "init"), sizes(found, effort.limited))
        needed = minutes(work, speeds[network], start)
        if needed <= budget or effort is options[-1]:
            return Chosen(effort, change, needed, _measured(work, speeds[network], needed) + _beyond(needed, budget))
    raise AssertionError("no effort")


def _check(values: dict[str, Any]) -> None:
    """Errors: what the stages would refuse of the recipe, and of the names in the folder."""
    from components.commands.check_params import check
    from components.data.splits import require_counts
    from components.datasets import DATASETS
    from components.foundation.params import member

    check(Params(values, "the recipe"))
    listings = member(DATASETS, values["fetch_data"]["dataset"], "--images").listings()
    if len(listings) == 1:
        # Each of the three splits that are drawn from one needs an image of every class.
        classes = listings["train"]
        require_counts([len(files) for files in classes.values()], list(classes), 3, "--images")


def _measured(work: "Work", speed: "Speed", needed: float) -> str:
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    busy = f", while others kept it busy (load {load:.0f} on {cores} processors)" if load > cores else ""
    return (
        f"About {_minutes(needed)} on this machine: {work.training + work.attack:,.0f} passes of "
        f"single images, counted from above, at {1 / speed.attack:,.0f} a second, measured just now{busy}."
    )


def _minutes(needed: float) -> str:
    return "a minute" if needed < 1.5 else f"{round(needed)} minutes"


def _beyond(needed: float, budget: float) -> str:
    """Says that no recipe for these images is as short as asked for."""
    return "" if needed <= budget else f" None for these images takes only {budget:g} (--minutes)."


def _found(found: Survey) -> str:
    counts = [count for split in found.counts.values() for count in split.values()]
    each = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
    many = "" if len(found.sizes) == 1 else f" and {len(found.sizes) - 1} other sizes"
    width, height = max(found.sizes, key=lambda size: found.sizes[size])
    layout = " and ".join(found.counts) if len(found.counts) > 1 else "no test folder, so a fifth is drawn for the test"
    color = "grey" if found.gray else "colour"
    return (
        f"{one_line(found.folder)}: {found.total} {color} images of {width} x {height}{many} pixels, "
        f"{len(found.classes)} classes of {each}; {layout}"
    )


def _about(found: Survey, effort: Effort, split: Sizes) -> str:
    limits = " To keep the time, not all images are used (train_limit, test_limit)." if effort.limited else ""
    return (
        f"{one_line(found.folder)}: {found.total} images, {len(found.classes)} classes; about {split.train} to train, "
        f"{split.validation} to choose an epoch, {split.test} to test.{limits}"
    )


def _flips(flip: bool) -> str:
    return (
        "Mirrored images are trained on, as asked for."
        if flip
        else "No mirrored images, since of many classes a mirrored one is none (--flip)."
    )


def _shrunk(found: Survey, asked: int | None) -> Iterator[str]:
    if asked is None and found.side > LARGEST_SIDE:
        yield (
            f"Images are shrunk to {LARGEST_SIDE} x {LARGEST_SIDE} pixels, the largest size that is chosen unasked; "
            "larger ones take longer (--size)."
        )


def _below_head(text: str) -> str:
    """The text from its first empty line on: without the comment on the recipe that it began as."""
    return text[re.search(r"^\n", text, re.MULTILINE).start() :]  # pyright: ignore[reportOptionalMemberAccess]


def _written(out: Path, said: list[str], chosen: Chosen, root: Path) -> Iterator[str]:
    effort = chosen.effort
    yield f"written: {out} ({effort.model}, width {effort.width:g}, {effort.epochs} epochs of the robust teacher)"
    yield from (f"  {line}" for line in said[1:])
    place = out.resolve()
    if place == (root / PARAMS).resolve():
        yield "next: temper harden (or dvc repro), then open the report that it names"
    elif place.parent == (root / PRESETS).resolve():
        yield f"next: temper harden --preset {place.stem}"
    else:
        yield f"next: cp {out} params.yaml, then temper harden (or dvc repro)"
