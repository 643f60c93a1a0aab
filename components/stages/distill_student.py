"""Stage distill_student: a student of any number of teachers, each role checked before it teaches."""

from typing import NamedTuple

import torch
from torch import nn

from components.data.splits import Splits, read_splits
from components.distillation import DISTILLATIONS
from components.foundation.arguments import take_none
from components.foundation.errors import InputError
from components.foundation.params import Params, member
from components.methods.parts.contract import Method, needs
from components.models import MODELS
from components.numerics.compute import channels_last
from components.numerics.parallel import rank
from components.numerics.random_numbers import derived
from components.stages import teachers, teaching
from components.stages.processes import run_together
from components.stages.teachers import Demands, Required, read_roles
from components.stages.training_stage import DATA, Settings, TrainingRun, new_model, read_settings, train
from components.tracking.journal import Journal
from components.wrappers.igdm import Igdm

STAGE = "distill_student"


OWN_KEYS = ("teachers", "required", "igdm")
"""The keys of the section that other training stages have not."""


class StudentSettings(NamedTuple):
    """The settings of training, who teaches in each role that the method asks for, and what is required of them, if
    anything.
    """

    training: Settings
    roles: dict[str, tuple[str, ...]]
    demands: Demands


def read(params: Params) -> StudentSettings:
    """The stage's settings, all checked."""
    required, igdm = (params.get(STAGE, key) is not None for key in OWN_KEYS[1:])
    around = params.typed(Igdm, STAGE, "igdm") if igdm else None
    settings = read_settings(params, STAGE, DISTILLATIONS, OWN_KEYS, around)
    asked, roles = needs(settings.method), read_roles(params, STAGE, settings.method)
    for place, after in enumerate(settings.changed):
        if (other := needs(after.method)) != asked:
            where = f"{params.path}: {STAGE}.sentinel.changes.{place}.method"
            raise InputError(f"{where}: asks for {', '.join(other)}, want what it asks for before: {', '.join(asked)}")
        read_roles(params, STAGE, after.method)
    needed = params.typed(Required, STAGE, "required") if required else None
    return StudentSettings(settings, roles, Demands(needed, params.path))


def main(params: Params, journal: Journal) -> None:
    """Writes models/student.safetensors, its last epoch, curves and metrics, what its teachers are like among them."""
    settings, roles, demands = read(params)
    device = settings.compute.prepare()
    if slow := settings.compute.warning:
        journal.note(slow)
    splits = read_splits(DATA)
    loaded = teachers.load(roles, splits, device)
    where = f"{params.path}: {STAGE}"
    programs = [name for name, one in loaded.items() if one.architecture is None]
    for one in (settings, *settings.changed):
        teachers.require_trainable(one.method, roles, programs, where)
    offered = teachers.chosen(roles, loaded, splits, settings, demands, journal)

    def method(settings: Settings) -> Method:
        asked = needs(settings.method)
        fresh = {"student": untrained(settings, splits, device)} if "student" in asked else {}
        return settings.method.build(*((offered | fresh)[name] for name in asked))

    ours = {name: one.architecture for name, one in loaded.items() if one.architecture is not None}
    learned_from = tuple(member(MODELS, one, f"{where}: {name}") for name, one in ours.items())
    model = new_model(settings, splits, device, where, journal)
    upstream = teachers.upstream(loaded)
    training = TrainingRun("student", STAGE, settings, method, upstream, learned_from, afterwards=(teaching.CODE,))
    train(training, model, splits, device, journal)
    if rank() == 0:
        teaching.measure_teachers(training, roles, splits, device, journal)


def untrained(settings: Settings, splits: Splits, device: torch.device) -> nn.Module:
    """Another network of the student's architecture, with weights of its own from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(settings.seed, "peer"))
        model = settings.model.build(len(splits.classes), splits.image_shape, splits.normalization)
    return channels_last(model.to(device))


if __name__ == "__main__":
    take_none(STAGE, __doc__)
    run_together(STAGE, main)
