"""Checks all of params.yaml before anything runs: `python -m components.stages.check_params`. No box of dvc.yaml."""

import sys
from importlib import import_module

from components.errors import InputError
from components.params import Params
from components.stages import SHARED, STAGES, USER_ERROR


def check(params: Params) -> None:
    """Reads every section as its stage will. Error: the first mistake, in one line."""
    params.require_known({*STAGES, *SHARED})
    for stage in STAGES:
        import_module(f"components.stages.{stage}").read(params)


if __name__ == "__main__":
    try:
        check(Params.read())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
