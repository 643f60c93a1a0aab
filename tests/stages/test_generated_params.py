"""Generated mistakes in params.yaml, of every key: one line that names it, at once; nothing that a stage dies of."""

import random
import time
from typing import Any

import pytest

from components.commands.check_params import check
from components.foundation.errors import InputError
from components.foundation.params import LARGEST, Params, flat
from tests.parts.pipeline_files import changed, small_params

RECIPE = small_params()
LEAVES = flat(RECIPE)
NUMBERS = [key for key, value in LEAVES.items() if isinstance(value, int | float) and not isinstance(value, bool)]
LENGTHS = [key for key in LEAVES if key.endswith(("step_size", "epsilons"))]
# No key takes any of them, whatever its type.
NEVER: list[Any] = [
    10**30,
    -(10**30),
    1e30,
    1e300,
    float("nan"),
    float("inf"),
    LARGEST + 1,
    "1e-99999999",
    "1e99999999",
    "9**9**9",
    "9" * 5000,
    10**5000,
    "1/0",
    "epsilon/0",
    "epsilon**2",
    "2*epsilon*3",
    "epsilon+1",
    "-epsilon",
    "delta/4",
    {"a": {"b": 1}},
    [[1]],
    [{}],
    "",
    "\x1b[31m",
    "x\ny",
    "e" * 100_000,
]


def mistakes(count: int) -> list[tuple[str, Any]]:
    """Keys with a value that none of them takes. Free texts are names of files or attacks, and so left out."""
    rng = random.Random(0)
    keys = [key for key, value in LEAVES.items() if not isinstance(value, str | type(None)) or key in LENGTHS]
    return [(rng.choice(keys), rng.choice(NEVER)) for _ in range(count)]


def refusal(key: str, value: Any) -> str:
    """The line of a recipe in which one key has another value; it must come at once."""
    began = time.process_time()
    with pytest.raises(InputError) as error:
        check(Params(changed(RECIPE, {key: value})))
    assert time.process_time() - began < 2
    return str(error.value)


@pytest.mark.parametrize("part", range(8))
def test_generated_values_are_refused_in_one_line(part: int) -> None:
    for key, value in mistakes(400)[part::8]:
        said = refusal(key, value)
        section = key.split(".")[0]
        assert said.startswith(f"params.yaml: {section}") and "\n" not in said and len(said) < 900, (key, value)


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_without_a_bound(key: str) -> None:
    for value in (10**30, 1e30, LARGEST + 1, -(10**12)):
        said = refusal(key, value)
        assert "want at" in said or "want more" in said or "want less" in said or "valid integer" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluate_attacks.cascade_epsilons", [5]),
        ("evaluate_attacks.curve_epsilons", [0, 3]),
        ("evaluate_attacks.curve_epsilons", ["6*epsilon"]),
        ("evaluate_attacks.grid.epsilons", [2]),
        ("train_clean_teacher.method.label_smoothing", 2),
        ("train_robust_teacher.method.label_smoothing", -0.1),
        ("compute.threads", 10**6),
        ("parallel.processes", 1000),
        ("train_clean_teacher.recipe.batch_size", 2**21),
        ("evaluate_attacks.batch_size", 2**21),
        ("train_clean_teacher.model.width", 1000),
        ("train_clean_teacher.recipe.epochs", 10**7),
        ("train_clean_teacher.recipe.augmentation.crop", 10**6),
        ("ntk.size", 10**7),
        ("fetch_data.files", ""),
        ("fetch_data.files", " "),
        ("fetch_data.files", "${seed}"),
        ("normalize_data.validation", "epsilon/4"),
    ],
)
def test_what_a_later_stage_died_of(key: str, value: Any) -> None:
    assert refusal(key, value).startswith(f"params.yaml: {key}")


def test_structures_are_refused() -> None:
    rng, deep = random.Random(1), {"a": 1}
    for _ in range(100):
        deep = {"a": deep}
    for section in RECIPE:
        for value in (None, [], {}, 3.5, "x", [deep], deep, rng.random()):
            # No seed but 3.5, no criterion at all, may be what a section holds.
            said = refusal(section, {"only": value} if isinstance(value, dict) else value)
            assert said.startswith(f"params.yaml: {section}") or "missing key" in said
            assert "\n" not in said
