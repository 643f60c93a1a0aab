"""Checks all parameters before anything runs, as `temper params check` does. It is not a stage of dvc.yaml."""

from importlib import import_module

from components.attacks.parts.reach import shortfalls
from components.evaluation.criteria import Criteria
from components.evaluation.suite import Suite
from components.foundation.params import Params
from components.stages import CRITERIA, KNOWN, STAGES
from components.stages.fetch_data import FetchSettings, warnings_of_source
from components.stages.training_stage import Settings, warnings_of
from components.threats import NORMS
from components.threats.parts.threat import read_threat


def check(params: Params) -> list[str]:
    """Reads every section as its stage will, and builds what it builds before it has data.

    Returns a line for each thing that is allowed and does not do what it seems to: an attack that cannot reach the edge
    of the ball, a source of images that nothing trains on. Error: the first mistake, in one line.
    """
    params.require_known(KNOWN)
    read_threat(NORMS, params.get("threat"), f"{params.path}: threat")
    params.typed(Criteria, CRITERIA)
    told: list[str] = []
    for stage in STAGES:
        found = import_module(f"components.stages.{stage}").read(params)
        settings = getattr(found, "training", found)
        if isinstance(found, FetchSettings):
            told += warnings_of_source(params, found)
        if isinstance(settings, Settings):
            told += warnings_of(settings, stage)
        if isinstance(found, Suite):
            found.full_tasks()
            told += shortfalls({f"{stage}.attacks.{name}": one for name, one in found.attacks.items()}, found.threat)
    return told
