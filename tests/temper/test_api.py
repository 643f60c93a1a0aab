"""`import temper`: attacks, training, evaluation and loading on arrays; one line for every mistake."""

import doctest
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import temper
from components.attacks import ATTACKS
from components.foundation.params import member
from components.methods import METHODS
from components.threats import NORMS
from temper.arrays import threat as as_threat
from temper.defaults import attack_fields, budget_attacks, filled, method_fields

THREAT = "linf:1/10"


def network(num_classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, num_classes)
    )


def data(num: int = 30, num_classes: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % num_classes
    images = torch.randint(0, 80, (num, 1, 4, 4), generator=rng)
    images[torch.arange(num), 0, labels, labels] += 150
    return images.byte(), labels


def same_state(model: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["evaluation", "training", "models"])
def test_the_examples_in_docstrings(name: str) -> None:
    done = doctest.testmod(importlib.import_module(f"temper.{name}"))
    assert done.failed == 0 and done.attempted


def test_everything_named_is_there() -> None:
    assert all(getattr(temper, name) is not None for name in temper.__all__) and set(temper.__all__) <= set(dir(temper))
    with pytest.raises(AttributeError, match="no attribute 'attck'"):
        temper.attck  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_attack_and_method_has_defaults_that_fit(norm: Any) -> None:
    threat = as_threat(f"{norm}:8/255")
    attacks, methods = attack_fields(threat), method_fields(threat, 7)
    assert set(attacks) == set(ATTACKS) and set(methods) == set(METHODS)
    for name in attacks:
        member(ATTACKS, filled(name, attacks, "attack"), "attack")
    for name in methods:
        member(METHODS, filled(name, methods, "method"), "method")


def test_images_may_be_arrays_and_threats_text() -> None:
    model, (images, labels) = network().eval(), data()
    of_tensors = temper.attack(model, images, labels, THREAT)
    of_arrays = temper.attack(model, images.numpy().astype(np.float32) / 255, labels.numpy(), THREAT)
    assert torch.equal(of_tensors, of_arrays) and of_tensors.dtype == torch.float32
    assert float((of_tensors - images / 255).abs().max()) <= 0.1 + 1e-6
    whole = as_threat("linf:1/10")
    assert torch.equal(of_tensors, temper.attack(model, images, labels, whole, {"name": "pgd", "steps": 20}))
    assert not torch.equal(of_tensors, temper.attack(model, images, labels, whole, "fgsm"))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_no_images_returns_none(name: str, norm: str) -> None:
    images, labels = data(0)
    for given in (images, images.float()):
        images_adv = temper.attack(network(), given, labels, f"{norm}:1/10", name)
        assert images_adv.shape == (0, 1, 4, 4) and images_adv.dtype == torch.float32
    with pytest.raises(temper.InputError, match=r"images: got shape \[0, 1, 4, 4\], want .* with at least 1 image"):
        temper.evaluate(network(), images, labels, f"{norm}:1/10")


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("budget", ["quick", "standard"])
def test_an_evaluation_gives_table_and_verdict_and_leaves_the_model(num_classes: int, budget: str) -> None:
    images, labels = data(40, num_classes)
    start = network(num_classes)
    model = temper.train(start, images, labels, THREAT, method="standard", epochs=3).model.train()
    before = network(num_classes)
    before.load_state_dict(model.state_dict())
    result = temper.evaluate(
        model, images, labels, THREAT, budget=budget, attacks={"mine": {"name": "pgd", "steps": 3}}
    )
    assert same_state(model, before) and model.training and all(p.requires_grad for p in model.parameters())
    outcomes = result.outcomes
    assert result.worst_case.n == 40 and result.worst_case.count == int(outcomes["worst_case"].sum())
    assert set(result.attacks) == {"fgsm", "pgd", "mine"}
    assert result.worst_case.value <= min(rate.value for rate in result.attacks.values()) <= result.clean.value
    assert result.clean.low <= result.clean.value <= result.clean.high
    assert result.verdict in ("trusted", "suspect", "broken") and (result.verdict == "trusted") == (not result.reasons)
    assert "\nMeasurement: model" in str(result) and "worst case" in str(result)
    assert any(name.startswith("cascade/") for name in outcomes) == (budget == "standard")


class Hidden(nn.Module):
    """A network whose gradients say nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return self.inner((images * 4).round() / 4)


def test_a_model_that_hides_its_gradients_is_not_trusted() -> None:
    images, labels = data(40)
    model = temper.train(network(), images, labels, THREAT, method="standard", epochs=3).model
    result = temper.evaluate(Hidden(model), images, labels, "linf:1/4", budget="quick")
    assert result.verdict != "trusted" and all(": " in reason for reason in result.reasons)


class Unanswering(nn.Module):
    """Right on every image of one class as it stands, and without an answer on all others: between grey levels."""

    def __init__(self, right: int, nothing: float) -> None:
        super().__init__()
        self.inner, self.right, self.nothing = nn.Linear(16, 3), right, nothing

    def forward(self, images: Tensor) -> Tensor:
        logits = 0.01 * self.inner(images.flatten(1)) + 9 * nn.functional.one_hot(torch.tensor(self.right), 3)
        between = (255 * images - (255 * images).round()).abs().amax((1, 2, 3)) > 0.1
        return logits + torch.where(between, self.nothing, 0.0)[:, None]


@pytest.mark.parametrize("nothing", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("right", [0, 2])
def test_a_model_that_gives_no_answer_under_attack_is_not_robust(right: int, nothing: float) -> None:
    """Whichever class it is right on: to `argmax` alone a row of NaN is class 0."""
    images, _ = data(40)
    result = temper.evaluate(Unanswering(right, nothing), images, torch.full((40,), right), THREAT, budget="quick")
    assert result.clean.count == 40 and result.worst_case.count == 0
    assert result.verdict == "broken" and any(reason.startswith("logits: ") for reason in result.reasons)


def test_an_evaluation_in_a_folder_continues(tmp_path: Path) -> None:
    images, labels = data()
    first = temper.evaluate(network(), images, labels, THREAT, budget="quick", folder=tmp_path)
    journal = (tmp_path / "journal.jsonl").read_bytes()
    again = temper.evaluate(network(), images, labels, THREAT, budget="quick", folder=tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes() == journal and again.worst_case == first.worst_case
    with pytest.raises(temper.InputError, match="a journal of another evaluation"):
        temper.evaluate(network(), images, labels, "linf:1/5", budget="quick", folder=tmp_path)


def test_budgets_with_few_classes_have_no_targeted_loss() -> None:
    threat = as_threat("linf:8/255")
    assert budget_attacks("full", threat, 10)[1] == "autoattack"
    cascade = budget_attacks("full", threat, 2)[1]
    assert isinstance(cascade, dict) and list(cascade) == ["apgd_ce", "fab_t", "square"]
    assert cascade["fab_t"]["targets"] == 1


def test_training_is_a_function_of_its_seed_and_hardens(tmp_path: Path) -> None:
    images, labels = data(60)
    start = network()
    first, again, other = (
        temper.train(start, images, labels, THREAT, epochs=2, batch_size=16, seed=seed) for seed in (0, 0, 1)
    )
    assert same_state(first.model, again.model) and not same_state(first.model, other.model)
    assert same_state(start, network()) and len(first.history) == 3 and not first.model.training
    assert first.history[first.best_epoch]["robust_accuracy"] == max(r["robust_accuracy"] for r in first.history)
    lines: list[str] = []
    temper.train(start, images, labels, THREAT, epochs=1, validation=data(12), note=lines.append, folder=tmp_path)
    assert len(lines) == 2 and (tmp_path / "checkpoint.safetensors").exists()


def test_a_guided_method_takes_a_guide() -> None:
    images, labels = data()
    with pytest.raises(temper.InputError, match="guide: missing"):
        temper.train(network(), images, labels, THREAT, method="hat", epochs=1)
    guide = network()
    assert temper.train(network(), images, labels, THREAT, method="hat", guide=guide, epochs=1).history[1]["epoch"] == 1
    assert all(parameter.requires_grad for parameter in guide.parameters())


def test_a_model_file_is_loaded(tmp_path: Path) -> None:
    from tests.parts.outside_files import pixels, save

    path = tmp_path / "model.safetensors"
    save(path, 0)
    model = temper.load(path)
    assert not model.training and model(pixels()).shape == (20, 10)


class Detached(Hidden):
    """A network that cuts the graph."""

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.detach())


IMAGES, LABELS = data(12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threat": "8/255"}, "threat: got '8/255', want NORM:EPSILON, such as linf:8/255, l2:1/2 or l1:12"),
        ({"threat": "linf:8"}, "threat: got epsilon 8, want a share of the pixel range"),
        ({"threat": "l7:1"}, "threat.norm: unknown 'l7'"),
        ({"images": IMAGES[0]}, r"images: got shape \[1, 4, 4\], want \[N, C, H, W\]"),
        ({"images": IMAGES.long()}, "images: got torch.int64, want uint8, or floats in"),
        ({"images": IMAGES.float()}, r"images: pixels in \[0.000, "),
        ({"labels": LABELS[:3]}, r"labels: got torch.int64 \[3\], want an integer for each image \[12\]"),
        ({"labels": LABELS.float()}, "labels: got torch.float32"),
        ({"labels": LABELS - 1}, "labels: got -1, want classes counted from 0"),
        ({"labels": LABELS + 1}, "labels: got class 3, the model has 3 logits"),
        ({"model": nn.Identity()}, r"model: gives \[2, 1, 4, 4\] for 2 images, want logits"),
        ({"model": Detached(network())}, "model: no gradient reaches the images"),
        ({"attack": "pgdd"}, "attack.name: unknown 'pgdd'"),
        ({"attack": {"name": "pgd", "step": 1}}, "attack.step: unknown key"),
    ],
)
def test_a_mistake_is_one_line(change: dict[str, Any], message: str) -> None:
    told = {"model": network(), "images": IMAGES, "labels": LABELS, "threat": THREAT} | change
    with pytest.raises(temper.InputError, match=message) as refused:
        temper.attack(**told)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        (temper.attack, {"model": "resnet"}, "model: got 'resnet', want a torch.nn.Module"),
        (temper.attack, {"images": "cat.png"}, "images: got 'cat.png', want a tensor or an array of numbers"),
        (temper.attack, {"images": [[1], [2, 3]]}, "images: got [[1], [2, 3]], want a tensor or an array of numbers"),
        (temper.attack, {"labels": None}, "labels: got None, want a tensor or an array of numbers"),
        (temper.attack, {"threat": 0.03}, "threat: got 0.03, want NORM:EPSILON, such as linf:8/255, l2:1/2 or l1:12"),
        (temper.attack, {"attack": 5}, "attack: got 5, want a name, a mapping with a name, or an attack"),
        (temper.attack, {"batch_size": 0}, "batch_size: got 0, want a whole number, at least 1"),
        (temper.attack, {"seed": "one"}, "seed: got 'one', want a whole number, 0 to 4294967295"),
        (temper.evaluate, {"model": None}, "model: got None, want a torch.nn.Module"),
        (temper.evaluate, {"attacks": ["pgd"]}, "attacks: got ['pgd'], want a mapping of names to attacks"),
        (temper.evaluate, {"attacks": {"mine": 5}}, "attacks.mine: got 5, want a name, a mapping with a name, or an"),
        (temper.evaluate, {"classes": 3}, "classes: got 3, want 3 names, one for each logit"),
        (temper.evaluate, {"classes": ["a", "b"]}, "classes: got ['a', 'b'], want 3 names, one for each logit"),
        (temper.evaluate, {"batch_size": 1.5}, "batch_size: got 1.5, want a whole number, at least 1"),
        (temper.evaluate, {"folder": 7}, "folder: got 7, want a path, or None"),
        (temper.evaluate, {"note": "loud"}, "note: got 'loud', want a function that takes a line"),
        (temper.evaluate, {"budget": 3}, "budget: unknown 3 (allowed: quick, standard, full)"),
        (temper.train, {"model": 1}, "model: got 1, want a torch.nn.Module"),
        (temper.train, {"method": 5}, "method: got 5, want a name, a mapping with a name, or a temper.Method"),
        (
            temper.train,
            {"method": {"name": "trades", "beta": -1}},
            "method.beta: got -1, want at least 0",
        ),
        (temper.train, {"method": {"name": "mart", "beta": -1}}, "method.beta: got -1, want at least 0"),
        (temper.train, {"method": "hat", "guide": "mine"}, "guide: got 'mine', want a torch.nn.Module, or None"),
        (temper.train, {"validation": 0.1}, "validation: got 0.1, want a pair: images and labels"),
        (temper.train, {"validation": (IMAGES,)}, "validation: got 1 parts, want two: images and labels"),
        (temper.train, {"epochs": "many"}, "train.epochs: input should be a valid integer, got 'many'"),
        (temper.train, {"learning_rate": None}, "train.learning_rate: input should be a valid number, got None"),
        (temper.train, {"seed": None}, "seed: got None, want a whole number, 0 to 4294967295"),
        (temper.evaluate, {"seed": -1}, "seed: got -1, want a whole number, 0 to 4294967295"),
        *(
            (function, {"seed": 2**32}, "seed: got 4294967296, want")
            for function in (temper.attack, temper.evaluate, temper.train)
        ),
    ],
    ids=lambda value: getattr(value, "__name__", next(iter(value)) if isinstance(value, dict) else None),
)
def test_a_wrong_type_names_the_argument(function: Any, change: dict[str, Any], message: str) -> None:
    told = {"model": network(), "images": IMAGES, "labels": LABELS, "threat": THREAT} | change
    with pytest.raises(temper.InputError) as refused:
        function(**told)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_wrong_types_of_a_file_and_of_a_threat() -> None:
    for path, device, message in ((7, "cpu", "path: got 7, want a path"), ("m", "moon", "device: got 'moon', want a ")):
        with pytest.raises(temper.InputError, match=message):
            temper.load(path, device)  # pyright: ignore[reportArgumentType]
    with pytest.raises(temper.InputError, match="threat: got None, want NORM:EPSILON"):
        temper.threat(None)  # pyright: ignore[reportArgumentType]


def test_mistakes_of_training_and_evaluation() -> None:
    model, (images, labels) = network(), data(12)
    with pytest.raises(temper.InputError, match="want uint8 to train on"):
        temper.train(model, images / 255, labels, THREAT)
    with pytest.raises(temper.InputError, match="images: got 9, want at least 10, or validation images"):
        temper.train(model, images[:9], labels[:9], THREAT)
    with pytest.raises(temper.InputError, match=r"train\.epochs: got 0, want at least 1"):
        temper.train(model, images, labels, THREAT, epochs=0)
    with pytest.raises(temper.InputError, match="unknown 'pgd'"):
        temper.train(model, images, labels, THREAT, method="pgd")
    with pytest.raises(temper.InputError, match="budget: unknown 'all'"):
        temper.evaluate(model, images, labels, THREAT, budget="all")
