"""YAML is read as DVC reads it, or refused in one line: the two readers are compared on generated documents."""

import math
import random
import warnings
from typing import Any

import pytest

pytest.importorskip("ruamel.yaml")

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.foundation.errors import InputError
from components.foundation.params import mapping_of

WRITTEN = r"""
yes no on off y n true True tRue null ~ NULL 1 0 -1 +1 010 0o17 017 0b101 0x1F 0xg 1_000 1_ _1 1e5
1e-4 1.5e3 1.e3 .5 .5e3 .5e+3 -.5 +.5 . .. 1. 1.2.3 1:30 190:20:30.15 .inf -.inf +.inf .nan
2001-01-01 2001-12-14t21:59:43.10-05:00 = << a b-c 8/255 epsilon/4 5/4*epsilon 0b_ 0x_ +_ 1__2 0o
08 1e 1e+ +1e5 0.0 -0 -0.0 00 a:b a#b http://x/y x: 1e400 -0x1f 0X1F 0O17 Infinity nan inf 1_0.5_0
1e1_0 'a' 'it''s' "a\n" "\u263a" '1' [1,2] {a:1} {b:} [a:,b] [c:] {} [] {'a':1} {"a":1} !!str !x &x
*x | > ? - , # %
"""
PLAIN = WRITTEN.split()
KEYS = [*"abcdefghijkl", "on", "yes", "'q'", "<<", "x y", "1", "null", "*x"]
INSERTED = list(" \n\t:-'\"#\r\x85é%[]{},!?|\u2028\ufeff\0")


def document(rng: random.Random, depth: int = 2, indent: int = 0) -> str:
    """A mapping in YAML, with blocks, lists, odd scalars, now and then nonsense."""
    lines = []
    for key in rng.sample(KEYS[:12], rng.randint(1, 4)) + rng.choices(KEYS, k=rng.random() < 0.2):
        value, pad, kind = rng.choice(PLAIN), " " * indent, rng.random()
        if depth and kind < 0.3:
            lines += [f"{pad}{key}:{rng.choice(['', '', ' &x'])}", document(rng, depth - 1, indent + 2)]
        elif kind < 0.4:
            lines += [f"{pad}{key}:", f"{pad}- {value}", f"{pad}- {rng.choice(PLAIN)}"]
        elif kind < 0.5:
            lines += [f"{pad}{key}: {{x: {value}, y: [{rng.choice(PLAIN)}, 1], {rng.choice(PLAIN)}: 2}}"]
        else:
            lines += [f"{pad}{key}: {value}{rng.choice(['', '', ' # c', ' d'])}"]
    return "\n".join(lines)


def same(one: Any, other: Any) -> bool:
    """Equal in value and in type; every NaN is like another."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return (one == other and math.copysign(1, one) == math.copysign(1, other)) or (one != one and other != other)
    return one == other


def as_dvc(text: str) -> Any:
    """What DVC's reader makes of it (`dvc.utils.serialize`), without the classes of ruamel's lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plain(YAML(typ="safe").load(text))


@pytest.mark.parametrize("seed", range(8))
def test_both_readers_see_the_same_or_ours_refuses(seed: int) -> None:
    rng, read = random.Random(seed), 0
    for _ in range(150):
        text = document(rng) + "\n"
        for _ in range(rng.choice([0, 0, 0, 1])):
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(INSERTED) + text[place:]
        try:
            ours = mapping_of(text, "file")
        except InputError as error:
            assert str(error).startswith("file") and "\n" not in str(error)
            continue
        read += 1
        assert same(ours, as_dvc(text)), text
    assert read > 20


@pytest.mark.parametrize("value", PLAIN)
def test_every_odd_scalar_is_the_same_to_both(value: str) -> None:
    text = f"a: {value}\n"
    try:
        ours = mapping_of(text, "file")
    except InputError:
        return
    try:
        assert same(ours, as_dvc(text))
    except YAMLError:
        pytest.fail(f"DVC refuses {value}")


def test_a_key_that_is_there_twice_is_named_with_its_line() -> None:
    for text, key, line in (
        ("seed: 0\nseed: 5\n", "seed", 2),
        ("a:\n  recipe:\n    epochs: 1\n    batch: 2\n    epochs: 3\n", "epochs", 5),
        ("a: {b: 1, c: 2, b: 1}\n", "b", 1),
        ("a: &x {b: 1}\nc: {<<: *x, <<: *x}\n", "<<", 2),
    ):
        with pytest.raises(InputError, match=rf"^f: not readable as YAML: found the key '{key}' twice \(line {line}, "):
            mapping_of(text, "f")


def bomb(merge: bool) -> str:
    lines, last = ["a0: &a0 {x: 1}"], "a0"
    for place in range(1, 12):
        many = ", ".join([f"*{last}"] * 10)
        lines.append(f"a{place}: &a{place} {{<<: [{many}]}}" if merge else f"a{place}: &a{place} [{many}]")
        last = f"a{place}"
    return "\n".join(lines)


BOMBS = {
    "aliases": bomb(merge=False),
    "merges": bomb(merge=True),
    "itself": "a: &a [*a]",
    "itself merged": "a: &a {<<: *a}",
    "deep list": "a: " + "[" * 50_000,
    "deep map": "a: " + "{b: " * 3_000,
    "deep block": "\n".join(" " * depth + "a:" for depth in range(500)),
    "large": "a: 1\n" * 50_000,
    "digits": "a: " + "9" * 190_000,
    "hex": "a: 0x" + "f" * 190_000,
    "exponent": "a: 1e" + "9" * 90,
    "list": "a: [" + "1," * 60_000 + "1]",
    "colons": "a: " + ": " * 90_000,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_what_would_take_long_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^f: not readable as YAML: ") as error:
        mapping_of(text, "f")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_values_of_an_alias_are_its_own() -> None:
    values = mapping_of("a: &a {b: [1]}\nc: *a\n", "f")
    values["a"]["b"].append(2)
    assert values["c"] == {"b": [1]}
