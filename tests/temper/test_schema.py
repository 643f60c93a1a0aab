"""docs/parameters.md and the JSON Schema say what the code accepts."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest

from components.evaluation.suite import EvaluationSection
from components.foundation.params import strict
from components.ntk.probe import ProbeSchedule
from components.numerics.compute import Compute
from components.numerics.parallel import Parallel
from components.stages.normalize_data import NormalizeSection
from components.stages.report import ReportSection
from components.stages.training_stage import TrainingSection
from components.threats.parts.threat import ThreatSection
from temper import keys, schema
from temper.keys import Key

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/parameters.md").read_text()
SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
SECTIONS = {
    "compute": Compute,
    "parallel": Parallel,
    "threat": ThreatSection,
    "ntk": ProbeSchedule,
    "normalize_data": NormalizeSection,
    "train_clean_teacher": TrainingSection,
    "evaluate_attacks": EvaluationSection,
    "report": ReportSection,
}
# In optional sections, in unions, in lists and in inner types.
BOUNDED = {
    "train_clean_teacher.sentinel.images",
    "train_clean_teacher.sentinel.step_size",
    "train_clean_teacher.sentinel.rules.collapse",
    "train_clean_teacher.sentinel.rules.stride",
    "train_clean_teacher.recipe.average.start",
    "train_clean_teacher.recipe.augmentation.rand_augment.magnitude",
    "train_clean_teacher.recipe.gradient_clip",
    "evaluate_attacks.grid.epsilons",
    "methods.trades.step_size",
    "schedules.cyclic.peak",
}


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
    assert recipe["epochs"].allowed == "at least 1, at most 100000"
    assert recipe["batch_size"].allowed == "at least 2, at most 1048576"
    assert recipe["learning_rate"].allowed == "above 0"
    momentum = schema.members("optimizers")["sgd"].children["momentum"]
    assert recipe["optimizer"].family == "optimizers" and momentum.allowed == "at least 0, below 1"
    threat = tops["threat"].children
    assert threat["epsilon"].allowed == "at least 0" and threat["norm"].schema["enum"] == ["l1", "l2", "linf"]
    assert schema.members("methods")["hat"].children["reach"].allowed == "above 1"


def test_every_bound_in_a_type_is_in_its_range() -> None:
    tops = schema.sections()
    found = [pair for name, kind in SECTIONS.items() for pair in bounded(kind, tops[name].children, f"{name}.")]
    for family, table in schema.FAMILIES.items():
        for name, member in schema.members(family).items():
            found += bounded(table[name], member.children, f"{family}.{name}.")
    assert {path for path, told, key in found if told not in key.allowed or key.allowed not in PAGE} == set()
    assert {path for path, _, _ in found} >= BOUNDED


def bounded(kind: Any, children: dict[str, Key], above: str) -> Iterator[tuple[str, str, Key]]:
    """Each bound of each field, with dotted path, the bound in words, and the key."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for part in parts(hint):
            # Not a mark of Annotated that is an instance of one.
            if isinstance(part, type) and is_dataclass(part) and children[name].children:
                yield from bounded(part, children[name].children, f"{above}{name}.")
            for mark in getattr(part, "__metadata__", ()):
                for bound in getattr(mark, "metadata", ()):
                    for sign, words in SIGNS.items():
                        if hasattr(bound, sign):
                            yield above + name, f"{words} {getattr(bound, sign)}", children[name]


def parts(hint: Any) -> Iterator[Any]:
    """A type and all types inside it."""
    yield hint
    for inner in get_args(hint):
        yield from parts(inner)


def test_every_row_has_a_sentence_of_its_own() -> None:
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(rows) > 200
    wrong = [row[0] for row in rows if not re.fullmatch(r"[A-Z`].*\.", row[-1]) or "see above" in row[-1]]
    assert wrong == ["`lower_difficulty`"], "the table in the text of cktat has a header of its own"


def test_the_page_has_no_examples_and_no_errors() -> None:
    assert not [text for text in (">>>", "Errors:", "see above") if text in PAGE]


def test_meanings_come_from_the_field_and_else_from_the_class() -> None:
    assert keys.meanings(Described) == {
        "text": "The text below it.",
        "comment": "The comment behind it.",
        "named": "Here `named` is told.",
        "silent": "",
    }
    assert keys.text_of(Described) == "One line.\n\nHere `named` is told. Then `named` once more."


@strict
class Described:
    """One line.

    Here `named` is told. Then `named` once more. Errors: `named` is wrong,
    in two lines.

    >>> Described
    """

    text: int  # Not this.
    """The text below it."""
    comment: int  # The comment behind it.
    named: int
    silent: int


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
            assert silent(member.children, f"{name}.") == []
