"""Numbers are what params.yaml says, to the last digit; a mistake is one line that names file and key."""

import re
from fractions import Fraction
from typing import Literal

import pytest
import yaml
from pydantic.dataclasses import dataclass

from components.foundation.errors import InputError
from components.foundation.params import MAX_SEED, STRICT, Fractional, Params, Ratio, Real, member, typed


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Inner:
    rate: Real
    kind: Literal["a", "b"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Outer:
    epsilon: Fractional
    count: int
    flag: bool
    sizes: tuple[int, ...]
    limit: int | None
    inner: Inner

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("want a count of at least 1")


GOOD = {"epsilon": "8/255", "count": 3, "flag": True, "sizes": [1, 2], "limit": None, "inner": {"rate": 1, "kind": "a"}}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("8/255", Fraction(8, 255)),
        ("'8 / 255'", Fraction(8, 255)),
        ("0.2", Fraction(1, 5)),
        ("0.1", Fraction(1, 10)),
        ("1e-4", Fraction(1, 10_000)),
        ("2", Fraction(2)),
        ("0", Fraction(0)),
        ("51/255", Fraction(1, 5)),
    ],
)
def test_fractions_are_exact(text, want):
    assert typed(Outer, GOOD | {"epsilon": yaml.safe_load(text)}, "file: here").epsilon == want


@pytest.mark.parametrize("text", ["8/x", "0/0", "1/0", "nan", ".nan", ".inf", "1e400", "true", "null", "[1]", "''"])
def test_what_is_no_fraction_is_refused(text):
    with pytest.raises(InputError, match="want a fraction such as 8/255 or a number"):
        typed(Outer, GOOD | {"epsilon": yaml.safe_load(text)}, "file: here")


@pytest.mark.parametrize(("text", "want"), [("1e-4", 1e-4), ("5e-4", 5e-4), ("1/3", 1 / 3), ("0.1", 0.1), ("3", 3.0)])
def test_floats_read_what_yaml_takes_for_text(text, want):
    found = typed(Inner, {"rate": yaml.safe_load(text), "kind": "a"}, "file: here").rate
    assert found == want and type(found) is float


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "1e400", "fast", "true", "null"])
def test_floats_are_finite_numbers(text):
    with pytest.raises(InputError, match=r"^file: here\.rate: "):
        typed(Inner, {"rate": yaml.safe_load(text), "kind": "a"}, "file: here")


def test_a_fraction_prints_as_it_is_written():
    assert repr(Ratio(8, 255)) == str(Ratio(8, 255)) == "8/255"
    assert repr(Ratio(0)) == "0"


def test_a_section_becomes_its_dataclass():
    found = typed(Outer, GOOD, "file: here")
    assert found.epsilon == Ratio(8, 255) and found.sizes == (1, 2) and found.inner.rate == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "3"}, "file: here.count: input should be a valid integer, got '3'"),
        ({"count": True}, "file: here.count: input should be a valid integer, got True"),
        ({"count": 1.5}, "file: here.count: input should be a valid integer, got 1.5"),
        ({"flag": 1}, "file: here.flag: input should be a valid boolean, got 1"),
        ({"sizes": 3}, "file: here.sizes: input should be a valid array, got 3"),
        ({"sizes": [1, "x"]}, "file: here.sizes.1: input should be a valid integer, got 'x'"),
        ({"inner": [1]}, "file: here.inner: input should be an object, got [1]"),
        ({"inner": {"rate": 1, "kind": "c"}}, "file: here.inner.kind: input should be 'a' or 'b', got 'c'"),
        ({"inner": {"rate": 1}}, "file: here.inner.kind: missing"),
        ({"inner": {"rate": 1, "knd": "a"}}, "file: here.inner.knd: unknown key (allowed: kind, rate) (and 1 more)"),
        (
            {"cuont": 3},
            "file: here.cuont: unknown key (allowed: count, epsilon, flag, inner, limit, sizes)",
        ),
        ({"epsilon": "8/x"}, "file: here.epsilon: got '8/x', want a fraction such as 8/255 or a number"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(change, message):
    with pytest.raises(InputError) as caught:
        typed(Outer, GOOD | change, "file: here")
    assert str(caught.value) == message


def test_a_misspelt_key_is_named_before_the_one_that_it_leaves_missing():
    values = {("cuont" if key == "count" else key): value for key, value in GOOD.items()}
    with pytest.raises(InputError, match=r"^file: here\.cuont: unknown key .*\(and 1 more\)$"):
        typed(Outer, values, "file: here")


def test_members_are_built_by_name():
    table = {"inner": Inner}
    assert member(table, {"name": "inner", "rate": "1e-3", "kind": "b"}, "file: here") == Inner(rate=1e-3, kind="b")
    for spec, message in (
        ({"name": "iner"}, "file: here.name: unknown 'iner' (allowed: inner)"),
        ({"rate": 1}, "file: here: want a mapping with a name (one of: inner), got {'rate': 1}"),
        ("inner", "file: here: want a mapping with a name (one of: inner), got 'inner'"),
        ({"name": "inner", "rate": 1}, "file: here.kind: missing"),
        ({"name": ["inner"]}, "file: here.name: unknown ['inner'] (allowed: inner)"),
    ):
        with pytest.raises(InputError) as caught:
            member(table, spec, "file: here")
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "want a mapping of sections, got NoneType"),
        (b"- 1\n", "want a mapping of sections, got list"),
        (b"a: [1\nb: 2\n", "not readable as YAML: .*line 2, column 2"),
        (b"a: 1\n\tb: 2\n", "not readable as YAML: "),
        (b"a: \xff\xfe\n", "not readable as YAML: "),
        (b"section: {50: 1}\n", r"section: key 50 is read as int, put it in quotes$"),
        (b"a: {b: {true: 1}}\n", r"a\.b: key True is read as bool, put it in quotes$"),
        (b"1: 2\n", "key 1 is read as int"),
    ],
)
def test_files_that_are_no_parameters_are_refused(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {message}") as caught:
        Params.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such file \(run from the project's root\)$"):
        Params.read(tmp_path / "params.yaml")
    with pytest.raises(InputError, match=r"Is a directory$"):
        Params.read(tmp_path)


def test_sections_are_found_by_their_keys():
    params = Params({"seed": 3, "section": {"inner": {"rate": 1, "kind": "a"}}}, "file.yaml")
    assert params.typed(Inner, "section", "inner") == Inner(rate=1.0, kind="a")
    assert params.get("section", "inner", "rate") == 1 and params.seed == 3
    for keys in (("other",), ("section", "other"), ("seed", "x")):
        with pytest.raises(InputError) as caught:
            params.get(*keys)
        assert str(caught.value) == f"file.yaml: missing key {'.'.join(keys)!r}"
    with pytest.raises(InputError, match=r"^file\.yaml: unknown key 'section' \(allowed: seed\)$"):
        params.require_known({"seed"})


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, True, "3", 1.0, None])
def test_seeds_are_integers_of_32_bits(seed):
    assert Params({"seed": MAX_SEED}).seed == MAX_SEED
    with pytest.raises(InputError, match=r"^params\.yaml: seed: "):
        _ = Params({"seed": seed}).seed
