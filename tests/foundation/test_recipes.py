"""One function applies a delta to a recipe: what it changes, what it leaves alone, and what it refuses."""

import copy
import random
from typing import Any

import pytest

from components.foundation.errors import InputError
from components.foundation.recipes import changed, nested

RECIPE: dict[str, Any] = {
    "seed": 0,
    "model": {"name": "small", "width": 1, "norm": {"estimator": "running", "momentum": 0.1}},
    "recipe": {"epochs": 5, "average": {"name": "ema", "decay": 0.9}, "milestones": [1, 2], "clip": None},
    "attacks": {"fgsm": {"name": "fgsm"}, "pgd": {"name": "pgd", "steps": 20}},
    "changes": [{"noise": 1}, {"noise": 2}],
}


def path_of(delta: dict[str, Any]) -> Any:
    """What the delta makes of its only key."""
    (key,) = delta
    value: Any = changed(RECIPE, delta, "here")
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else value[int(part)]
    return value


@pytest.mark.parametrize(
    ("delta", "want"),
    [
        ({"seed": 7}, 7),
        ({"recipe.epochs": None}, None),
        ({"recipe.clip": {"norm": 1}}, {"norm": 1}),
        ({"recipe.average": None}, None),
        ({"recipe.milestones": [3]}, [3]),
        ({"recipe.average": {"decay": 0.5}}, {"name": "ema", "decay": 0.5}),
        ({"recipe.average": {"name": "ema", "decay": 0.5}}, {"name": "ema", "decay": 0.5}),
        # Another name: the fields of the member before mean nothing.
        ({"model": {"name": "large", "depth": 9}}, {"name": "large", "depth": 9}),
        ({"model": {"name": "large", "norm": {"only": {"a.b": 1}}}}, {"name": "large", "norm": {"a.b": 1}}),
        # A field of a member that is left out where its default is wanted.
        ({"attacks.fgsm": {"aim": "predicted"}}, {"name": "fgsm", "aim": "predicted"}),
        # Tables of members take new ones, and are emptied or replaced as a whole.
        ({"attacks": {"bim": {"name": "bim"}}}, RECIPE["attacks"] | {"bim": {"name": "bim"}}),
        ({"attacks": {}}, {}),
        ({"attacks": {"only": {"bim": {"name": "bim"}}}}, {"bim": {"name": "bim"}}),
        ({"attacks": {"only": {}}}, {}),
        ({"changes": {"1": {"noise": 3}}}, [{"noise": 1}, {"noise": 3}]),
        ({"changes.0.noise": 3}, 3),
    ],
    ids=str,
)
def test_a_delta_is_merged_or_replaces(delta, want):
    assert path_of(delta) == want


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ({"sed": 1}, "file: no key 'sed' (allowed: seed, model, recipe, attacks, changes)"),
        ({"recipe": {"epohcs": 1}}, "file: no key 'epohcs' in recipe (allowed: epochs, average, milestones, clip)"),
        ({"model.norm.name": "x"}, "file: no key 'name' in model.norm (allowed: estimator, momentum)"),
        ({"changes.2.noise": 1}, "file: no key '2' in changes (allowed: 0, 1)"),
        ({"recipe.clip": 1, "recipe.clip.norm": 1}, "file: recipe.clip is given as a whole and by keys of its own"),
        ({"attacks": {}, "attacks.pgd.steps": 1}, "file: attacks is given as a whole and by keys of its own"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_with_what_is_allowed(delta, message):
    with pytest.raises(InputError) as error:
        changed(RECIPE, delta, "file")
    assert str(error.value) == message


def test_a_delta_is_one_whatever_the_order_of_its_keys():
    """So a name does not wipe out the fields that stand before it."""
    parts: list[tuple[str, Any]] = [
        ("model.depth", 9),
        ("model", {"name": "large"}),
        ("model.width", 2),
        ("recipe.epochs", 1),
    ]
    want = {"name": "large", "depth": 9, "width": 2}
    for _ in range(24):
        random.Random(_).shuffle(parts)
        result = changed(RECIPE, dict(parts), "here")
        assert result["model"] == want and result["recipe"]["epochs"] == 1


def test_the_later_one_wins_where_a_key_is_given_twice():
    assert nested({"a.b": 1, "a": {"b": 2, "c": 3}}, "here") == {"a": {"b": 2, "c": 3}}
    assert nested({"a": {"name": "x", "b": 2}, "a.name": "y"}, "here") == {"a": {"name": "y"}}


def grown(numbers: random.Random, depth: int) -> dict[str, Any]:
    """A random recipe: numbers, nulls, lists, blocks, members of families."""
    block: dict[str, Any] = {"plain": 0}
    for key in "abcd"[: numbers.randint(1, 4)]:
        kind = numbers.randrange(5 if depth else 3)
        block[key] = [numbers.randrange(9), None, [1, 2], {}, {}][kind]
        if kind > 2:
            block[key] = grown(numbers, depth - 1) | ({"name": numbers.choice("xyz")} if kind == 4 else {})
    return block


def of(numbers: random.Random, recipe: dict[str, Any]) -> dict[str, Any]:
    """A random delta of a recipe."""
    delta: dict[str, Any] = {}
    for key in numbers.sample(list(recipe), numbers.randint(1, len(recipe))):
        if key == "name":
            continue
        inner = recipe[key]
        delta[key] = of(numbers, inner) if isinstance(inner, dict) and numbers.random() < 0.8 else numbers.random()
        if isinstance(inner, dict) and numbers.random() < 0.2:
            delta[key] = {"name": "new", "field": numbers.random()} if "name" in inner else {"only": {"z": 1}}
    return delta


def leaves(block: Any, *path: str) -> dict[tuple[str, ...], Any]:
    if isinstance(block, dict) and block:
        return {p: leaf for key, inner in block.items() for p, leaf in leaves(inner, *path, key).items()}
    return {path: block}


@pytest.mark.parametrize("seed", range(200))
def test_what_holds_for_every_delta(seed):
    numbers = random.Random(seed)
    recipe = grown(numbers, 3)
    delta = of(numbers, recipe)
    before, result = copy.deepcopy((recipe, delta)), changed(recipe, delta, "here")
    assert (recipe, delta) == before
    assert changed(recipe, {}, "here") == recipe and changed(result, delta, "here") == result
    flat = {".".join(path): value for path, value in leaves(delta).items() if "only" not in path}
    rest = {
        ".".join(p): {"only": {"z": 1}}
        for p in {path[: path.index("only")] for path in leaves(delta) if "only" in path}
    }
    assert changed(recipe, flat | rest, "here") == result
    # What the delta says stands in the result, and nothing changed that it does not mention.
    told = {tuple(part for part in path if part != "only"): value for path, value in leaves(delta).items()}
    after = leaves(result)
    assert all(after[path] == value for path, value in told.items() if value != {})
    replaced = [path[:-1] for path in told if path[-1] in ("field", "name", "z")]
    for path, value in leaves(recipe).items():
        if not any(path[: len(gone)] == gone for gone in [*told, *replaced]):
            assert after[path] == value


def test_the_result_shares_nothing_with_the_delta():
    delta = {"recipe.milestones": [7], "model": {"name": "large", "list": [1]}}
    result = changed(RECIPE, delta, "here")
    result["recipe"]["milestones"].append(8)
    result["model"]["list"].append(2)
    assert delta == {"recipe.milestones": [7], "model": {"name": "large", "list": [1]}}
