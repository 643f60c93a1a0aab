"""The only reader of params.yaml: strict and typed, exact fractions, one line for a mistake.

A section of the file is the fields of a frozen pydantic dataclass (`strict`), so there is no second schema. No field
has a default: `params.yaml` is the one place that holds numbers.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar, cast, dataclass_transform, get_args, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass

from components.foundation.errors import FROM_ROOT, InputError, choose
from components.foundation.storage import require_bytes
from components.foundation.yaml_text import DEEPEST, LARGEST_FILE, parse

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
# Streams are hashed from the seed (`random_numbers.derived`), so more bits would add nothing.
MAX_SEED = 2**32 - 1
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
# Characters of a value in a message.
LONGEST_SHOWN = 120


@dataclass_transform(kw_only_default=True, frozen_default=True)
def strict(kind: type[T]) -> type[T]:
    """A frozen dataclass whose fields are the keys of a section: none unknown, none missing, no type converted."""
    return cast(type[T], dataclass(frozen=True, kw_only=True, config=STRICT)(kind))


class Ratio(Fraction):
    """An exact fraction that prints as params.yaml writes it, `8/255`, so that a member's repr stays readable."""

    def __repr__(self) -> str:
        return str(self)


WANT = "want a fraction such as 8/255 or a number"
LARGEST = 2**32
"""No number of a file is larger: beyond it there is nothing that a pipeline could do."""
# Nothing here takes long: a fraction of `1e-99999999` alone would.
_NUMBER = r"\d{1,20}(?:\.\d{0,40})?(?:[eE][-+]?\d{1,2})?|\.\d{1,40}(?:[eE][-+]?\d{1,2})?"
_FRACTION = re.compile(rf"[-+]?(?:{_NUMBER}|\d{{1,60}}/\d{{1,60}})", re.ASCII)
_RELATIVE = re.compile(rf"(?:(?P<times>{_NUMBER}|\d{{1,60}}/\d{{1,60}})\*)?epsilon(?:/(?P<by>{_NUMBER}))?", re.ASCII)


def _ratio(value: object) -> Ratio:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Fraction)):
        raise ValueError(f"got {short(value)}, {WANT}")
    if isinstance(value, Fraction):
        return Ratio(value)
    # A float goes through its shortest text: 0.2 means 1/5, not the nearest binary fraction.
    text = value.replace(" ", "") if isinstance(value, str) else repr(value)
    try:
        ratio = Ratio(text) if _FRACTION.fullmatch(text) else None
    except ZeroDivisionError:
        ratio = None
    if ratio is None:
        raise ValueError(f"got {short(value)}, {WANT}")
    if abs(ratio) > LARGEST:
        raise ValueError(f"got {short(value)}, want at most {LARGEST}")
    return ratio


def _length(value: object, info: ValidationInfo) -> Ratio:
    text = value.replace(" ", "") if isinstance(value, str) else ""
    if "epsilon" not in text:
        return _ratio(value)
    relative, epsilon = _RELATIVE.fullmatch(text), cast(dict[str, Any], info.context or {}).get("epsilon")
    if relative is None:
        raise ValueError(f"got {short(value)}, want epsilon, epsilon/4, 2*epsilon or 5/4*epsilon, or a number")
    if epsilon is None:
        raise ValueError(f"got {short(value)}, but nothing here says what epsilon is; want a number")
    times, by = (_ratio(relative[name] or "1") for name in ("times", "by"))
    if not by:
        raise ValueError(f"got {short(value)}, which divides by 0")
    return Ratio(times * epsilon / by)


def _real(value: object) -> object:
    # 1/3 is welcome.
    return float(_ratio(value)) if isinstance(value, str) else value


RELATIVE = BeforeValidator(_length)
"""The mark of a field that takes multiples of epsilon."""
Fractional = Annotated[Ratio, BeforeValidator(_ratio), PlainSerializer(str)]
"""A field written as an exact fraction: epsilon itself, shares."""
Length = Annotated[Ratio, RELATIVE, PlainSerializer(str)]
"""A field that is a length in the threat's norm: a fraction, or a multiple of the threat's epsilon.

`[FACTOR*]epsilon[/DIVISOR]`: `epsilon`, `epsilon/4`, `2*epsilon`, `5/4*epsilon`, `13*epsilon/51`. The result is exact.
"""
Real = Annotated[float, BeforeValidator(_real)]
"""A float field that also reads fractions."""
Count = Annotated[int, Field(ge=1)]
"""How many of something, at least 1."""
Whole = Annotated[int, Field(ge=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
PositiveFraction = Annotated[Fractional, Field(gt=0)]
NotNegativeFraction = Annotated[Fractional, Field(ge=0)]
PositiveLength = Annotated[Length, Field(gt=0)]
NotNegativeLength = Annotated[Length, Field(ge=0)]
# What memory or a machine has to hold has bounds of its own: beyond them a run dies, and not at once.
Epochs = Annotated[int, Field(ge=1, le=100_000)]


class Params:
    """The content of params.yaml, read once; sections are typed when a stage asks for them."""

    def __init__(self, values: Mapping[str, Any], path: str = "params.yaml") -> None:
        self.values, self.path = values, path

    @classmethod
    def read(cls, path: Path | str = "params.yaml") -> "Params":
        """The file's content. Errors: those of `read_yaml`."""
        return cls(read_yaml(path), str(path))

    def require_known(self, known: set[str]) -> None:
        """Refuses top-level keys outside `known`, which a stage alone would never look at."""
        if unknown := sorted(set(self.values) - known):
            raise InputError(f"{self.path}: unknown key {unknown[0]!r} (allowed: {', '.join(sorted(known))})")

    def get(self, *keys: str) -> Any:
        """The raw value under a top-level key, or under the keys of sections one inside the other."""
        value: Any = self.values
        for depth, key in enumerate(keys, start=1):
            if not is_mapping(value) or key not in value:
                raise InputError(f"{self.path}: missing key {'.'.join(keys[:depth])!r}")
            value = value[key]
        return value

    def section(self, key: str) -> dict[str, Any]:
        """A copy of what is under a top-level key, with nothing checked inside. Error: no mapping."""
        value = self.get(key)
        if not is_mapping(value):
            raise InputError(f"{self.path}: {key}: want a mapping of keys, got {short(value)}")
        return dict(value)

    def typed(self, kind: type[T], *keys: str, epsilon: Ratio | None = None) -> T:
        """The value under `keys` as `kind`: a frozen dataclass, or any type pydantic knows."""
        return typed(kind, self.get(*keys), f"{self.path}: {'.'.join(keys)}", epsilon)

    @property
    def seed(self) -> int:
        """The top-level key `seed`."""
        return cast(int, typed(Seed, self.get("seed"), f"{self.path}: seed"))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file, as DVC reads it. Errors: missing file, broken YAML, no mapping with texts as keys."""
    try:
        require_bytes(path)
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file {FROM_ROOT}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from None
    return mapping_of(text, str(path))


def mapping_of(text: str, where: str) -> dict[str, Any]:
    """The mapping that a YAML text is. Errors: broken YAML, no mapping with texts as keys."""
    values = parse(text, where)
    if not is_mapping(values):
        raise InputError(f"{where}: want a mapping of sections, got {type(values).__name__}")
    _require_text_keys(values, where)
    return dict(values)


def typed(kind: Any, value: Any, where: str, epsilon: Ratio | None = None) -> Any:
    """`value` checked against `kind`. Errors name the key, what was given and what is allowed, in one line.

    `epsilon` is what multiples of epsilon are multiples of; where it is None there are none.
    """
    _require_plain(value, where)
    try:
        # Through JSON, since only there does strict mode take a mapping for a dataclass and a list for a tuple.
        text, context = json.dumps(value, default=str), {"epsilon": epsilon}
        return TypeAdapter(kind).validate_json(text, strict=True, context=context)
    except ValidationError as error:
        raise InputError(_one_line(error, kind, value, where)) from None


def member(table: Mapping[str, Any], spec: Any, where: str, epsilon: Ratio | None = None) -> Any:
    """The family member a section names: `{name: pgd, steps: 10, …}` becomes `table["pgd"](steps=10, …)`.

    Errors: no name, an unknown name (lists the valid ones), unknown or missing fields, wrong types.
    """
    if not is_mapping(spec) or "name" not in spec:
        raise InputError(f"{where}: want a mapping with a name (one of: {', '.join(sorted(table))}), got {short(spec)}")
    kind = choose(table, spec["name"], f"{where}.name")
    return typed(kind, {key: value for key, value in spec.items() if key != "name"}, where, epsilon)


AUTO = "auto"


def is_count(value: object, most: int) -> bool:
    """Whether it is a whole number from 1 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def count_or_auto(most: int) -> Callable[[object], object]:
    """A validator of such a number, or `auto`: one message for a union of two types."""

    def validate(value: object) -> object:
        if value == AUTO or is_count(value, most):
            return value
        raise ValueError(f"got {short(value)}, want 1 to {most}, or {AUTO}")

    return validate


def short(value: object) -> str:
    """A value as a message shows it: on one line, and not all of what is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"an integer of {cast(int, value).bit_length()} bits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _require_plain(value: Any, where: str, depth: int = 0) -> None:
    """Refuses numbers that no key means, whatever its own bounds are, and a tree without an end."""
    if depth > DEEPEST:
        raise InputError(f"{where}: more than {DEEPEST} blocks one inside the other")
    if isinstance(value, int | float) and LARGEST < abs(value) < math.inf:
        raise InputError(f"{where}: got {short(value)}, want at most {LARGEST}")
    if isinstance(value, Mapping):
        for key, inner in cast(Mapping[object, object], value).items():
            _require_plain(inner, _at(where, str(key)), depth + 1)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(cast(Sequence[object], value)):
            _require_plain(inner, _at(where, str(place)), depth + 1)


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _one_line(error: ValidationError, kind: Any, value: object, where: str) -> str:
    # A misspelt key is also a missing one: name the misspelling.
    first, *rest = sorted(error.errors(include_url=False), key=lambda one: one["type"] not in _UNKNOWN)
    key = _at(where, *_keys(first["loc"], value, absent=first["type"] in (*_UNKNOWN, *_MISSING)))
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


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """A tree of mappings as one: the keys that lead to each value, with dots between, to the value.

    A mapping that holds nothing is a value.
    """
    if not is_mapping(value) or (name and not value):
        return {name: value}
    parts = (flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
    return {key: found for part in parts for key, found in part.items()}


def _require_text_keys(values: object, where: str) -> None:
    # YAML reads `50:` as a number and `on:` as true, which no section can have meant.
    if isinstance(values, Mapping):
        for key, value in cast(Mapping[object, object], values).items():
            if not isinstance(key, str):
                raise InputError(f"{where}: key {key!r} is read as {type(key).__name__}, put it in quotes")
            _require_text_keys(value, _at(where, key))


def _at(where: str, *keys: str) -> str:
    """A key inside `where`, which is a file, or a key of it."""
    inside = ".".join(keys)
    return f"{where}: {inside}" if keys and where.endswith((".yaml", ".yml")) else ".".join([where, *keys])
