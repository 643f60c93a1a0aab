"""docs/parameters.md and the JSON Schema say what the code accepts."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from temper import schema
from temper.keys import Key

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    made = json.loads(schema.json_schema())
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/parameters.md").read_text() == schema.markdown(), "run make pages"


def test_every_recipe_passes(validator: jsonschema.Draft202012Validator) -> None:
    assert {name for name, recipe in schema.recipes().items() if list(validator.iter_errors(recipe))} == set()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", -1),
        ("compute.device", "toaster"),
        ("train_clean_teacher.recipe.epochs", 0),
        ("train_clean_teacher.recipe.epoch", 3),
        ("train_robust_teacher.method.name", "pgd"),
        ("distill_student.method.name", "pgd_at"),
        ("evaluate_attacks.attacks.fgsm.steps", 3),
        ("evaluate_attacks.cascade", "slow"),
        ("fetch_data.dataset.name", "imagenet"),
    ],
)
def test_a_mistake_is_seen(validator: jsonschema.Draft202012Validator, path: str, value: Any) -> None:
    recipe = copy.deepcopy(schema.recipes()["digits"])
    *above, last = path.split(".")
    section = recipe
    for part in above:
        section = section[part]
    section[last] = value
    assert list(validator.iter_errors(recipe))


def test_ranges_are_those_of_the_checks() -> None:
    tops = schema.sections()
    recipe = tops["train_robust_teacher"].children["recipe"].children
    assert recipe["epochs"].allowed == "at least 1" and recipe["batch_size"].allowed == "at least 2"
    assert recipe["learning_rate"].allowed == "above 0" and recipe["momentum"].allowed == "above 0, below 1"
    threat = tops["threat"].children
    assert threat["epsilon"].allowed == "at least 0" and threat["norm"].schema["enum"] == ["l1", "l2", "linf"]
    assert schema.members("methods")["hat"].children["reach"].allowed == "above 1"


def test_every_key_has_a_meaning_and_every_member_its_text() -> None:
    def silent(children: dict[str, Key], above: str) -> list[str]:
        return [
            found
            for name, key in children.items()
            for found in [*([] if key.meaning else [above + name]), *silent(key.children, f"{above}{name}.")]
        ]

    assert silent(schema.sections(), "") == []
    for family in schema.FAMILIES:
        found = schema.members(family)
        assert list(found) == list(schema.FAMILIES[family])
        for name, member in found.items():
            assert member.meaning, name
            told = {key: child for key, child in member.children.items() if f"`{key}`" not in member.meaning}
            assert silent(told, f"{name}.") == []
