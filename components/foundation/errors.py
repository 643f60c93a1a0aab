"""The one exception for a user's mistake and the check that a name is in a table."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

FROM_ROOT = "(run from the project's root)"
"""How a line on a missing file ends, where the project's folder has it."""


class InputError(ValueError):
    """A user's mistake in one line: what was given, what is allowed, where (file and key)."""


def choose(table: Mapping[str, T], name: object, where: str) -> T:
    """The entry of `table` called `name`; an unknown name is an error that lists the valid ones.

    Args:
        table: a family's table, name to member.
        name: what the user wrote.
        where: file and key, for the message.
    """
    if not isinstance(name, str) or name not in table:
        raise InputError(f"{where}: unknown {name!r} (allowed: {', '.join(sorted(table))})")
    return table[name]
