"""Stage distill_student: a student of the clean and the robust teacher, both checked before they teach."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from components.data.splits import Splits, read_splits
from components.distillation import DISTILLATIONS
from components.evaluation.one_attack import TestSet, run_attack
from components.foundation.arguments import take_none
from components.foundation.errors import InputError
from components.foundation.params import Params, Share, strict
from components.foundation.storage import sha256
from components.methods.parts.contract import Method, needs
from components.models.parts.model_file import load_frozen
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
    require_teachers(list(measured(teachers, splits, settings)), splits, required, journal)

    def method(settings: Settings) -> Method:
        taught = settings.method.build(**{name: teachers[name] for name in needs(settings.method)})
        return taught if igdm is None else igdm.build(taught, settings.section.recipe.epochs)

    upstream = {name: sha256(path) for name, path in TEACHERS.items()}
    model = new_model(settings, splits, device, f"{params.path}: {STAGE}", journal)
    train(TrainingRun("student", STAGE, settings, method, upstream), model, splits, device, journal)


class Measured(NamedTuple):
    """A teacher, under what it was measured in words, and the share of validation images that it had right."""

    teacher: str
    kind: str
    right: float


def measured(teachers: Mapping[str, nn.Module], splits: Splits, settings: Settings) -> Iterator[Measured]:
    """The clean teacher without an attack, the robust one under the validation attack, on the validation split."""
    device, seed = next(teachers["clean_teacher"].parameters()).device, derived(settings.seed, "teachers")
    test = TestSet(*splits.validation.on(device), settings.section.recipe.at_a_time)
    for name, attack in (("clean_teacher", None), ("robust_teacher", settings.section.validation_attack)):
        kind = "clean accuracy" if attack is None else f"accuracy under {attack}"
        right = run_attack(teachers[name], test, attack, settings.threat, seed).right.float().mean().item()
        yield Measured(name, kind, right)


def require_teachers(found: Sequence[Measured], splits: Splits, required: Required | None, journal: Journal) -> None:
    """Notes what both teachers reached, and refuses one that falls short of what is required.

    Where nothing is, a warning says which teacher is no better than the same answer for every image.
    """
    held_out, counts = splits.validation, splits.validation.counts(len(splits.classes))
    least = (required.clean_accuracy, required.robust_accuracy) if required else (max(counts) / len(held_out),) * 2
    for (name, kind, right), wanted in zip(found, least, strict=True):
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


if __name__ == "__main__":
    take_none(STAGE, __doc__)
    run_together(STAGE, main)
