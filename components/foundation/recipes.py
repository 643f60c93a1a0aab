"""How to say "this recipe, but": one deep delta for presets, arms of studies, `--set` and the sentinel's changes.

A delta has the shape of the recipe and holds what differs. A dot in a key goes one level down: `recipe.epochs: 5` is
`recipe: {epochs: 5}`.

* A mapping is merged into the block that is there. What it does not mention stays.
* A mapping with another `name` replaces the block, because the fields of one family member mean nothing to another.
* Everything else replaces what was there: a number, a text, a list, null, and the empty mapping.
* `only: {…}` replaces a block in any case, by the whole block that it holds. So a table has exactly these entries.
* In a list the keys are positions, from 0: `changes.0.method.noise: 1`.

A key that the recipe does not have is a mistake, with two exceptions: a family member may have fields that are left
out, and a table of members takes new entries. What is wrong there is found when the recipe is read into its types.
"""

import copy
from collections.abc import Mapping
from typing import Any, TypeGuard, TypeVar

from components.foundation.errors import InputError
from components.foundation.params import is_mapping, short

M = TypeVar("M", bound=Mapping[str, Any])

ONLY = "only"
"""The key of a delta whose value replaces the whole block."""


def changed(recipe: M, delta: Mapping[str, Any], where: str) -> M:
    """The recipe with the delta applied; neither argument is modified.

    Args:
        recipe: all parameters, or one section of them. The result has its type, so comments of a document survive.
        delta: what differs. Where it gives a key twice, dotted and not, the later one wins.
        where: file and key of the delta, for the message.

    Errors: a key that the recipe does not have, with the allowed ones; a key given as a whole and by keys of its own.
    """
    result = copy.deepcopy(recipe)
    _change(result, nested(delta, where), where, "")
    return result


def nested(delta: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The delta without dotted keys. Errors: a key given as a whole and by keys of its own."""
    tree: dict[str, Any] = {}
    for key, value in delta.items():
        first, _, rest = str(key).partition(".")
        inner = {rest: value} if rest else value
        if is_mapping(inner) and first != ONLY:
            inner = nested(inner, where)
        tree[first] = _joined(tree[first], inner, where, first) if first in tree else inner
    return tree


def _joined(first: Any, second: Any, where: str, key: str) -> Any:
    """Two values that one delta gives to a key; the later one wins."""
    if _is_partial(first) != _is_partial(second):
        raise InputError(f"{where}: {key} is given as a whole and by keys of its own")
    if not _merges(first, second):
        return second
    both = {name: _joined(first[name], second[name], where, f"{key}.{name}") for name in first if name in second}
    return {**first, **second, **both}


def _change(block: Any, delta: Mapping[str, Any], where: str, inside: str) -> None:
    keys = _keys(block)
    for key, value in delta.items():
        if key not in keys and not _is_open(block):
            raise InputError(f"{where}: no key {key!r}{f' in {inside}' if inside else ''} (allowed: {', '.join(keys)})")
        old = block[keys[key]] if key in keys else None
        if _merges(old, value):
            _change(old, value, where, f"{inside}.{key}" if inside else key)
        else:
            block[keys.get(key, key)] = _whole(value)


def _merges(old: Any, new: Any) -> bool:
    """Whether `new` goes into the block `old`, and does not replace it."""
    if _is_partial(new) and is_mapping(old):
        return "name" not in new or old.get("name", new["name"]) == new["name"]
    return _is_partial(new) and isinstance(old, list)


def _is_partial(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value of a delta speaks of some keys of a block; if not, it is all that the key gets."""
    return is_mapping(value) and bool(value) and set(value) != {ONLY}


def _whole(value: Any) -> Any:
    """A value that replaces another. Below it there is nothing to merge with, so `only` means nothing more there."""
    if not is_mapping(value):
        return copy.deepcopy(value)
    return copy.deepcopy(value[ONLY]) if set(value) == {ONLY} else {key: _whole(one) for key, one in value.items()}


def _keys(block: Any) -> dict[str, Any]:
    """The keys of a block as text: those of a mapping, the positions of a list."""
    return {str(key): key for key in (block if is_mapping(block) else range(len(block)))}


def _is_open(block: Any) -> bool:
    """Whether a block takes keys that it does not have: a family member, or a table of members."""
    if not is_mapping(block):
        return False
    return "name" in block or all(is_mapping(value) and "name" in value for value in block.values())


def title_of(recipe: Mapping[str, Any]) -> str:
    """A recipe in a few words, `digits · pgd_at`: its data set and how its robust teacher is trained."""
    found: list[str] = []
    for section, key in (("fetch_data", "dataset"), ("train_robust_teacher", "method")):
        block = recipe.get(section)
        one = block.get(key) if is_mapping(block) else None
        if is_mapping(one) and "name" in one:
            found.append(str(one["name"]))
    return " \u00b7 ".join(found)


def require_path(text: str | None, where: str) -> None:
    """Refuses what DVC cannot take for a path: it replaces keys in the text first. None is no path, and allowed."""
    if text is not None and (not text.strip() or "${" in text):
        raise InputError(f"{where}: got {short(text)}, want a file or a folder")
