"""Stage distill_student: a student of the clean and the robust teacher, both checked before they teach."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from components.data.splits import Splits, read_splits
from components.distillation import DISTILLATIONS
from components.evaluation.one_attack import TestSet, run_attack
from components.foundation.errors import InputError
from components.foundation.params import Params, Share, strict
from components.foundation.storage import sha256
from components.methods.parts.contract import Method, needs
from components.models.parts.model_file import load_frozen
from components.numerics.random_numbers import derived
from components.stages.processes import run_together
from components.stages.training_stage import DATA, Settings, TrainingRun, new_model, read_settings, train
from components.tracking.journal import Journal

STAGE = "distill_student"
TEACHERS = {name: Path(f"models/{name}.safetensors") for name in ("clean_teacher", "robust_teacher")}


@strict
class Required:
    """The least a teacher must reach on the validation split before it may teach."""

    clean_accuracy: Share  # Least accuracy without attack.
    robust_accuracy: Share  # Least accuracy under the validation attack.


class StudentSettings(NamedTuple):
    """The settings of training, and what is required of the teachers."""

    training: Settings
    required: Required


def read(params: Params) -> StudentSettings:
    """The stage's settings, all checked."""
    settings = read_settings(params, STAGE, DISTILLATIONS, own_keys=("required",))
    return StudentSettings(settings, params.typed(Required, STAGE, "required"))


def main(params: Params, journal: Journal) -> None:
    """Writes models/student.safetensors, its last epoch, curves and metrics."""
    settings, required = read(params)
    device = settings.compute.prepare()
    if slow := settings.compute.warning:
        journal.note(slow)
    splits = read_splits(DATA)
    teachers = {name: load_frozen(path, splits, device)[0] for name, path in TEACHERS.items()}
    require_teachers(teachers, splits, settings, required, journal)

    def method(settings: Settings) -> Method:
        return settings.method.build(**{name: teachers[name] for name in needs(settings.method)})

    upstream = {name: sha256(path) for name, path in TEACHERS.items()}
    model = new_model(settings, splits, device)
    train(TrainingRun("student", STAGE, settings, method, upstream), model, splits, device, journal)


def require_teachers(
    teachers: Mapping[str, nn.Module], splits: Splits, settings: Settings, required: Required, journal: Journal
) -> None:
    """Measures both teachers on the validation split and refuses one that falls short of what is required."""
    held_out = splits.validation
    device, seed = next(teachers["clean_teacher"].parameters()).device, derived(settings.seed, "teachers")
    test = TestSet(*held_out.on(device), settings.section.recipe.batch_size)
    for name, attack, least in (
        ("clean_teacher", None, required.clean_accuracy),
        ("robust_teacher", settings.section.validation_attack, required.robust_accuracy),
    ):
        kind = "clean accuracy" if attack is None else f"accuracy under {attack}"
        right = run_attack(teachers[name], test, attack, settings.threat, seed).right.float().mean().item()
        journal.note(f"{name}: {kind} {right:.1%} on {len(held_out)} validation images (required {least:.1%})")
        if right < least:
            raise InputError(
                f"{TEACHERS[name]}: {kind} is {right:.1%} on the validation split, want at least {least:.1%} "
                f"(params.yaml: {STAGE}.required), so it must not teach"
            )


if __name__ == "__main__":
    run_together(STAGE, main)
