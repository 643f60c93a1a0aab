"""Every key that params.yaml may have, as a tree made from the dataclasses: type, range, meaning, members."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from components.foundation.params import Ratio

# What a range is asked with: below zero, zero, just above, the usual shares and bounds, just above one, large.
INTEGERS = (-1, 0, 1, 2, 3, 4, 10, 30, 31, 10**6)
NUMBERS = (-1.0, 0.0, 1e-6, 0.5, 1 - 1e-6, 1.0, 1 + 1e-6, 2.0, 1e6)


@dataclass(frozen=True)
class Key:
    """What may stand in one place: in words and as JSON Schema; `children` are the keys below it.

    `family` names the table whose members may stand here, `many` says that it is a mapping of such members.
    """

    words: str
    schema: dict[str, Any]
    meaning: str = ""
    allowed: str = ""
    children: dict[str, "Key"] = field(default_factory=dict)
    required: bool = True
    family: str = ""
    many: bool = False


def of_class(kind: type, sample: Any, families: Mapping[str, tuple[str, bool]] | None = None) -> dict[str, Key]:
    """The keys of a dataclass. `sample`, a valid instance, is what ranges are found by changing; None finds none.

    `families` says which fields name members: field to the family and whether there may be many.
    """
    hints, told, found = get_type_hints(kind, include_extras=True), meanings(kind), {}
    for one in fields(kind):
        needed = one.default is MISSING and one.default_factory is MISSING
        family, many = (families or {}).get(one.name, ("", False))
        value = getattr(sample, one.name, None)
        key = Key("", {}) if family else of_type(hints[one.name], value)
        accepts = None if sample is None else lambda new, name=one.name: _accepts(sample, name, new)
        allowed, bounds = _range(hints[one.name], accepts)
        words = f"named {family}" if many else f"one of the {family}" if family else key.words
        found[one.name] = replace(
            key,
            words=words,
            schema=key.schema | bounds,
            meaning=told.get(one.name, ""),
            allowed=allowed,
            required=needed,
            family=family,
            many=many,
        )
    return found


def of_type(kind: Any, value: Any = None) -> Key:
    """The key of a type annotation. Error: a kind of annotation that params.yaml has not had so far."""
    if get_origin(kind) is Annotated:
        inner = get_args(kind)[0]
        if inner is Ratio:
            return Key("fraction", {"type": ["string", "number"]})
        return Key("number", {"type": ["number", "string"]}) if inner is float else of_type(inner, value)
    if kind in SCALARS:
        return SCALARS[kind]
    if is_dataclass(kind):
        children = of_class(kind, value if isinstance(value, kind) else None)  # pyright: ignore[reportArgumentType]
        return Key("mapping", object_of(children), children=children)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return Key(", ".join(f"`{_yaml(choice)}`" for choice in arguments), {"enum": list(arguments)})
    if origin in (Union, UnionType):
        return _either([of_type(choice, value) for choice in arguments])
    if origin is tuple:
        item = of_type(arguments[0])
        return Key(f"list of {item.words}", {"type": "array", "items": item.schema})
    if origin is dict:
        item = of_type(arguments[1])
        return Key("mapping", {"type": "object", "additionalProperties": item.schema})
    raise TypeError(f"no words for the type {kind}")


SCALARS = {
    bool: Key("true or false", {"type": "boolean"}),
    int: Key("integer", {"type": "integer"}),
    float: Key("number", {"type": "number"}),
    str: Key("text", {"type": "string"}),
    type(None): Key("null", {"type": "null"}),
    Any: Key("anything", {}),
}


def _either(keys: list[Key]) -> Key:
    children = {name: child for key in keys for name, child in key.children.items()}
    return Key(" or ".join(key.words for key in keys), {"anyOf": [key.schema for key in keys]}, children=children)


def object_of(children: Mapping[str, Key]) -> dict[str, Any]:
    """The JSON Schema of a mapping with these keys and no others."""
    properties = {
        name: ({"description": key.meaning} if key.meaning else {}) | key.schema for name, key in children.items()
    }
    required = [name for name, key in children.items() if key.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _accepts(sample: Any, name: str, value: object) -> bool:
    try:
        replace(sample, **{name: value})
    except (ValueError, TypeError, ZeroDivisionError):
        return False
    return True


def _range(kind: Any, accepts: Callable[[Any], bool] | None) -> tuple[str, dict[str, Any]]:
    """The range of a number in words and as JSON Schema, by asking the checks themselves."""
    plain = next((choice for choice in get_args(kind) if choice in (int, float)), kind) if _is_union(kind) else kind
    inner = get_args(plain)[0] if get_origin(plain) is Annotated else plain
    if accepts is None or inner not in (int, float, Ratio):
        return "", {}
    points = INTEGERS if inner is int else NUMBERS
    taken = [
        point
        for point in points
        if accepts(Ratio(Fraction(point).limit_denominator(10**6)) if inner is Ratio else point)
    ]
    if not taken:
        return "", {}
    low, high = taken[0], taken[-1]
    lower = "" if low == points[0] else f"above {low:.0f}" if low % 1 and low % 1 < 1e-3 else f"at least {low:g}"
    upper = "" if high == points[-1] else f"below {high:.0f}" if high % 1 > 1 - 1e-3 else f"at most {high:g}"
    bounds = {"minimum": low} if inner is int and lower else {}
    return ", ".join(filter(None, (lower, upper))), bounds


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def meanings(kind: type) -> dict[str, str]:
    """What a dataclass says of each field: the comment or the text at it, else the sentences that name it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    body, found = tree.body[0].body, {}  # pyright: ignore[reportAttributeAccessIssue]
    sentences = re.split(r"(?<=[.:;])\s+(?=[A-Z`])", " ".join((kind.__doc__ or "").split()))
    for place, node in enumerate(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name, after = node.target.id, body[place + 1 : place + 2]
        comment = re.search(r"#\s*(.*)$", lines[node.lineno - 1])
        if after and isinstance(after[0], ast.Expr) and isinstance(after[0].value, ast.Constant):
            found[name] = " ".join(str(after[0].value.value).split())
        elif comment:
            found[name] = comment[1]
        else:
            found[name] = " ".join(sentence for sentence in sentences if f"`{name}`" in sentence)
    return found


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
