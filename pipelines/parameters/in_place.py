"""Changes single values of a YAML text where they stand, so that every other character stays as its author left it."""

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from components.foundation.errors import InputError
from components.foundation.params import is_mapping, mapping_of
from components.foundation.recipes import ONLY, changed, nested
from components.foundation.yaml_text import compose

WIDTH = 120
# What a line has behind a value, and the space before its comment.
_COMMENT = re.compile(r"([^#'\"\n]*?)( {2,})(?=#)")


def in_place(text: str, delta: Mapping[str, Any], where: str, yaml: YAML) -> str | None:
    """The text with a delta applied by replacing values only; None where the delta asks for more than that.

    Args:
        text: a YAML mapping.
        delta: what differs, see `components.foundation.recipes`.
        where: file and key of the delta, for messages.
        yaml: what writes a value.
    """
    wanted = changed(mapping_of(text, where), delta, where)
    edits = sorted(_edits(compose(text, where), nested(delta, where), wanted, yaml), reverse=True)
    for start, end, value in edits:
        text = text[:start] + value + _beside(text[end:], len(value) - (end - start))
        if _is_long(text, start) and value.startswith("{"):
            return None
    try:
        # An alias may share a value, and a new name may take the other fields away.
        return text if mapping_of(text, where) == wanted else None
    except InputError:
        return None


def _is_long(text: str, place: int) -> bool:
    """Whether the line at a place of the text is longer than a line should be."""
    return len(text[:place].rpartition("\n")[2] + text[place:].partition("\n")[0]) > WIDTH


def _beside(rest: str, wider: int) -> str:
    """What follows a value that became wider: the comment of its line stays in its column if there is room."""
    line = _COMMENT.match(rest)
    if line is None:
        return rest
    return line[1] + " " * max(2, len(line[2]) - wider) + rest[line.end() :]


def _edits(node: Node | None, delta: Mapping[str, Any], wanted: Any, yaml: YAML) -> Iterator[tuple[int, int, str]]:
    """Where each value of the delta stands, from and to which character, and what takes its place."""
    children = _children(node)
    for key, value in delta.items():
        place: Any = int(key) if isinstance(wanted, list) else key
        child, new = children.get(key), wanted[place]
        if is_mapping(value) and value and not isinstance(child, ScalarNode) and not _replaces(child, value):
            yield from _edits(child, value, new, yaml)
        elif isinstance(child, ScalarNode) or (isinstance(child, CollectionNode) and child.flow_style):
            yield child.start_mark.index, child.end_mark.index, _written(new, value, yaml)


def _replaces(node: Node | None, value: Mapping[str, Any]) -> bool:
    name = _children(node).get("name")
    return set(value) == {ONLY} or ("name" in value and (name is None or name.value != value["name"]))


def _children(node: Node | None) -> dict[str, Node]:
    if isinstance(node, MappingNode):
        return {key.value: child for key, child in node.value}
    if isinstance(node, SequenceNode):
        return {str(place): child for place, child in enumerate(node.value)}
    return {}


def _written(new: Any, given: Any, yaml: YAML) -> str:
    """A value as it stands inside a list on one line, which is valid wherever a value may stand."""
    out = io.StringIO()
    # A scalar as the user wrote it, `5e-4` for 0.0005.
    line = yaml.map(**new) if is_mapping(given) else yaml.seq([given])
    line.fa.set_flow_style()
    yaml.dump(line, out)
    text = out.getvalue().strip()
    return text if is_mapping(given) else text.removeprefix("[").removesuffix("]")
