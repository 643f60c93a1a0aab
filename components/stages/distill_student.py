"""Stage distill_student: a student of the clean and the robust teacher, both checked before they teach."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from components.data.splits import Splits, read_splits
from components.distillation import DISTILLATIONS
from components.distillation.parts.balance import Ceilings
from components.evaluation.advice.looks import logits_on
from components.evaluation.one_attack import TestSet, run_attack
from components.foundation.arguments import take_none
from components.foundation.errors import InputError
from components.foundation.params import Params, Share, strict
from components.foundation.storage import sha256
from components.methods.parts.contract import Method, needs
from components.models.parts.model_file import load_frozen
from components.numerics.confidence import confidently_wrong
from components.numerics.random_numbers import derived
from components.stages.processes import run_together
from components.stages.training_stage import DATA, Settings, TrainingRun, new_model, read_settings, train
from components.tracking.journal import Journal
from components.wrappers.igdm import Igdm

STAGE = "distill_student"
TEACHERS = {name: Path(f"models/{name}.safetensors") for name in ("clean_teacher", "robust_teacher")}


REPORT_ON_TEACHERS = (
    f"temper evaluate {' '.join(f'--model {name}={path}' for name, path in TEACHERS.items())} --data {DATA} "
    "--params params.yaml --out evaluation/teachers"
)
"""What evaluates and reports the teachers where no student is trained."""


@strict
class Required:
    """The least a teacher must reach on the validation split before it may teach; null: a weak one is warned of."""

    clean_accuracy: Share  # Least accuracy without attack.
    robust_accuracy: Share  # Least accuracy under the validation attack.
    confident_errors: Share | None = None
    """Largest share of images, attacked so, that the robust teacher gives to a wrong class with more probability than
    to all others together; null: any."""


OWN_KEYS = ("required", "igdm")
"""The keys of the section that other training stages have not."""


class StudentSettings(NamedTuple):
    """The settings of training, what is required of the teachers and what goes around the method, each if anything."""

    training: Settings
    required: Required | None
    igdm: Igdm | None


def read(params: Params) -> StudentSettings:
    """The stage's settings, all checked."""
    settings = read_settings(params, STAGE, DISTILLATIONS, own_keys=OWN_KEYS)
    required, igdm = (params.get(STAGE, key) is not None for key in OWN_KEYS)
    return StudentSettings(
        settings,
        params.typed(Required, STAGE, "required") if required else None,
        params.typed(Igdm, STAGE, "igdm") if igdm else None,
    )


def main(params: Params, journal: Journal) -> None:
    """Writes models/student.safetensors, its last epoch, curves and metrics."""
    settings, required, igdm = read(params)
    device = settings.compute.prepare()
    if slow := settings.compute.warning:
        journal.note(slow)
    splits = read_splits(DATA)
    teachers = {name: load_frozen(path, splits, device)[0] for name, path in TEACHERS.items()}
    found = list(measured(teachers, splits, settings))
    require_teachers(found, splits, required, journal)
    reached = {one.teacher: one.right for one in found}
    ceilings = Ceilings(robust=reached["robust_teacher"], clean=reached["clean_teacher"])
    offered: dict[str, Any] = {**teachers, "ceilings": ceilings}

    def method(settings: Settings) -> Method:
        taught = settings.method.build(**{name: offered[name] for name in needs(settings.method)})
        return taught if igdm is None else igdm.build(taught, settings.section.recipe.epochs)

    upstream = {name: sha256(path) for name, path in TEACHERS.items()}
    model = new_model(settings, splits, device, f"{params.path}: {STAGE}", journal)
    train(TrainingRun("student", STAGE, settings, method, upstream), model, splits, device, journal)


class Measured(NamedTuple):
    """A teacher, under what it was measured in words, and the shares of validation images that it had right, and wrong
    with confidence.
    """

    teacher: str
    kind: str
    right: float
    confidently_wrong: float = 0.0


def measured(teachers: Mapping[str, nn.Module], splits: Splits, settings: Settings) -> Iterator[Measured]:
    """The clean teacher without an attack, the robust one under the validation attack, on the validation split."""
    device, seed = next(teachers["clean_teacher"].parameters()).device, derived(settings.seed, "teachers")
    test = TestSet(*splits.validation.on(device), settings.section.recipe.at_a_time)
    for name, attack in (("clean_teacher", None), ("robust_teacher", settings.section.validation_attack)):
        kind = "clean accuracy" if attack is None else f"accuracy under {attack}"
        outcome = run_attack(teachers[name], test, attack, settings.threat, seed)
        logits = logits_on(teachers[name], outcome.images_adv, test)
        errors = confidently_wrong(logits, test.labels.cpu()).float().mean().item()
        yield Measured(name, kind, outcome.right.float().mean().item(), errors)


def require_teachers(found: Sequence[Measured], splits: Splits, required: Required | None, journal: Journal) -> None:
    """Notes what both teachers reached, and refuses one that falls short of what is required.

    Where nothing is, a warning says which teacher is no better than the same answer for every image.
    """
    held_out, counts = splits.validation, splits.validation.counts(len(splits.classes))
    least = (required.clean_accuracy, required.robust_accuracy) if required else (max(counts) / len(held_out),) * 2
    for (name, kind, right, _), wanted in zip(found, least, strict=True):
        told = f"(required {wanted:.1%})" if required else "(nothing is required)"
        journal.note(f"{name}: {kind} {right:.1%} on {len(held_out)} validation images {told}")
        if required is None and right <= wanted:
            common = splits.classes[counts.index(max(counts))]
            journal.note(f"warning: the {name} is no better than to answer {common!r} always ({wanted:.1%} right)")
        elif right < wanted:
            journal.note(f"a report on the teachers alone: {REPORT_ON_TEACHERS}")
            raise InputError(
                f"{TEACHERS[name]}: {kind} is {right:.1%} on the validation split, want at least {wanted:.1%} "
                f"(params.yaml: {STAGE}.required), so it must not teach"
            )
    require_doubt(found[-1], len(held_out), required, journal)


def require_doubt(robust: Measured, n: int, required: Required | None, journal: Journal) -> None:
    """Refuses a robust teacher that is confidently wrong too often, where that is asked for."""
    if required is None or (most := required.confident_errors) is None:
        return
    errors = robust.confidently_wrong
    journal.note(f"{robust.teacher}: confidently wrong on {errors:.1%} of {n} attacked images (at most {most:.1%})")
    if errors > most:
        journal.note(f"which teacher to take instead: temper advise {TEACHERS[robust.teacher]} OTHER...")
        raise InputError(
            f"{TEACHERS[robust.teacher]}: confidently wrong on {errors:.1%} of attacked validation images, want at "
            f"most {most:.1%} (params.yaml: {STAGE}.required.confident_errors), so it must not teach"
        )


if __name__ == "__main__":
    take_none(STAGE, __doc__)
    run_together(STAGE, main)
