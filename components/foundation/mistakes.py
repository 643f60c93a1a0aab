"""What a value was refused for, in one line: the key, what was given and what is allowed."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeGuard, cast, get_args, get_type_hints

from pydantic import ValidationError

# Characters of a value in a message.
LONGEST_SHOWN = 120
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def first_mistake(error: ValidationError, kind: Any, value: object, where: str) -> str:
    """The first mistake that pydantic found in `value`, which should have been a `kind` and stands at `where`."""
    # A misspelt key is also a missing one: name the misspelling.
    first, *rest = sorted(error.errors(include_url=False), key=lambda one: one["type"] not in _UNKNOWN)
    key = at(where, *_keys(first["loc"], value, absent=first["type"] in (*_UNKNOWN, *_MISSING)))
    more = f" (and {len(rest)} more)" if rest else ""
    if first["type"] in _UNKNOWN:
        known = _fields_at(kind, first["loc"][:-1])
        allowed = f" (allowed: {', '.join(known)})" if known else ""
        return f"{key}: unknown key{allowed}{more}"
    if first["type"] in _MISSING:
        return f"{key}: missing{more}"
    if first["type"] in _BOUNDS:
        word, bound = _BOUNDS[first["type"]]
        return f"{key}: got {short(first['input'])}, want {word} {first.get('ctx', {})[bound]}{more}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if message.startswith("got ") else f", got {short(first['input'])}"
    return f"{key}: {message[0].lower()}{message[1:]}{got}{more}"


def _keys(location: tuple[int | str, ...], value: object, absent: bool) -> list[str]:
    """The keys that lead to a place in `value`; a location has the choice in a union between them, which is no key.

    `absent`: the last one is a key that is not there, or should not be.
    """
    # The choice may be called like a key, which leads nowhere then: what comes last is what is told of.
    ways = _ways(location, value, absent)
    places = max(ways, key=lambda way: (max(way, default=-1), len(way)), default=range(len(location)))
    return [str(location[place]) for place in places]


def _ways(location: tuple[int | str, ...], value: object, absent: bool, place: int = 0) -> Iterator[tuple[int, ...]]:
    """The places in the location that may be those of keys, from `place` on: all that can be followed in `value`."""
    if place == len(location):
        yield ()
        return
    if absent and place == len(location) - 1:
        if is_mapping(value):
            yield (place,)
        return
    inside: Mapping[Any, object] = {}
    if is_mapping(value):
        inside = value
    elif isinstance(value, list):
        inside = dict(enumerate(cast(list[object], value)))
    if location[place] in inside:
        yield from ((place, *way) for way in _ways(location, inside[location[place]], absent, place + 1))
    yield from _ways(location, cast(object, value), absent, place + 1)


def _fields_at(kind: Any, path: tuple[int | str, ...]) -> list[str]:
    """The fields of the dataclass that is `path` inside `kind`; none where there is no dataclass."""
    for part in path:
        kind = _only_dataclass(get_type_hints(kind).get(str(part))) if is_dataclass(kind) else None
    return sorted(field.name for field in fields(kind)) if is_dataclass(kind) else []


def _only_dataclass(kind: Any) -> Any:
    """Of `Section | None` the section."""
    choices = [choice for choice in get_args(kind) if is_dataclass(choice)]
    return choices[0] if len(choices) == 1 else kind


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value is a mapping; of what YAML and JSON hold, one whose keys are texts."""
    return isinstance(value, Mapping)


def short(value: object) -> str:
    """A value as a message shows it: on one line, and not all of what is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"an integer of {cast(int, value).bit_length()} bits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def at(where: str, *keys: str) -> str:
    """A key inside `where`, which is a file, or a key of it."""
    inside = ".".join(keys)
    return f"{where}: {inside}" if keys and where.endswith((".yaml", ".yml")) else ".".join([where, *keys])
