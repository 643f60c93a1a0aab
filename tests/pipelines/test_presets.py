"""Every recipe in presets/ is a complete, valid parameter file; small ones replace sections of another."""

from pathlib import Path

import pytest
import yaml

from components.commands.check_params import check
from components.foundation.errors import InputError
from components.foundation.params import Params
from pipelines.parameters.presets import preset_text, presets

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", presets(ROOT))
def test_every_preset_is_valid(name):
    check(Params(yaml.safe_load(preset_text(ROOT, name)), f"presets/{name}.yaml"))


def test_a_complete_preset_is_taken_as_it_is():
    assert preset_text(ROOT, "digits") == (ROOT / "presets/digits.yaml").read_text()


def test_a_small_preset_replaces_sections_and_keeps_the_rest(tmp_path):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/whole.yaml").write_text(
        "# head\n\nseed: 0\nthreat:\n  epsilon: 1/255  # small\n\nreport: {a: 1}\n"
    )
    (tmp_path / "presets/part.yaml").write_text("# why\n\nbase: whole  # on top of\n\nthreat:\n  epsilon: 2/255\n\n")
    (tmp_path / "presets/both.yaml").write_text("base: part\nseed: 7\n")
    assert preset_text(tmp_path, "part") == "# why\n\nseed: 0\nthreat:\n  epsilon: 2/255\n\nreport: {a: 1}\n"
    assert yaml.safe_load(preset_text(tmp_path, "both")) == {
        "seed": 7,
        "threat": {"epsilon": "2/255"},
        "report": {"a": 1},
    }


@pytest.mark.parametrize(
    "text, told",
    [
        ("base: whole\nthreats: {}\n", "no section 'threats' (allowed: seed, threat)"),
        ("base: one\n", "want the name of another preset"),
        ("base: nobody\n", "unknown 'nobody' (allowed: one, whole)"),
    ],
)
def test_mistakes_in_a_small_preset(text, told, tmp_path):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/whole.yaml").write_text("seed: 0\nthreat: {}\n")
    (tmp_path / "presets/one.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        preset_text(tmp_path, "one")
    assert told in str(error.value)
