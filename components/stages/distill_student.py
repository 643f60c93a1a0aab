"""Stage distill_student: a student of any number of teachers, each role checked before it teaches."""

from typing import NamedTuple

from components.data.splits import read_splits
from components.distillation import DISTILLATIONS
from components.foundation.arguments import take_none
from components.foundation.params import Params, member
from components.methods.parts.contract import Method, needs
from components.models import MODELS
from components.numerics.parallel import rank
from components.stages import teachers, teaching
from components.stages.processes import run_together
from components.stages.teachers import Required, read_roles
from components.stages.training_stage import DATA, Settings, TrainingRun, new_model, read_settings, train
from components.tracking.journal import Journal
from components.wrappers.igdm import Igdm

STAGE = "distill_student"


OWN_KEYS = ("teachers", "required", "igdm")
"""The keys of the section that other training stages have not."""


class StudentSettings(NamedTuple):
    """The settings of training, who teaches in each role that the method asks for, what is required of them and what
    goes around the method, each if anything.
    """

    training: Settings
    roles: dict[str, tuple[str, ...]]
    required: Required | None
    igdm: Igdm | None


def read(params: Params) -> StudentSettings:
    """The stage's settings, all checked."""
    settings = read_settings(params, STAGE, DISTILLATIONS, own_keys=OWN_KEYS)
    required, igdm = (params.get(STAGE, key) is not None for key in OWN_KEYS[1:])
    return StudentSettings(
        settings,
        read_roles(params, STAGE, settings.method),
        params.typed(Required, STAGE, "required") if required else None,
        params.typed(Igdm, STAGE, "igdm") if igdm else None,
    )


def main(params: Params, journal: Journal) -> None:
    """Writes models/student.safetensors, its last epoch, curves and metrics, what its teachers are like among them."""
    settings, roles, required, igdm = read(params)
    device = settings.compute.prepare()
    if slow := settings.compute.warning:
        journal.note(slow)
    splits = read_splits(DATA)
    loaded = teachers.load(roles, splits, device)
    offered = teachers.chosen(roles, loaded, splits, settings, required, journal)

    def method(settings: Settings) -> Method:
        taught = settings.method.build(**{name: offered[name] for name in needs(settings.method)})
        return taught if igdm is None else igdm.build(taught, settings.section.recipe.epochs)

    where = f"{params.path}: {STAGE}"
    ours = {name: one.architecture for name, one in loaded.items() if one.architecture is not None}
    learned_from = tuple(member(MODELS, one, f"{where}: {name}") for name, one in ours.items())
    model = new_model(settings, splits, device, where, journal)
    upstream = teachers.upstream(loaded)
    training = TrainingRun("student", STAGE, settings, method, upstream, learned_from, afterwards=(teaching.CODE,))
    train(training, model, splits, device, journal)
    if rank() == 0:
        teaching.measure_teachers(training, roles, splits, device, journal)


if __name__ == "__main__":
    take_none(STAGE, __doc__)
    run_together(STAGE, main)
