"""Checks all of params.yaml, or of FILEs like it, before anything runs. It is not a stage of dvc.yaml.

python -m components.commands.check_params [FILE ...]
"""

import sys
from importlib import import_module

from components.foundation.errors import InputError
from components.foundation.params import Params
from components.foundation.process import USER_ERROR
from components.stages import SHARED, STAGES


def check(params: Params) -> None:
    """Reads every section as its stage will. Error: the first mistake, in one line."""
    params.require_known({*STAGES, *SHARED})
    for stage in STAGES:
        import_module(f"components.stages.{stage}").read(params)


if __name__ == "__main__":
    try:
        for path in sys.argv[1:] or ["params.yaml"]:
            check(Params.read(path))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
