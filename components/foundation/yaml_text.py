"""Reads YAML as DVC reads it: as version 1.2 of YAML has it, where `1e-4` is a number and `yes` is text.

What the two readers could see differently is refused: explicit tags, directives, dates, keys that are there twice. So
is what no file of parameters has and what would take long: a large file, deep nesting, aliases that multiply.
"""

# PyYAML leaves its types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

import yaml
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent, ScalarEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from components.foundation.errors import InputError

T = TypeVar("T")

LARGEST_FILE = 200_000
"""Characters that a file may have."""
MOST_VALUES = 20_000
"""Values that it may hold, those of an alias counted each time."""
DEEPEST = 30
"""Blocks that may stand one inside the other."""
LONGEST_NUMBER = 60
"""Characters of a number."""
# Line ends for one of the readers only.
_ODD_LINE_ENDS = re.compile("[\x85\u2028\u2029\ufeff]")
_PREFIX = "tag:yaml.org,2002:"
# YAML 1.2 with the underscores and binary numbers that DVC's reader still takes.
_PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", "~nN"),
    "int": (r"[-+]?0b[01_]+|[-+]?0o[0-7_]+|[-+]?[0-9_]+|[-+]?0x[0-9a-fA-F_]+", "-+0123456789"),
    "float": (
        r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "timestamp": (r"\d{4}-\d\d?-\d\d?(?:(?:[Tt]|[ \t]+)\d\d?:.*)?", "0123456789"),
    "value": (r"=", "="),
    "merge": (r"<<", "<"),
}


def parse(text: str, where: str) -> Any:
    """The value of a YAML document: mappings, lists, texts, numbers, booleans, null.

    Errors: what is no YAML or not safe to read, in one line with `where` and the line of the text.
    """
    node = compose(text, where)
    try:
        return None if node is None else _unshared(_Reader("").construct_document(node))
    except yaml.YAMLError as error:
        raise _error(error, where) from None


def compose(text: str, where: str) -> Node | None:
    """The nodes of a YAML document, which know where they stand in the text. Errors: as of `parse`."""
    try:
        _require_small(text)
        node = _Reader(text).get_single_node()
        if node is not None:
            _require_few(node)
        return node
    except yaml.YAMLError as error:
        raise _error(error, where) from None


def _unshared(value: Any) -> Any:
    """The same values, where those of an alias are its own: what changes one of them changes no other."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in cast(dict[Any, Any], value).items()}
    return [_unshared(inner) for inner in cast(list[Any], value)] if isinstance(value, list) else value


def _error(error: yaml.YAMLError, where: str) -> InputError:
    return InputError(f"{where}: not readable as YAML: {_one_line(error)}")


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    context = getattr(error, "context", None) or "while"
    said = f"{'' if context.startswith('while') else context} {getattr(error, 'problem', '')}"
    return f"{' '.join(said.split())} (line {mark.line + 1}, column {mark.column + 1})"


class _Reader(yaml.SafeLoader):
    """PyYAML's safe reader with the types of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    count, deep = 0, 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"the tag {event.tag!r}, which is not taken here", event)
        if isinstance(event, AliasEvent) and isinstance(parent, MappingNode) and index is None:
            raise _refusal("an alias as a key", event)
        if isinstance(parent, MappingNode) and index is not None and _is_bare(parent, event):
            raise _refusal("a key without a value, want a space behind its colon", event)
        self.count, self.deep = self.count + 1, self.deep + 1
        if self.deep > DEEPEST:
            raise _refusal(f"more than {DEEPEST} blocks one inside the other", event)
        if self.count > MOST_VALUES:
            raise _refusal(f"more than {MOST_VALUES} values", event)
        node = super().compose_node(parent, cast(int, index))
        self.deep -= 1
        return node

    def compose_document(self) -> Node | None:
        event: Any = self.peek_event()
        if event.version or event.tags:
            raise _refusal("a directive, which is not taken here", event)
        return super().compose_document()

    def construct_yaml_int(self, node: ScalarNode) -> int:
        text, sign = _number(node)
        base = {"0b": 2, "0o": 8, "0x": 16}.get(text[:2], 10)
        return sign * _converted(lambda: int(text[2:] if base != 10 else text, base), node)

    def construct_yaml_float(self, node: ScalarNode) -> float:
        text, sign = _number(node)
        return sign * _converted(lambda: float({".inf": "inf", ".nan": "nan"}.get(text.lower(), text)), node)

    def refuse_date(self, node: ScalarNode) -> None:
        raise _refusal(f"the date {node.value!r}: put it in quotes", node)


for _name, (_pattern, _first) in _PLAIN.items():
    _Reader.add_implicit_resolver(_PREFIX + _name, re.compile(f"(?:{_pattern})$", re.ASCII), [*_first, ""])
_Reader.add_constructor(_PREFIX + "int", _Reader.construct_yaml_int)
_Reader.add_constructor(_PREFIX + "float", _Reader.construct_yaml_float)
_Reader.add_constructor(_PREFIX + "timestamp", _Reader.refuse_date)


def _is_bare(parent: MappingNode, value: Any) -> bool:
    """Whether a value is the nothing of `{a:}`, which DVC's reader takes for the text `a:`."""
    at, empty = value.start_mark, isinstance(value, ScalarEvent) and not value.value and not value.style
    around = at.buffer[max(0, at.pointer - 1) : at.pointer + 1]
    return bool(parent.flow_style) and empty and around[:1] == ":" and around[1:] in (",", "]", "}")


def _number(node: ScalarNode) -> tuple[str, int]:
    """The digits of a number without underscores and sign, and the sign."""
    if len(node.value) > LONGEST_NUMBER:
        raise _refusal(f"a number of {len(node.value)} characters", node)
    text = node.value.replace("_", "")
    return text.lstrip("+-"), -1 if text.startswith("-") else 1


def _converted(convert: Callable[[], T], node: ScalarNode) -> T:
    try:
        return convert()
    except ValueError:
        raise _refusal(f"{node.value!r}, which is no number", node) from None


def _require_small(text: str) -> None:
    if len(text) > LARGEST_FILE:
        raise yaml.YAMLError(f"{len(text)} characters, want at most {LARGEST_FILE}")
    if odd := _ODD_LINE_ENDS.search(text):
        raise yaml.YAMLError(f"line {text.count(chr(10), 0, odd.start()) + 1}: found the character {odd[0]!r}")


def _require_few(node: Node, depth: int = 0, count: int = 0) -> int:
    """How many values a node holds, each alias counted in full. Errors: too many, too deep, a key twice."""
    count += 1
    if count > MOST_VALUES or depth > DEEPEST:
        raise _refusal("aliases that multiply or hold themselves", node)
    if isinstance(node, MappingNode):
        _require_distinct(node)
    parts = node.value if isinstance(node, MappingNode | SequenceNode) else []
    for part in parts:
        for inner in part if isinstance(part, tuple) else (part,):
            count = _require_few(inner, depth + 1, count)
    return count


def _require_distinct(node: MappingNode) -> None:
    keys: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise _refusal("a key that is no text", key)
        if key.value in keys:
            raise _refusal(f"the key {key.value!r} twice", key)
        keys.add(key.value)


def _refusal(found: str, at: Any) -> ConstructorError:
    return ConstructorError(None, None, f"found {found}", at.start_mark)
