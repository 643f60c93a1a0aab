"""Every key that params.yaml may have, as a tree made from the dataclasses: type, range, meaning, members."""

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from components.attacks.pgd import Pgd
from components.foundation.params import RELATIVE, Ratio
from pipelines.parameters.early import BOUNDS as SCHEMA_BOUNDS
from pipelines.parameters.early import REFERENCE

# The bounds that a type may have, in words.
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


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


def of_class(kind: type, families: Mapping[str, tuple[str, bool]] | None = None) -> dict[str, Key]:
    """The keys of a dataclass. `families` says which fields name members: the family, and whether there may be many."""
    hints, told, found = get_type_hints(kind, include_extras=True), meanings(kind), {}
    for one in fields(kind):
        needed = one.default is MISSING and one.default_factory is MISSING
        family, many = (families or {}).get(one.name, ("", False))
        words = f"named {family}" if many else f"one of the {family}"
        key = Key(words, {}, family=family, many=many) if family else of_type(hints[one.name])
        found[one.name] = replace(key, meaning=told[one.name], required=needed)
    return found


def of_type(kind: Any) -> Key:
    """The key of a type annotation. Error: a kind of annotation that params.yaml has not had so far."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        key = LENGTH if RELATIVE in arguments else ANNOTATED.get(arguments[0]) or of_type(arguments[0])
        allowed, bounds = _bounds(kind)
        return replace(key, allowed=allowed or key.allowed, schema=key.schema | bounds)
    if kind in SCALARS:
        return SCALARS[kind]
    if is_dataclass(kind):
        children = of_class(kind)  # pyright: ignore[reportArgumentType]
        if kind in ALONE:
            return Key(f"fields of the attack `{ALONE[kind]}`", object_of(children))
        return Key("mapping", object_of(children), children=children)
    if origin is Literal:
        return Key(", ".join(f"`{_yaml(choice)}`" for choice in arguments), {"enum": list(arguments)})
    if origin in (Union, UnionType):
        return _either([of_type(choice) for choice in arguments])
    if origin is tuple:
        item = of_type(arguments[0])
        allowed = f"each {item.allowed}" if item.allowed else ""
        return Key(f"list of {item.words}", {"type": "array", "items": item.schema}, allowed=allowed)
    if origin is dict:
        item = of_type(arguments[1])
        return Key("mapping", {"type": "object", "additionalProperties": item.schema})
    raise TypeError(f"no words for the type {kind}")


# Attacks that a field holds without a name, since it can be no other.
ALONE = {Pgd: "pgd"}
# Numbers that are also texts: how a schema defines them, and who reads them so.
_FRACTION = r"^[-+0-9 ./eE]+$"
DEFINED = {
    "fraction": {"type": ["string", "number"], "pattern": _FRACTION},
    "length": {"type": ["string", "number"], "pattern": r"^[-+0-9 ./eE*]*(epsilon[-+0-9 ./eE]*)?$"},
    "real": {"type": ["number", "string"], "pattern": _FRACTION},
}
ANNOTATED = {
    Ratio: Key("fraction", {"$ref": f"{REFERENCE}fraction"}),
    float: Key("number", {"$ref": f"{REFERENCE}real"}),
}
LENGTH = Key("length", {"$ref": f"{REFERENCE}length"})
SCALARS = {
    bool: Key("true or false", {"type": "boolean"}),
    int: Key("integer", {"type": "integer"}),
    float: Key("number", {"type": "number"}),
    str: Key("text", {"type": "string"}),
    type(None): Key("null", {"type": "null"}),
    Any: Key("anything", {}),
}


def _either(keys: list[Key]) -> Key:
    children: dict[str, Key] = {}
    for name, child in ((name, child) for key in keys for name, child in key.children.items()):
        same = name in children and children[name].words != child.words
        children[name] = replace(child, words=f"{children[name].words}, {child.words}" if same else child.words)
    words, allowed = (dict.fromkeys(told) for told in ([key.words for key in keys], [key.allowed for key in keys]))
    schema = {"anyOf": [key.schema for key in keys]}
    return Key(" or ".join(words), schema, allowed=" or ".join(filter(None, allowed)), children=children)


def object_of(children: Mapping[str, Key]) -> dict[str, Any]:
    """The JSON Schema of a mapping with these keys and no others."""
    properties = {
        name: ({"description": key.meaning} if key.meaning else {}) | key.schema for name, key in children.items()
    }
    required = [name for name, key in children.items() if key.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _bounds(kind: Any) -> tuple[str, dict[str, Any]]:
    """The bounds that stand in a type, in words and as JSON Schema."""
    told = [part for mark in get_args(kind)[1:] if isinstance(mark, FieldInfo) for part in mark.metadata]
    found = [(name, getattr(part, name)) for part in told for name in BOUNDS if hasattr(part, name)]
    words = ", ".join(f"{BOUNDS[name]} {limit}" for name, limit in found)
    return words, {SCHEMA_BOUNDS[name]: limit for name, limit in found}


def text_of(kind: type) -> str:
    """What a class says of itself: its docstring without examples and errors, in paragraphs."""
    said = re.split(r"\n\n>>>", inspect.cleandoc(kind.__doc__ or ""))[0]
    return re.sub(r"\s*\bErrors:\s.*?(?=\n\n|\Z)", "", said, flags=re.DOTALL)


def meanings(kind: type) -> dict[str, str]:
    """What a dataclass says of each field: the text or the comment at it, else the first sentence that names it."""
    found: dict[str, str] = {}
    for one in reversed([base for base in kind.__mro__ if is_dataclass(base)]):
        sentences = re.split(r"(?<=\.)\s+(?=[A-Z`])", " ".join(text_of(one).split()))
        for name, text in _at_fields(one).items():
            found[name] = text or next((sentence for sentence in sentences if f"`{name}`" in sentence), "")
    return found


def _at_fields(kind: type) -> dict[str, str]:
    """The attribute docstring of each field, else the comment behind it, else nothing."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines, body, found = source.splitlines(), cast(ast.ClassDef, ast.parse(source).body[0]).body, {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        comment = re.search(r"\s#\s*(.*)$", lines[(node.end_lineno or node.lineno) - 1])
        text = comment[1] if comment else ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = str(after.value.value)
        found[node.target.id] = " ".join(text.split())
    return found


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
