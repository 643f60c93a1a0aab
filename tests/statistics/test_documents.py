"""Documents: the same bytes again, one line for a mistake, and every field described."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from components.foundation.errors import InputError
from components.statistics.documents import Document, as_json, document_of, json_schema, read_document, write_document


class Inner(Document):
    """A part."""

    class_: str
    """A name."""
    share: float = 0.5
    """A share of 1."""


class Outer(Document):
    """A whole."""

    schema_: Literal["toy/1"]
    """The name of the format."""
    parts: dict[str, list[Inner]]
    """The parts."""
    one: Inner | None
    """One more."""


WHOLE = {"schema": "toy/1", "parts": {"a": [{"class": "x", "share": 1.0}, {"class": "y"}]}, "one": None}


def test_what_was_absent_stays_absent(tmp_path: Path) -> None:
    document = document_of(Outer, WHOLE, "here")
    assert document.parts["a"][1].share == 0.5
    assert list(as_json(document)) == ["schema", "parts", "one"] and as_json(document) == WHOLE
    write_document(tmp_path / "toy.json", document)
    first = (tmp_path / "toy.json").read_bytes()
    assert json.loads(first) == WHOLE
    write_document(tmp_path / "toy.json", read_document(Outer, tmp_path / "toy.json"))
    assert (tmp_path / "toy.json").read_bytes() == first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "toy/2"}, "here: schema 'toy/2', want 'toy/1'"),
        ({"kind": 1}, "here: kind: unknown key (allowed: schema, parts, one)"),
        ({"one": {"class": "z", "size": 1}}, "here: one.size: unknown key (allowed: class, share)"),
        ({"parts": {"a": [{"share": 1.0}]}}, "here: parts.a.0.class: missing"),
        (
            {"parts": {"a": [{"class": "x", "shares": 1.0}]}},
            "here: parts.a.0.shares: unknown key (allowed: class, share)",
        ),
        ({"parts": {"a": [{"class": 1}]}}, "here: parts.a.0.class: input should be a valid string, got 1"),
        (
            {"parts": {"a": [{"class": "x", "share": "1"}]}},
            "here: parts.a.0.share: input should be a valid number, got '1'",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        document_of(Outer, WHOLE | change, "here")
    assert str(error.value) == said


@pytest.mark.parametrize("content", ["[1]", "null", '"toy/1"'])
def test_what_is_no_document_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "toy.json").write_text(content)
    with pytest.raises(InputError, match=r"toy\.json: schema None, want 'toy/1'"):
        read_document(Outer, tmp_path / "toy.json")


def test_a_document_does_not_change() -> None:
    document = document_of(Outer, WHOLE, "here")
    with pytest.raises(ValueError, match="frozen"):
        document.one = Inner(class_="z")


def test_the_json_schema_is_named_as_the_document_names_itself() -> None:
    schema = json_schema(Outer)
    assert (schema["title"], schema["$id"], schema["description"]) == ("toy/1", "urn:toy:1", "A whole.")
    assert schema["properties"]["schema"]["const"] == "toy/1"
    assert schema["$defs"]["Inner"]["properties"]["class"]["description"] == "A name."
    assert schema["$defs"]["Inner"]["required"] == ["class"]
