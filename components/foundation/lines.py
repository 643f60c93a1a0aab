"""What people read, on a terminal, in a log or in a tracker: no control characters, no secrets of addresses."""

import re
import sys
from typing import TextIO

# The user info of an address ends at the last @ before its path, since passwords may hold an @ that nobody has encoded.
# Where no host stands before the path, somebody has not encoded a slash either: then all up to the last @ may be one.
_END = r"(?=[\s/?#'\"<>]|$)"
_HOST = rf"(?:\[[^\]\s]*\]|[^\s/?#'\"<>:@\[]*)(?::\d+)?{_END}"
_USER_INFO = re.compile(
    rf"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*:/{{2,3}})(?:[^\s/?#'\"<>]*@(?={_HOST})|(?!{_HOST})[^\s'\"<>]*@)"
)
# As a path an address has one slash; models:/NAME@ALIAS has no colon.
_USER_INFO_OF_PATH = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*:/)[^\s/?#'\"<>:]*:[^\s'\"<>]*@")
# Those at which no line ends, which Python does not call printable.
_SPACES = "\u00a0\u202f"


def shown(text: object) -> str:
    """A text as it may be shown: each address in it without its user info, which holds passwords and tokens."""
    return _USER_INFO_OF_PATH.sub(r"\g<scheme>", _USER_INFO.sub(r"\g<scheme>", str(text)))


def one_line(text: object) -> str:
    r"""`shown`, in one line: what no terminal shows as itself is escaped as in Python, such as `\n` and `\x1b`."""
    plain = shown(text).strip()
    return "".join(letter if letter.isprintable() or letter in _SPACES else repr(letter)[1:-1] for letter in plain)


def say(text: object, to: TextIO | None = None) -> None:
    """Prints a text of one or several lines, each as `one_line` has it; by default to stdout."""
    for line in str(text).split("\n"):
        print(one_line(f"|{line}")[1:], file=to or sys.stdout, flush=True)
