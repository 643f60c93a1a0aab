"""The command line of a module that is started with `python -m`: `--help` runs nothing, a mistake is one line."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from components.foundation.process import USER_ERROR


class Arguments(argparse.ArgumentParser):
    """argparse's parser with a mistake in one line, which says where the help is."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {' '.join(message.split())} (see --help)", file=sys.stderr, flush=True)
        raise SystemExit(USER_ERROR)


def take_none(name: str, about: str | None, given: Sequence[str] | None = None) -> None:
    """Ends a process that was given arguments, since it takes none but `--help`: status 0 for that, else 2.

    Args:
        name: what messages begin with.
        about: what `--help` says.
        given: the arguments; by default those of this process.
    """
    formatted = argparse.RawDescriptionHelpFormatter
    Arguments(prog=name, description=about, formatter_class=formatted, allow_abbrev=False).parse_args(given)
