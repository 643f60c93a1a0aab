"""Stage train_robust_teacher: a model trained against attacks, from scratch or from the clean teacher's weights."""

from pathlib import Path
from typing import NamedTuple

from components.data.splits import read_splits
from components.foundation.arguments import take_none
from components.foundation.errors import InputError
from components.foundation.params import Params
from components.foundation.storage import sha256
from components.methods import METHODS
from components.methods.parts.contract import Method, needs
from components.models.parts.model_file import load_frozen, load_model, require_same_architecture
from components.stages.processes import run_together
from components.stages.training_stage import DATA, Settings, TrainingRun, new_model, read_settings, train
from components.tracking.journal import Journal

STAGE = "train_robust_teacher"
CLEAN_TEACHER = Path("models/clean_teacher.safetensors")


class RobustSettings(NamedTuple):
    """The settings of training, and whether it starts from the clean teacher."""

    training: Settings
    warm_start: bool


def read(params: Params) -> RobustSettings:
    """The stage's settings, all checked."""
    settings = read_settings(params, STAGE, METHODS, own_keys=("warm_start",))
    warm_start = params.typed(bool, STAGE, "warm_start")
    if warm_start and settings.section.initial is not None:
        raise InputError(f"{params.path}: {STAGE}: got warm_start and initial weights, want one of them")
    return RobustSettings(settings, warm_start)


def main(params: Params, journal: Journal) -> None:
    """Writes models/robust_teacher.safetensors, its last epoch, curves and metrics."""
    settings, warm_start = read(params)
    device = settings.compute.prepare()
    if slow := settings.compute.warning:
        journal.note(slow)
    splits = read_splits(DATA)
    model, upstream = new_model(settings, splits, device, f"{params.path}: {STAGE}", journal), {}
    if warm_start:
        clean_teacher, card = load_model(CLEAN_TEACHER, device)
        require_same_architecture(card, settings.section.model, f"{params.path}: {STAGE}.warm_start")
        model.load_state_dict(clean_teacher.state_dict())
    if warm_start or needs(settings.method):
        upstream = {"clean_teacher": sha256(CLEAN_TEACHER)}

    def method(settings: Settings) -> Method:
        guide = [load_frozen(CLEAN_TEACHER, splits, device)[0]] if needs(settings.method) else []
        return settings.method.build(*guide)

    train(TrainingRun("robust_teacher", STAGE, settings, method, upstream), model, splits, device, journal)


if __name__ == "__main__":
    take_none(STAGE, __doc__)
    run_together(STAGE, main)
