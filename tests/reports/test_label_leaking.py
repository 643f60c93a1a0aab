"""The evaluation of "Adversarial Machine Learning at Scale", by hand: leaks, transfer, capacity."""

from typing import Any

import pytest
import torch

from components.evaluation.document import AttackGrid
from components.reports.robustness import label_leaking as kurakin
from components.reports.robustness.contents import ModelReport
from components.statistics.documents import as_json
from components.statistics.intervals import paired
from tests.parts.evaluation_files import document

EPSILONS = ["2/255", "4/255"]
ATTACKS = {"fgsm": "Fgsm(aim='true')", "ll": "StepLl()", "guess": "Fgsm(aim='predicted')", "pgd": "Pgd(steps=20)"}


def outcomes(**bits: str) -> dict[str, torch.Tensor]:
    """Outcomes of model m from strings of bits; `__` stands for a slash."""
    return {f"m/{name.replace('__', '/')}": torch.tensor([int(bit) for bit in text]) for name, text in bits.items()}


def test_leak_gap_and_mask_are_differences_of_accuracy() -> None:
    found = outcomes(
        clean="1110000000",
        grid__fgsm__0="1111100000",
        grid__ll__0="1111000000",
        grid__guess__0="1111110000",
        grid__pgd__0="0000000001",
        grid__fgsm__1="1100000000",
    )
    first, second = map(as_json, kurakin.label_leak("m", AttackGrid(epsilons=EPSILONS, attacks=ATTACKS), found))
    assert (first["epsilon"], first["leak"]["value"], first["leak"]["versus"]) == ("2/255", 0.2, "clean")
    assert (first["gap"]["value"], first["gap"]["versus"]) == (0.1, "ll")
    assert (first["mask"]["value"], first["mask"]["versus"]) == (0.4, "pgd")
    want = paired(found["m/grid/pgd/0"], found["m/grid/fgsm/0"])
    assert (first["mask"]["low"], first["mask"]["high"]) == pytest.approx((want.low, want.high), abs=1e-6)
    assert second["leak"]["value"] == -0.1
    assert second["gap"] is None and second["mask"] is None


def test_without_the_label_nothing_can_leak() -> None:
    attacks = {name: ATTACKS[name] for name in ("ll", "guess")}
    found = outcomes(clean="10", grid__ll__0="10", grid__guess__0="10")
    assert kurakin.label_leak("m", AttackGrid(epsilons=EPSILONS, attacks=attacks), found) == []


@pytest.mark.parametrize(
    ("described", "leaks"),
    [
        ("Fgsm(aim='true')", True),
        ("Fgsm(aim='predicted')", False),
        ("RFgsm(aim='true')", False),
        ("Pgd(steps=1)", False),
    ],
)
def test_only_one_step_with_the_true_label_leaks(described: str, leaks: bool) -> None:
    assert kurakin.leaks(described) is leaks


def test_transfer_counts_the_images_that_fool_the_source() -> None:
    # The source is fooled by images 1 to 4 of five; of these the target is fooled by two, and by image 0 as well.
    tensors = {"self": torch.tensor([1, 0, 0, 0, 0]), "other": torch.tensor([0, 0, 0, 1, 1]), "kept": torch.ones(5)}
    keys = {"a": {"a": "self", "b": "other"}, "b": {"b": "kept", "a": "self"}, "c": {"a": "self"}}
    found = kurakin.fooling(keys, tensors)
    of_a = {target: rate for target, rate in found["a"].items() if rate}
    assert (of_a["b"].count, of_a["b"].n, of_a["a"].value) == (2, 4, 1.0)
    assert found["b"] == {"b": None, "a": None}
    assert "c" not in found  # which images fool c is not known


def test_every_grid_attack_has_its_rates() -> None:
    found = outcomes(grid__fgsm__0="1100", grid__fgsm__1="1000", grid__pgd__1="0000")
    grid = kurakin.grid("m", AttackGrid(epsilons=EPSILONS, attacks=ATTACKS), found)
    assert {name: [(p.epsilon, p.value) for p in points] for name, points in grid.items()} == {
        "fgsm": [("2/255", 0.5), ("4/255", 0.25)],
        "pgd": [("4/255", 0.0)],
    }


def model(parameters: int, **architecture: Any) -> ModelReport:
    """One of the made-up models, of another size and architecture."""
    changes = {"architecture": architecture or None, "num_parameters": parameters, "worst_case": None}
    return document(roles=["student"]).models["student"].model_copy(update=changes)


def test_capacity_needs_several_sizes_of_one_architecture() -> None:
    models = {
        "wide": model(400, name="cnn", width=2),
        "narrow": model(100, name="cnn", width=1),
        "other": model(900, name="resnet", width=1),
        "outside": model(900),
    }
    (family,) = kurakin.capacity(models)
    assert [(one.model, one.width) for one in family.models] == [
        ("narrow", {"width": 1}),
        ("wide", {"width": 2}),
    ]
    assert kurakin.capacity({"wide": models["wide"], "other": models["other"]}) == []
    # Another setting than the width is another architecture.
    models["wide"] = model(400, name="cnn", width=2, batch_norm="running")
    assert kurakin.capacity(models) == []
