"""What people read, on a terminal, in a log or in a tracker: no control characters, no secrets of addresses."""

import re
import sys
from typing import TextIO

# The user info of an address ends at the last @ before its path, since passwords may hold an @ that nobody has encoded.
_USER_INFO = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*:/{2,3})[^\s/?#'\"<>]*@")
# What C0, DEL and C1 do to a terminal, and the characters that turn the direction of text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def shown(text: object) -> str:
    """A text as it may be shown: each address in it without its user info, which holds passwords and tokens."""
    return _USER_INFO.sub(r"\g<scheme>", str(text))


def one_line(text: object) -> str:
    r"""`shown`, in one line: control characters as Python writes them, such as `\n` and `\x1b`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), shown(text).strip())


def say(text: object, to: TextIO | None = None) -> None:
    """Prints a text of one or several lines, each as `one_line` has it; by default to stdout."""
    for line in str(text).split("\n"):
        print(one_line(f"|{line}")[1:], file=to or sys.stdout, flush=True)
