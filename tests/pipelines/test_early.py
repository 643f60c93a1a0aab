"""What the schema alone refuses: what the full check refuses too, in its words, before torch is imported."""

import copy
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from components.commands.check_params import check
from components.foundation.errors import InputError
from components.foundation.params import Params, flat
from pipelines.parameters import early
from pipelines.parameters.presets import preset_values, presets
from temper import schema
from tests.parts.pipeline_files import ROOT, changed, make_project, small_params
from tests.stages.test_generated_params import mistakes

RECIPE = small_params()
STALE = "run make pages"
# Some keys take them, others do not.
MAYBE: list[Any] = [
    *(0, 1, 2, 3, -1, 0.5, 1.0, 1.5, 5e-4, 64, 1023, 1024, 1025, 2**20, 2**32, True, False, None),
    *("0", "1", " 1 / 3 ", "8/255", "-8/255", "1e-3", "3/2", "epsilon", "epsilon/4", "2*epsilon", "5/4*epsilon", ""),
    *("auto", "exact", "none", "linf", "l2", "digits", "uniform", "zero", "kl", "bfloat16", "student", "pgd_sat"),
    *([], [0], [0, 1], ["epsilon"], ["1/4", "epsilon/2"], [None], {}, {"name": "pgd"}, {"name": "ema", "decay": 0.5}),
]
MEMBERS = {
    "train_clean_teacher.model": "models",
    "train_clean_teacher.schedule": "schedules",
    "train_robust_teacher.method": "methods",
    "distill_student.method": "distillations",
    "evaluate_attacks.attacks.fgsm": "attacks",
    "fetch_data.dataset": "datasets",
}


def said(refuse: Any, values: dict[str, Any]) -> str | None:
    """What a check refuses a recipe with, None where it does not."""
    try:
        refuse(Params(copy.deepcopy(values)))
    except InputError as error:
        return str(error)
    return None


def compared(recipes: list[dict[str, Any]]) -> Counter[str]:
    """How often both checks take a recipe, both refuse it, and the full one alone; the early one never alone."""
    ends: Counter[str] = Counter()
    for values in recipes:
        first, full = said(early.refuse, values), said(check, values)
        assert first is None or full is not None, first
        if first is not None and full is not None:
            assert "\n" not in first and first.startswith("params.yaml: ")
            ends["same words"] += first == full
        ends[f"{'refused' if first else 'taken'}, {'refused' if full else 'taken'}"] += 1
    return ends


def test_the_schema_is_current() -> None:
    assert early.SCHEMA.read_text(encoding="utf-8") == schema.json_schema(), STALE


@pytest.mark.parametrize("name", presets(ROOT))
def test_every_preset_passes(name: str) -> None:
    early.refuse(Params(preset_values(ROOT, name)))


def test_generated_changes_of_presets() -> None:
    rng, wholes, recipes = random.Random(0), [preset_values(ROOT, name) for name in presets(ROOT)], []
    for _ in range(900):
        values = rng.choice(wholes)
        recipes.append(changed(values, {rng.choice(list(flat(values))): rng.choice(MAYBE)}))
    ends = compared(recipes)
    assert ends["taken, taken"] > 100 and ends["refused, refused"] > 600, ends
    # The rest are checks of several keys together.
    assert ends["refused, refused"] > 0.95 * (ends["refused, refused"] + ends["taken, refused"]), ends
    assert ends["same words"] > 0.95 * ends["refused, refused"], ends


@pytest.mark.parametrize("normalization", [None, "identity", {"mean": [0.5], "std": [0.25]}], ids=str)
def test_what_the_pages_tell_to_write_passes(normalization: Any) -> None:
    """Inside a union, too, of a word and a mapping."""
    initial = {"file": "my.safetensors", "replace_head": True, "normalization": normalization}
    architecture = {"name": "small_cnn", "width": 1, "batch_norm": {"estimator": "running", "momentum": 0.1}}
    big = {"name": "file", "file": "big.safetensors", "architecture": architecture, "normalization": normalization}
    values = changed(RECIPE, {"train_robust_teacher.initial": initial, "fetch_teachers": {"big": big}})
    early.refuse(Params(values))
    wrong = {"mean": [0.5], "std": [0]}
    values = changed(RECIPE, {"train_robust_teacher.initial": initial | {"normalization": wrong}})
    assert said(check, values) == (
        "params.yaml: train_robust_teacher.initial.normalization.std.0: got 0, want more than 0"
    )


def test_what_no_key_takes_is_refused_early() -> None:
    recipes = [changed(RECIPE, {key: value}) for key, value in mistakes(400)]
    ends = compared(recipes)
    assert ends["same words"] == len(recipes), ends


def test_generated_members() -> None:
    """Every member with keys that its schema names, of values that its schema may allow."""
    rng, definitions, recipes = random.Random(1), json.loads(schema.json_schema())["$defs"], list[dict[str, Any]]()
    for key, family in MEMBERS.items():
        for one in definitions[family]["oneOf"]:
            for _ in range(8):
                keys = one["properties"].items()
                block = {name: inner.get("const", value_for(inner, rng)) for name, inner in keys}
                recipes.append(changed(RECIPE, {key: block}))
    ends = compared(recipes)
    assert ends["taken, taken"] > 50 and ends["refused, refused"] > 50, ends


def value_for(one: dict[str, Any], rng: random.Random) -> Any:
    """A value that a part of the schema allows, more often than not."""
    if rng.random() < 0.05:
        return rng.choice(MAYBE)
    if "anyOf" in one:
        return value_for(rng.choice(one["anyOf"]), rng)
    if "enum" in one:
        return rng.choice(one["enum"])
    if "properties" in one:
        return {name: value_for(inner, rng) for name, inner in one["properties"].items()}
    if one.get("$ref", "").endswith("/attacks"):
        return {"name": "fgsm"}
    if one.get("type") == "array":
        return [value_for(one["items"], rng)] * 2
    if one.get("type") in ("boolean", "string", "null", "object"):
        return {"boolean": True, "string": "data", "null": None, "object": {}}[one["type"]]
    low = one.get("minimum", one.get("exclusiveMinimum", 0))
    return rng.choice([low, low + 1, low + 2] if one.get("type") == "integer" else [low, low + 0.5, "1/3"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threat.norm", "l3"),
        ("threat.epsilom", 1),
        ("seed", ...),
        ("ntk", ...),
        ("distill_student.required", ...),
        ("train_robust_teacher.warm_start", 1),
        ("compute.threads", 0),
        ("evaluate_attacks.cascade", "fast"),
        ("evaluate_attacks.cascade", {"own": {"name": "apgdt"}}),
        ("evaluate_attacks.grid.attacks.bim.step", 1),
        ("evaluate_attacks.attacks.fgsm", {"name": "eot", "samples": 3, "attack": {"name": "fgms"}}),
        ("distill_student.recipe.average.decay", 1),
        ("fetch_data.dataset.name", "mnist"),
    ],
)
def test_what_the_schema_says_is_refused_early(key: str, value: Any) -> None:
    found = said(early.refuse, changed(RECIPE, {key: value}))
    assert found is not None and key.split(".")[-1] in found


@pytest.mark.parametrize(
    "arguments",
    [
        ["harden", "--set", "seed=1.5"],
        ["harden", "--set", "train_robust_teacher.method.attack.steps=0", "distill_student"],
        ["params", "change", "--set", "compute.device=gpu"],
        ["params", "check", "wrong.yaml"],
    ],
)
def test_a_wrong_value_is_refused_before_anything_large_is_imported(tmp_path: Path, arguments: list[str]) -> None:
    make_project(tmp_path)
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    (tmp_path / "wrong.yaml").write_text((tmp_path / "params.yaml").read_text().replace("norm: linf", "norm: l3"))
    before = (tmp_path / "params.yaml").read_bytes()
    for name in ("torch", "prefect", "mlflow", "numpy", "dvc"):
        (tmp_path / "poison" / name).mkdir(parents=True)
        (tmp_path / "poison" / name / "__init__.py").write_text("raise SystemExit('imported')\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'poison'}:{ROOT}"}
    command = [sys.executable, "-m", "temper", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "want" in done.stderr or "should be" in done.stderr, done.stderr
    assert (tmp_path / "params.yaml").read_bytes() == before
