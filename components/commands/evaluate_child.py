"""The other side of `evaluate_apart`: the process in which programs from outside are evaluated."""

import resource
from pathlib import Path

from pydantic import TypeAdapter

from components.commands.evaluate import attack, images_of
from components.commands.evaluate_options import EvaluateOptions
from components.foundation.arguments import Arguments
from components.foundation.child import finish_requested
from components.foundation.lines import say
from components.foundation.process import as_process


def main(told: str, files: str) -> None:
    """The evaluation as this process, which ends with the one that started it; both arguments are JSON."""
    finish_requested()
    # A dead process leaves no copy of what it had in memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with as_process():
        given = TypeAdapter(EvaluateOptions).validate_json(told)
        paths = TypeAdapter(dict[str, Path]).validate_json(files)
        attack(given, paths, images_of(given.data), say)


if __name__ == "__main__":
    arguments = Arguments(prog="evaluate_child", description=__doc__, allow_abbrev=False)
    for name in ("told", "files"):
        arguments.add_argument(name, help="JSON")
    main(**vars(arguments.parse_args()))
