"""What people read, on a terminal, in a log or in a tracker: no control characters, no secrets of addresses."""

import re
import sys
from typing import TextIO

# As a path an address has one slash; some have none, or no scheme.
_ADDRESS = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*:/{0,4}|//)(?P<rest>[^\s'\"<>]+)")
# A password with a space or a quote in it, which ends an address for everybody else. What follows a colon is no port.
_OPEN = re.compile(
    r"(?P<scheme>(?:\b[A-Za-z][A-Za-z0-9+.-]*:)?//)[^\s/@:]*:(?!\d{1,5}(?:[^\d@]|$))[^\s@'\"<>]*[\s'\"<>][^\n@]*@"
)
_BARE = re.compile(r"(?<![\w/:.@%+-])[\w.%+-]+:[^\s@/'\"]+@(?=[\w\[])")
_QUERY = re.compile(
    r"(?P<name>[?&;](?:user(?:name)?|uid|(?:ssl)?pass(?:word|wd)?|pwd|(?:[\w-]+[_-])?(?:token|secret|signature|credential)"
    r"|auth(?:orization)?|sig|(?:api|access|secret|account|private|shared)[_-]?key(?:[_-]?id)?)=)[^&\s'\"#]+",
    re.IGNORECASE,
)
# Those at which no line ends, which Python does not call printable.
_SPACES = "\u00a0\u202f"


def shown(text: object) -> str:
    """A text as it may be shown: addresses without their user info, and without what a query calls a secret."""
    plain = _OPEN.sub(lambda found: found["scheme"], str(text))
    plain = _BARE.sub("", _ADDRESS.sub(_without_user, plain))
    return _QUERY.sub(lambda found: f"{found['name']}***", plain)


def _without_user(address: re.Match[str]) -> str:
    scheme, rest = address["scheme"], address["rest"]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    # Passwords may hold an @ that nobody has encoded. `models:/NAME@ALIAS` has no user.
    user, _, host = authority.rpartition("@")
    named = bool(user) and (scheme.endswith("//") or ":" in user)
    if named:
        rest, authority = rest[len(user) + 1 :], host
    # Nor a slash: what follows a colon, and is no port behind a user, may belong to a password. Then rather too much is
    # hidden.
    _, colon, port = authority.rpartition(":")
    if colon and not (named and port.isdigit()) and "[" not in authority and "@" in rest:
        rest = rest.rpartition("@")[2]
    return scheme + rest


def one_line(text: object) -> str:
    r"""`shown`, in one line: what no terminal shows as itself is escaped as in Python, such as `\n` and `\x1b`."""
    plain = shown(text).strip()
    return "".join(letter if letter.isprintable() or letter in _SPACES else repr(letter)[1:-1] for letter in plain)


def say(text: object, to: TextIO | None = None) -> None:
    """Prints a text of one or several lines, each as `one_line` has it; by default to stdout."""
    for line in str(text).split("\n"):
        print(one_line(f"|{line}")[1:], file=to or sys.stdout, flush=True)
