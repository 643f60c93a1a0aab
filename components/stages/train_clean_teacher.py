"""Stage train_clean_teacher: an accurate model, as it is trained without an attacker in mind."""

from components.data.splits import read_splits
from components.foundation.arguments import take_none
from components.foundation.errors import InputError
from components.foundation.params import Params
from components.methods import METHODS
from components.methods.parts.contract import needs
from components.stages.processes import run_together
from components.stages.training_stage import DATA, Settings, TrainingRun, new_model, read_settings, train
from components.tracking.journal import Journal

STAGE = "train_clean_teacher"


def read(params: Params) -> Settings:
    """The stage's settings, all checked."""
    settings = read_settings(params, STAGE, METHODS)
    if needs(settings.method):
        raise InputError(
            f"{params.path}: {STAGE}.method: got {settings.raw['method']['name']!r}, which the clean teacher guides "
            "(allowed here: methods without a guide, such as standard)"
        )
    return settings


def main(params: Params, journal: Journal) -> None:
    """Writes models/clean_teacher.safetensors, its last epoch, curves and metrics."""
    settings = read(params)
    device = settings.compute.prepare()
    if slow := settings.compute.warning:
        journal.note(slow)
    splits = read_splits(DATA)
    model = new_model(settings, splits, device, f"{params.path}: {STAGE}", journal)
    training = TrainingRun("clean_teacher", STAGE, settings, lambda settings: settings.method.build(), upstream={})
    train(training, model, splits, device, journal)


if __name__ == "__main__":
    take_none(STAGE, __doc__)
    run_together(STAGE, main)
