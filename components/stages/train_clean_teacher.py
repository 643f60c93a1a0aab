"""Stage train_clean_teacher: an accurate model, as it is trained without an attacker in mind."""

from components.journal import Journal
from components.methods import METHODS
from components.params import Params
from components.splits import read_splits
from components.stages import run
from components.stages.training_stage import DATA, Settings, Training, new_model, read_settings, train

STAGE = "train_clean_teacher"


def read(params: Params) -> Settings:
    """The stage's settings, all checked."""
    return read_settings(params, STAGE, METHODS)


def main(params: Params, journal: Journal) -> None:
    """Writes models/clean_teacher.safetensors, its last epoch, curves and metrics."""
    settings = read(params)
    device = settings.compute.prepare()
    splits = read_splits(DATA)
    model = new_model(settings, splits, device)
    training = Training("clean_teacher", STAGE, settings, settings.method, upstream={})
    train(training, model, splits, device, journal)


if __name__ == "__main__":
    run(STAGE, main)
