"""The recipes in presets/: one is complete, the others say what differs, and nothing twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ruamel.yaml")

from components.commands.check_params import check
from components.foundation.errors import InputError
from components.foundation.params import Params, flat, mapping_of, read_yaml
from components.foundation.recipes import changed, nested
from pipelines.parameters.change import preset_text
from pipelines.parameters.presets import COMPLETE, layers, preset_values, presets

ROOT = Path(__file__).parents[2]
DELTAS = [name for name in presets(ROOT) if name != COMPLETE]


@pytest.mark.parametrize("name", presets(ROOT))
def test_every_preset_is_valid_and_complete(name):
    values = preset_values(ROOT, name)
    check(Params(values, f"presets/{name}.yaml"))
    assert list(values) == list(preset_values(ROOT, COMPLETE))


@pytest.mark.parametrize("name", presets(ROOT))
def test_the_file_of_a_preset_holds_its_values(name):
    text = preset_text(ROOT, name)
    assert mapping_of(text, name) == preset_values(ROOT, name)
    assert text.split("\n\n")[0] == (presets(ROOT)[name]).read_text().split("\n\n")[0]
    # Sections are apart, and what a key means is said there, too.
    assert text.count("\n\n") == (ROOT / "presets/digits.yaml").read_text().count("\n\n")
    for said in ("# of the pixel range [0, 1]", "# auto, cpu, cuda", "# ConvergeSmooth around the method", "# watches"):
        assert said in text


def test_the_complete_preset_is_what_params_yaml_is_in_the_commit():
    text = (ROOT / "presets/digits.yaml").read_text()
    assert preset_text(ROOT, COMPLETE) == text == (ROOT / "params.yaml").read_text()


def without_one_leaf(block: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping that has one leaf less, with the leaf's key."""
    for key, value in block.items():
        if isinstance(value, dict) and value:
            for path, smaller in without_one_leaf(value):
                yield f"{key}.{path}", {**block, key: smaller}
        else:
            yield key, {other: kept for other, kept in block.items() if other != key}


@pytest.mark.parametrize("name", DELTAS)
def test_a_preset_repeats_nothing_of_its_base(name):
    *below, (_, delta) = layers(ROOT, name)
    base = below[0].values
    for layer in below[1:]:
        base = changed(base, layer.values, "base")
    whole = changed(base, delta, "preset")
    for key, smaller in without_one_leaf(nested(delta, "preset")):
        assert changed(base, smaller, "preset") != whole, f"presets/{name}.yaml says {key} as its base does"


def test_presets_are_small():
    lines = {name: len(path.read_text().splitlines()) for name, path in presets(ROOT).items()}
    assert sum(lines[name] for name in DELTAS) <= 600


def make(root: Path, **texts: str) -> None:
    (root / "presets").mkdir()
    for name, text in texts.items():
        (root / "presets" / f"{name}.yaml").write_text(text)


def test_the_example_of_the_docs_is_a_valid_preset(tmp_path):
    example = (ROOT / "docs/recipes.md").read_text().split("```yaml\n")[1].split("```")[0]
    texts = {path.stem: path.read_text() for path in presets(ROOT).values()}
    make(tmp_path, **texts, example=example)
    values, base = preset_values(tmp_path, "example"), preset_values(ROOT, "cifar10_fast")
    check(Params(values))
    assert values["threat"] == {"norm": "linf", "epsilon": "16/255"}
    assert list(values["evaluate_attacks"]["attacks"]) == [*base["evaluate_attacks"]["attacks"], "bim"]
    assert values["evaluate_attacks"]["grid"]["attacks"] == {"fgsm": {"name": "fgsm"}}
    recipe = base["train_robust_teacher"]["recipe"] | {"epochs": 15, "average": None}
    assert values["train_robust_teacher"]["recipe"] == recipe


DIGITS = "# head\n\nseed: 0\nthreat:\n  norm: linf\n  epsilon: 1/255  # small\n\nreport: {a: 1}\n"


def test_a_base_keeps_what_the_preset_on_top_does_not_mention(tmp_path):
    make(
        tmp_path,
        digits=DIGITS,
        part="# why\n\nbase: digits  # on top of\n\nthreat.epsilon: 2/255\n",
        both="base: part\nthreat: {norm: l2}\nseed: 7\n",
    )
    assert preset_text(tmp_path, "part") == DIGITS.replace("head", "why").replace("1/255", "2/255")
    assert preset_values(tmp_path, "both") == {
        "seed": 7,
        "threat": {"norm": "l2", "epsilon": "2/255"},
        "report": {"a": 1},
    }
    assert preset_text(tmp_path, "both").startswith("seed: 7\nthreat:\n  norm: l2\n  epsilon: 2/255  # small\n\nreport")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: digits\nthreats: {}\n", "presets/one.yaml: no key 'threats' (allowed: seed, threat, report)"),
        ("threat.epsilom: 1\n", "presets/one.yaml: no key 'epsilom' in threat (allowed: norm, epsilon)"),
        ("base: one\n", "presets/one.yaml: base: 'one' is a base of itself"),
        ("base: nobody\n", "presets/one.yaml: base: unknown 'nobody' (allowed: digits, one)"),
    ],
)
def test_mistakes_in_a_preset_are_one_line(text, message, tmp_path):
    make(tmp_path, digits=DIGITS, one=text)
    for read in (preset_values, preset_text):
        with pytest.raises(InputError) as error:
            read(tmp_path, "one")
        assert str(error.value) == message
    with pytest.raises(InputError, match=r"^--preset: unknown 'two' \(allowed: digits, one\)$"):
        preset_text(tmp_path, "two")


# As published: TRADES, and its robust teacher in B-MTARD.
ABSOLUTE = {"0.003", "0.007"}


def lengths(values: dict[str, Any]) -> Iterator[str]:
    """What stands at every length of a recipe but epsilon itself."""
    for key, value in flat(values).items():
        if key.endswith(("step_size", "epsilon_sigma", "epsilons")):
            yield from map(str, value if isinstance(value, list) else [value])


@pytest.mark.parametrize("name", presets(ROOT))
def test_epsilon_stands_once(name: str) -> None:
    values = preset_values(ROOT, name)
    assert {one for one in lengths(values) if "epsilon" not in one} <= ABSOLUTE | {"0"}
    for epsilon in ("4/255", "13/510"):
        check(Params(changed(values, {"threat.epsilon": epsilon}, name)))


def test_a_stage_that_reads_a_multiple_of_epsilon_depends_on_it() -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    for name in presets(ROOT):
        for stage, section in preset_values(ROOT, name).items():
            if stage in stages and any("epsilon" in one for one in lengths(section)):
                assert "threat" in stages[stage]["params"]
