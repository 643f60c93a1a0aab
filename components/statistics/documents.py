"""What a document is: JSON under a versioned schema, with types, JSON Schema and descriptions from one model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.foundation.errors import InputError
from components.foundation.storage import read_json, write_json

UNKNOWN = "extra_forbidden"
# Of every document's field `schema_`.
FORMAT: Any = Field(description="The name of this format; a change that could break a reader raises its number.")


class Document(BaseModel):
    """A document, or a part of one.

    The text below a field is its description. Unknown keys are refused, and numbers are finite. `class_` and `schema_`
    are written without the underscore, which only Python needs. A field with a default may be absent from a file, and
    what is absent stays absent when the document is written again. A part is written as its field's type says: without
    what a more special part has besides.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        alias_generator=lambda name: name.removesuffix("_"),
        validate_by_name=True,
        validate_by_alias=True,
    )

    def pick(self, *names: str) -> dict[str, Any]:
        """Some of the fields, for a document that has the same."""
        return {name: getattr(self, name) for name in names}


D = TypeVar("D", bound=Document)


def as_json(document: Document) -> dict[str, Any]:
    """The document as JSON holds it: keys in the order of the fields, without what was not given."""
    return document.model_dump(mode="json", by_alias=True, exclude_unset=True)


def write_document(path: Path | str, document: Document) -> None:
    """Writes the document as indented JSON, the same bytes for the same content."""
    write_json(path, as_json(document))


def read_document(kind: type[D], path: Path | str) -> D:
    """The document at `path`. Errors, in one line: missing or broken file, another schema, a key that does not fit."""
    return document_of(kind, read_json(path), str(path))


def document_of(kind: type[D], value: Any, where: str) -> D:
    """The JSON `value` as a document. Errors name `where`, the key, and what is allowed there, in one line."""
    # A document of another schema is refused as a whole, before any of its keys.
    if field := kind.model_fields.get("schema_"):
        content = cast(Mapping[str, Any], value if isinstance(value, dict) else {})
        schema, allowed = content.get("schema"), get_args(field.annotation)
        if schema not in allowed:
            raise InputError(f"{where}: schema {schema!r}, want {' or '.join(map(repr, allowed))}")
    try:
        return kind.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise InputError(f"{where}: {_one_line(error, kind)}") from None


def json_schema(kind: type[Document]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a kind of document, named as the document names itself."""
    (name,) = get_args(kind.model_fields["schema_"].annotation)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{name.replace('/', ':')}"}
    return head | kind.model_json_schema() | {"title": name}


def _one_line(error: ValidationError, kind: type[Document]) -> str:
    # A misspelt key is also a missing one: name the misspelling.
    first, *rest = sorted(error.errors(include_url=False), key=lambda one: one["type"] != UNKNOWN)
    key, more = ".".join(map(str, first["loc"])), f" (and {len(rest)} more)" if rest else ""
    if first["type"] == UNKNOWN:
        return f"{key}: unknown key (allowed: {', '.join(_keys_at(kind, first['loc'][:-1]))}){more}"
    if first["type"] == "missing":
        return f"{key}: missing{more}"
    return f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}{more}"


def _keys_at(kind: Any, path: tuple[int | str, ...]) -> list[str]:
    """The keys of the part that is `path` inside a kind of document."""
    for part in path:
        fields: Mapping[str, Any] = {field.alias or name: field for name, field in kind.model_fields.items()}
        if part in fields:
            kind = _part(fields[str(part)].annotation) or kind
    return [field.alias or name for name, field in kind.model_fields.items()]


def _part(annotation: Any) -> type[Document] | None:
    """The kind of part that an annotation holds, alone, in a list, in a mapping or beside None."""
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return annotation
    return next((found for one in get_args(annotation) if (found := _part(one))), None)
