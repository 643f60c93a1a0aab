"""Checks all parameters before anything runs, as `temper params check` does. It is not a stage of dvc.yaml."""

from importlib import import_module

from components.foundation.params import Params
from components.stages import KNOWN, STAGES


def check(params: Params) -> None:
    """Reads every section as its stage will. Error: the first mistake, in one line."""
    params.require_known(KNOWN)
    for stage in STAGES:
        import_module(f"components.stages.{stage}").read(params)
