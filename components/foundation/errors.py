"""The one exception for a user's mistake, how it shows foreign text, and the check that a name is in a table."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """A user's mistake in one line: what was given, what is allowed, where (file and key)."""


def printable(text: object) -> str:
    """The text on one line that shows every character: what no terminal shows as itself is written as an escape."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))


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
