"""Refuses parameters by their JSON Schema alone: types, ranges, keys and names, before anything large is imported.

The schema is generated from the classes with which the full check reads (`temper params schema --json`). Here it is
read back into types, so that a mistake has the same words. What passes is not yet right: the full check decides.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from components.foundation.params import Fractional, Length, Params, Real, is_mapping, member, short, strict

SCHEMA = Path(__file__).with_name("params.schema.json")
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""The bounds of a type, and their keys in a JSON Schema."""
REFERENCE = "#/$defs/"
NUMBERS: dict[str, Any] = {"fraction": Fractional, "length": Length, "real": Real}
"""Definitions of the schema that are types of their own."""
_SCALARS = {"boolean": bool, "integer": int, "number": float, "string": str, "null": type(None)}
_NOUNS = {"boolean": "true or false", "integer": "an integer", "object": "a mapping", "null": "null"}

Schema = Mapping[str, Any]


def refuse(params: Params) -> None:
    """Returns where the schema finds no mistake. Error: the first mistake, in one line."""
    whole = json.loads(SCHEMA.read_text(encoding="utf-8"))
    sections = whole["properties"]
    params.require_known(set(sections))
    epsilon = params.typed(_kind(sections["threat"]), "threat").epsilon
    families = {name: one["oneOf"] for name, one in whole["$defs"].items() if "oneOf" in one}

    def members(schema: Schema, value: Any, where: str) -> None:
        """Checks every family member that stands in a value whose own type is right."""
        family = families.get(schema.get("$ref", "").removeprefix(REFERENCE))
        if family is not None:
            chosen = {one["properties"]["name"]["const"]: one for one in family}
            name = value.get("name")
            member({key: _kind(one) if key == name else one for key, one in chosen.items()}, value, where, epsilon)
            schema = chosen[name]
        for choice in schema.get("anyOf", ()):
            members(choice, value, where)
        for key, inner in value.items() if is_mapping(value) else ():
            below = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if below:
                members(below, inner, f"{where}.{key}")

    for name, schema in sections.items():
        params.typed(_kind(schema), name, epsilon=epsilon)
        members(schema, params.get(name), f"{params.path}: {name}")


def _kind(schema: Schema) -> Any:
    """The type that a part of the schema stands for; a family member, which is checked apart, is any mapping."""
    bounds = {sign: schema[key] for sign, key in BOUNDS.items() if key in schema}
    return Annotated[_unbounded(schema), Field(**bounds)] if bounds else _unbounded(schema)


def _unbounded(schema: Schema) -> Any:
    if "$ref" in schema:
        return NUMBERS.get(schema["$ref"].removeprefix(REFERENCE), dict[str, Any])
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    if "anyOf" in schema:
        return _either(schema["anyOf"])
    if "properties" in schema:
        return _section(json.dumps(schema))
    if schema.get("type") == "object":
        return dict[str, _kind(schema["additionalProperties"])]
    if schema.get("type") == "array":
        return tuple[_kind(schema["items"]), ...]
    return _SCALARS[schema["type"]] if schema else Any


def _either(choices: Sequence[Schema]) -> Any:
    kind: Any = reduce(or_, map(_kind, choices))
    if all("name" in choice.get("properties", {}) for choice in choices):
        return Annotated[kind, Field(discriminator="name")]
    if not any("enum" in choice for choice in choices):
        return kind
    # Within one message a mapping is any: the full check says what is wrong inside.
    kind = reduce(or_, (dict[str, Any] if "properties" in choice else _kind(choice) for choice in choices))
    wanted = ", or ".join(map(_words, choices))

    def one_message(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError:
            raise ValueError(f"got {short(value)}, want {wanted}") from None

    return Annotated[kind, WrapValidator(one_message)]


def _words(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    bounded = "minimum" in schema and "maximum" in schema
    return f"{schema['minimum']} to {schema['maximum']}" if bounded else _NOUNS[schema["type"]]


# By its text, since the sections of training are alike, and a class takes a millisecond.
@cache
def _section(text: str) -> type:
    """A dataclass of the keys of a mapping, without the name of a member."""
    schema = json.loads(text)
    keys = {name: one for name, one in schema["properties"].items() if "const" not in one}
    body: dict[str, Any] = {name: None for name in keys if name not in schema["required"]}
    body["__annotations__"] = {name: _kind(one) for name, one in keys.items()}
    return strict(type("Section", (), body))
