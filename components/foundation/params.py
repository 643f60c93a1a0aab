"""The only reader of params.yaml: strict and typed, exact fractions, one line for a mistake.

A section of the file is the fields of a frozen pydantic dataclass (`strict`), so there is no second schema. No field
has a default: `params.yaml` is the one place that holds numbers.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass

from components.foundation.errors import FROM_ROOT, InputError, choose
from components.foundation.mistakes import at, first_mistake, is_mapping, short
from components.foundation.storage import require_bytes
from components.foundation.yaml_text import DEEPEST, LARGEST_FILE, parse

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
# Streams are hashed from the seed (`random_numbers.derived`), so more bits would add nothing.
MAX_SEED = 2**32 - 1
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


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
        raise InputError(first_mistake(error, kind, value, where)) from None


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


def _require_plain(value: Any, where: str, depth: int = 0) -> None:
    """Refuses numbers that no key means, whatever its own bounds are, and a tree without an end."""
    if depth > DEEPEST:
        raise InputError(f"{where}: more than {DEEPEST} blocks one inside the other")
    if isinstance(value, int | float) and LARGEST < abs(value) < math.inf:
        raise InputError(f"{where}: got {short(value)}, want at most {LARGEST}")
    if isinstance(value, Mapping):
        for key, inner in cast(Mapping[object, object], value).items():
            _require_plain(inner, at(where, str(key)), depth + 1)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(cast(Sequence[object], value)):
            _require_plain(inner, at(where, str(place)), depth + 1)


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
            _require_text_keys(value, at(where, key))
