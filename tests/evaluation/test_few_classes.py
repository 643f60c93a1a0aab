"""Data of two or three classes: refused before training where the evaluation needs more, with an advice that works."""

import re
from itertools import product
from typing import Any, get_args, get_type_hints

import pytest
import torch
import yaml
from torch import nn

from components.attacks import ATTACKS
from components.evaluation.cascades import specs
from components.evaluation.few_classes import require_classes
from components.foundation.errors import InputError
from components.foundation.params import member
from components.numerics.random_numbers import Noise
from temper.arrays import threat
from temper.defaults import attack_fields

THREAT = threat("linf:8/255")


def climbs() -> list[tuple[str, str, str | None]]:
    """Every attack with a choice of losses, with each of them and each of its aims."""
    found = []
    for name, kind in ATTACKS.items():
        hints = get_type_hints(kind)
        if "loss" in hints:
            aims = get_args(hints["aim"]) if "aim" in hints else (None,)
            found += [(name, loss, aim) for loss, aim in product(get_args(hints["loss"]), aims)]
    return [one for one in found if exists(*one)]


def exists(name: str, loss: str, aim: str | None) -> bool:
    try:
        return bool(member(ATTACKS, spec_of(name, loss, aim), "attack"))
    except InputError:
        return False


def spec_of(name: str, loss: str, aim: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, **attack_fields(THREAT)[name], "loss": loss}
    told |= {"queries": 3} if name == "square" else {"steps": 2}
    told |= {"targets": 2} if loss == "targeted_dlr" else {}
    return told | ({"aim": aim} if aim else {})


def run(spec: dict[str, Any], num_classes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes)).eval()
    images, labels = torch.rand(4, 1, 4, 4), torch.arange(4) % num_classes
    member(ATTACKS, spec, "attack")(model, images, labels, THREAT, Noise(0, torch.arange(4)))


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize(("name", "loss", "aim"), climbs())
def test_an_advice_on_few_classes_is_one_that_the_attack_takes(name, loss, aim, num_classes):
    """Of every attack, loss and aim: it runs, or is refused early and late alike, and the loss that is advised runs."""
    spec = spec_of(name, loss, aim)
    try:
        run(spec, num_classes)
    except InputError as error:
        advised = re.search(r"use (\w+)", str(error))
        assert advised, error
        run(spec_of(name, advised[1], aim), num_classes)
        with pytest.raises(InputError, match=rf"^pets: {num_classes} .*\.attacks\.a\.loss: "):
            require_classes({"attacks": {"a": spec}}, num_classes, "pets")
    else:
        require_classes({"attacks": {"a": spec}}, num_classes, "pets")


@pytest.mark.parametrize("cascade", ["quick", "autoattack"])
def test_a_named_cascade_needs_four_classes_and_its_advice_works(cascade):
    for num_classes in (2, 3):
        with pytest.raises(InputError, match=f"{cascade} needs at least 4") as early:
            require_classes({"cascade": cascade}, num_classes, "pets")
        with pytest.raises(InputError, match="want at least 4") as late:
            specs(cascade, num_classes, THREAT.norm)
        for error in (early, late):
            # What is advised can be typed as it is.
            typed = re.search(r"\{.*\}", str(error.value))
            own = yaml.safe_load(typed[0]) if typed else {}
            require_classes({"cascade": own}, num_classes, "pets")
            run(own["square"] | {"queries": 3}, num_classes)
    require_classes({"cascade": cascade}, 4, "pets")
    require_classes({"cascade": "none"}, 2, "pets")


def test_an_attack_inside_another_is_looked_at():
    inner = spec_of("pgd", "dlr", "true")
    with pytest.raises(InputError, match=r"attacks\.eot\.attack\.loss: dlr needs at least 3 \(want cross_entropy"):
        require_classes({"attacks": {"eot": {"name": "eot", "samples": 2, "attack": inner}}}, 2, "pets")
