"""Changing one key changes one line: every key of the recipe, some of every preset, and files in other styles."""

import difflib
import random
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ruamel.yaml")

from components.foundation.errors import InputError
from components.foundation.params import flat, mapping_of
from pipelines.parameters.change import delta_of, edited, preset_text
from pipelines.parameters.presets import COMPLETE, presets

ROOT = Path(__file__).resolve().parents[2]
ODD = (
    "# head\r\na: {x:  1,y: 'q',   z: [1,2,3]}   # c\r\nb: &k\r\n    p: [1,2,\r\n        3]\r\n    q:   ~\r\n\r\n"
    'c: *k\r\nd: 1e-4 # right behind\r\ne: {name: p, s: 1}\r\nf: "long"     # far\r\n'
)


def other(value: Any) -> str:
    """Another value of the same kind, as a user types it."""
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, list):
        return "[0, 1/7, 2]"
    return {type(None): "17", float: "1e-7"}.get(type(value), "epsilon/7")


def changed_lines(before: str, after: str) -> list[str]:
    return [line for line in difflib.ndiff(before.split("\n"), after.split("\n")) if line[0] in "+-"]


@pytest.mark.parametrize(
    ("name", "some"), [*((name, 2) for name in presets(ROOT)), pytest.param(COMPLETE, 0, marks=pytest.mark.slow)]
)
def test_one_key_is_one_line(name: str, some: int) -> None:
    text = preset_text(ROOT, name)
    leaves, rng = flat(mapping_of(text, name)), random.Random(name)
    # The name of a member stands for its whole block.
    keys = [key for key in leaves if not key.endswith(".name")]
    for key in rng.sample(keys, some) if some else keys:
        value = other(leaves[key])
        after = edited(text, delta_of([f"{key}={value}"]), "--set")
        assert [line[0] for line in changed_lines(text, after)] == ["-", "+"], key
        assert flat(mapping_of(after, name)) == leaves | {key: mapping_of(f"v: {value}", "v")["v"]}


@pytest.mark.parametrize(
    ("assignment", "old", "new"),
    [
        ("a.x=5e-4", "x:  1,", "x:  5e-4,"),
        ("a.y=yes", "'q'", "yes"),
        ("a.y={u: 1}", "'q'", "{u: 1}"),
        ("a.y=[{u: 1}]", "'q'", "[u: 1]"),
        ("a.z.1=9", "[1,2,3]}", "[1,9,3]}"),
        ("a.z=[]", "[1,2,3]}", "[]}"),
        ("d=null", "1e-4 #", "null  #"),
        ("e={name: q, t: 2}", "{name: p, s: 1}", "{name: q, t: 2}"),
        ("e.s=2", "s: 1}", "s: 2}"),
        ("f=x", '"long"     #', "x          #"),
        ('f="two\\nlines"', '"long"     #', '"two\\nlines"  #'),
    ],
)
def test_other_styles_stay_as_they_are(assignment: str, old: str, new: str) -> None:
    after = edited(ODD, delta_of([assignment]), "--set")
    assert re.sub(" +#", " #", after) == re.sub(" +#", " #", ODD.replace(old, new))


@pytest.mark.parametrize("assignment", ["b.q=3", "c.q=3", "c.p.0=7"])
def test_what_an_alias_shares_is_not_changed_behind_ones_back(assignment: str) -> None:
    with pytest.raises(InputError, match=r"^--set: params\.yaml shares a block by an alias"):
        edited(ODD, delta_of([assignment]), "--set")
