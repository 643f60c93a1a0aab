"""Planted lies: models and attacks that look robust and are not, each caught by the rule made for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.apgd import Apgd
from components.attacks.fgsm import Fgsm
from components.attacks.parts.ascent import Start
from components.attacks.parts.attack import Attack
from components.attacks.pgd import Pgd
from components.data.normalization import fit_normalization
from components.data.pixels import to_pixels
from components.datasets.digits import Digits
from components.evaluation import probes
from components.evaluation.campaign import Task
from components.evaluation.one_attack import TestSet, run_attack
from components.evaluation.verdict.rules import Verdict, judge
from components.foundation.params import Ratio, member
from components.models.parts.batch_norm import BatchNorm
from components.models.small_cnn import SmallCnn
from components.numerics.losses import cross_entropy
from components.numerics.random_numbers import Rng
from components.stages.evidence import _apgd, _reach
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

NUM_TEST = 256
THREAT = Threat(norm=Linf(), epsilon=Ratio(51, 255))
# One-step training overfits at twice that radius; at the radius itself 8x8 digits do not show it.
WIDE = Threat(norm=Linf(), epsilon=Ratio(102, 255))
PGD = Pgd(steps=5, step_size=Ratio(20, 255), start="uniform", loss="cross_entropy", restarts=1)
QUICK = (
    Apgd(steps=100, restarts=1, loss="cross_entropy", rho=0.75),
    Apgd(steps=100, restarts=1, loss="targeted_dlr", rho=0.75, targets=9),
)
# What an evaluation adds to the probe: its saved images scored again.
RESCORED = {"n": NUM_TEST, "claimed": 120, "fooled": 120, "undecided": 0, "dtype": "float32"}


# Against always giving the most common class.
BETTER = {"first": "always '1'", "then": "the model", "n": NUM_TEST, "gained": 200, "lost": 0}


@dataclass(frozen=True)
class Digit:
    """Digits in two parts, of which the upper `rows` rows are shown and the rest is grey."""

    train: TestSet
    test: TestSet


@cache
def digits(rows: int = 8) -> Digit:
    source = Digits().load(Path()).train
    images = source.images.clone()
    images[:, :, rows:] = 128
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, train = (
        TestSet(images[part], source.labels[part], NUM_TEST) for part in (order[:NUM_TEST], order[NUM_TEST:])
    )
    return Digit(train, test)


Craft = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


def attacked(attack: Attack, threat: Threat, share: float = 1.0) -> Craft:
    """Training batches whose first `share` is attacked."""

    def craft(model: nn.Module, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        count = round(share * len(images))
        return torch.cat([attack(model, images[:count], labels[:count], threat, rng), images[count:]])

    return craft


def trained(data: Digit, craft: Craft | None, epochs: int, seed: int, rate: float = 0.2, **other: Any) -> nn.Module:
    """small_cnn after SGD with a rate that rises for a quarter of the run and then falls to zero.

    `other` may be a weight `decay` other than 5e-4 and a batch-norm `estimator` other than `running`.
    """
    torch.manual_seed(seed)
    batch_norm = BatchNorm(estimator=other.get("estimator", "running"), momentum=0.1)
    decay = other.get("decay", 5e-4)
    normalization = fit_normalization(data.train.images, "standardize")
    model = SmallCnn(width=1, batch_norm=batch_norm).build(10, (1, 8, 8), normalization)
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
    images, labels = to_pixels(data.train.images), data.train.labels
    rng = torch.Generator().manual_seed(seed)
    for done, chosen in batches(len(labels), epochs, rng):
        optimizer.param_groups[0]["lr"] = rate * min(4 * done, 4 / 3 * (1 - done))
        shown = images[chosen] if craft is None else craft(model, images[chosen], labels[chosen], rng)
        optimizer.zero_grad()
        cross_entropy(model.train()(shown), labels[chosen]).mean().backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def batches(num: int, epochs: int, rng: torch.Generator) -> Iterator[tuple[float, Tensor]]:
    """The share of training that is done after each batch, and the batch."""
    for epoch in range(epochs):
        order = torch.randperm(num, generator=rng).split(128)
        for index, chosen in enumerate(order):
            yield (epoch + (index + 1) / len(order)) / epochs, chosen


def wanted(threat: Threat) -> dict[str, Attack]:
    specs = probes.wanted(threat, (1, 8, 8))
    return {name: member(ATTACKS, spec, name) for name, spec in specs.items()}


@dataclass(frozen=True)
class Claim:
    """What is handed in for judgement; `reported` are the attacks that its worst case is of, if it has one."""

    model: nn.Module
    test: TestSet
    threat: Threat
    attacks: dict[str, Attack]
    rescored: dict[str, Any]
    reported: tuple[Attack, ...] = ()

    def verdict(self) -> Verdict:
        claimed, evidence = None, {"rescored": self.rescored, "constant": BETTER}
        if self.reported:
            tasks = [Task("reported", attack, self.threat) for attack in self.reported]
            evidence["reach"] = [found for task in tasks for found in _reach(task)]
            evidence["apgd"] = [_apgd(task, 10) for task in tasks if isinstance(task.attack, Apgd)]
            right = [run_attack(self.model, self.test, attack, self.threat, 0).right for attack in self.reported]
            claimed = torch.stack(right).amin(0)
        return judge(probes.probe(self.model, self.test, self.threat, self.attacks, 0, claimed) | evidence)


def honest(model: nn.Module, data: Digit | None = None, threat: Threat = THREAT) -> Claim:
    return Claim(model, (data or digits()).test, threat, wanted(threat), RESCORED, QUICK)


def hurried(claim: Claim) -> Claim:
    """With the attacks alone that the rules about layers need: the others would each say the same again."""
    reported = () if claim.reported is QUICK else claim.reported
    return replace(claim, attacks={name: claim.attacks[name] for name in ("pgd", "pgd_few")}, reported=reported)


def failed(verdict: Verdict) -> set[str]:
    return {check.rule for check in verdict.checks if check.status in ("suspect", "broken")}


@cache
def clean_model(seed: int = 0, estimator: str = "running") -> nn.Module:
    return trained(digits(), None, epochs=6, seed=seed, rate=0.1, estimator=estimator)


@cache
def robust_model(seed: int) -> nn.Module:
    return trained(digits(), attacked(PGD, THREAT), epochs=8, seed=seed)


class Quantise(nn.Module):
    """Four grey levels, with a derivative of zero everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 4).round() / 4


class Cut(nn.Module):
    """Eight bits and back, without a derivative."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 255).round().to(torch.uint8).float() / 255


class Jitter(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + 0.1 * torch.randn_like(images)


class StuckBatchNorm(nn.BatchNorm2d):
    """Batch statistics always, which it remembers, whatever the mode."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=True, momentum=0.1
        )


class Swapped:
    """An attack whose step size and epsilon were swapped."""

    def __init__(self, attack: Pgd) -> None:
        self.attack = attack

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        swapped = replace(self.attack, step_size=threat.epsilon)
        return swapped(model, images, labels, threat.at(self.attack.step_size), rng)


def in_front(layer: nn.Module) -> Claim:
    return honest(nn.Sequential(layer, clean_model()).eval())


def behind(layer: nn.Module) -> Claim:
    return honest(nn.Sequential(clean_model(), layer).eval())


def stuck() -> Claim:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), StuckBatchNorm(8), nn.Flatten(), nn.Linear(512, 10))
    return honest(model.eval())


def left_in_training() -> Claim:
    model = nn.Sequential(clean_model()).eval()
    return honest(nn.Sequential(nn.Dropout(0.5), model))  # training mode is how modules are made


def normalised() -> Claim:
    claim = honest(clean_model())
    pixels = to_pixels(claim.test.images)
    return replace(claim, test=claim.test._replace(images=(pixels - pixels.mean()) / pixels.std()))


def scaled_twice() -> Claim:
    claim = honest(clean_model())
    return replace(claim, test=claim.test._replace(images=to_pixels(claim.test.images) / 255))


def swapped() -> Claim:
    claim = honest(clean_model())
    pgd = claim.attacks["pgd"]
    assert isinstance(pgd, Pgd)
    return replace(claim, attacks=claim.attacks | {"pgd": Swapped(pgd)})


def overstated() -> Claim:
    return replace(honest(clean_model()), rescored=RESCORED | {"fooled": 119})


def leaker() -> Claim:
    """Half of each batch FGSM of the true label; only the top two rows are shown, so a clean image is hard to read and
    the label in the perturbation worth learning. Whole digits are too easy: clean accuracy leaves no room above it.
    """
    data = digits(rows=2)
    return honest(trained(data, attacked(Fgsm(), WIDE, share=0.5), epochs=15, seed=0, decay=0.0), data, WIDE)


def overfitted() -> Claim:
    """The same on whole digits: catastrophic overfitting."""
    model = trained(digits(), attacked(Fgsm(), WIDE, share=0.5), epochs=15, seed=0, decay=0.0)
    return honest(model, threat=WIDE)


def reporting(steps: int, share: Fraction, start: Start) -> Claim:
    """PGD alone, with steps of a share of the radius."""
    step_size = Ratio(share * THREAT.epsilon)
    attack = Pgd(steps=steps, step_size=step_size, start=start, loss="cross_entropy", restarts=1)
    return replace(honest(clean_model()), reported=(attack,))


@dataclass(frozen=True)
class Lie:
    """Its name, how it is told, and the rule that must catch it."""

    name: str
    told: Callable[[], Claim]
    rule: str
    status: str
    slow: bool = False


LIES = [
    Lie("a layer that rounds to four grey levels", lambda: in_front(Quantise()), "zero_gradients", "broken"),
    Lie("a layer that converts to 8 bits", lambda: in_front(Cut()), "zero_gradients", "broken"),
    Lie("a softmax behind the model", lambda: behind(nn.Softmax(1)), "logits", "broken"),
    Lie("a logarithm of a softmax", lambda: behind(nn.LogSoftmax(1)), "logits", "suspect"),
    Lie("a random layer", lambda: in_front(Jitter()), "deterministic", "broken"),
    Lie("batch norm by the batch", lambda: honest(clean_model(0, "batch")), "batch_independence", "broken"),
    Lie("batch norm stuck in training mode", stuck, "eval_mode", "broken"),
    Lie("a model left in training mode", left_in_training, "eval_mode", "broken"),
    Lie("images already normalised", normalised, "pixel_range", "broken"),
    Lie("images scaled twice", scaled_twice, "pixel_range", "suspect"),
    Lie("step size and epsilon swapped", swapped, "budget_used", "suspect"),
    Lie("one adversarial image less than claimed", overstated, "rescored", "broken"),
    Lie("an attack of one tiny step", lambda: reporting(1, Fraction(1, 50), "zero"), "claim", "suspect"),
    Lie("steps that end before the boundary", lambda: reporting(9, Fraction(1, 10), "zero"), "reach", "suspect"),
    Lie("steps that do not cross the ball", lambda: reporting(18, Fraction(1, 10), "uniform"), "reach", "suspect"),
    Lie(
        "no attack with step sizes of its own",
        lambda: reporting(99, Fraction(1, 4), "zero"),
        "standard_attack",
        "suspect",
    ),
    Lie("a leaker, trained on FGSM of the true label", leaker, "label_leak", "suspect", slow=True),
    Lie("catastrophic overfitting to FGSM", overfitted, "mask_gap_steps", "suspect", slow=True),
]


def table() -> list[Any]:
    return [pytest.param(lie, id=lie.name, marks=[pytest.mark.slow] if lie.slow else []) for lie in LIES]


@pytest.mark.parametrize("steps", [1, 3, 5, 10])
@pytest.mark.parametrize("share", [Fraction(1, 100), Fraction(1, 20), Fraction(1, 5), Fraction(1)], ids=str)
def test_a_number_that_the_probe_refutes_is_never_trusted(steps: int, share: Fraction):
    """Whatever made it too high: where the probe fools more than 1 in 100 images that it counts, it is suspect."""
    claim = hurried(reporting(steps, share, "zero"))
    verdict = claim.verdict()
    (check,) = (check for check in verdict.checks if check.rule == "claim")
    refuted = check.measured["gained"] > max(1, check.measured["n"] / 100)
    assert check.status == ("suspect" if refuted else "passed") and verdict.status == "suspect"
    # The weakest are refuted indeed.
    assert refuted or steps * share > Fraction(1, 5)


@pytest.mark.parametrize("lie", table())
def test_a_planted_lie_is_caught_by_its_rule(lie: Lie):
    verdict = (lie.told() if lie.slow else hurried(lie.told())).verdict()
    caught = {check.rule: check.status for check in verdict.checks}
    assert caught[lie.rule] == lie.status, failed(verdict)
    assert verdict.status == lie.status and lie.rule in verdict.reasons


def test_without_a_lie_the_same_clean_model_is_trusted():
    """It falls to every attack, and the verdict is on the numbers, not on the model."""
    verdict = honest(clean_model()).verdict()
    assert verdict.status == "trusted", failed(verdict)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_an_honest_robust_model_is_trusted(seed: int):
    claim = honest(robust_model(seed))
    verdict = claim.verdict()
    assert verdict.status == "trusted", failed(verdict)


HONEST = [
    pytest.param(lambda: clean_model(1), Threat(norm=Linf(), epsilon=Ratio(13, 255)), id="clean, small radius"),
    pytest.param(lambda: robust_model(1), Threat(norm=Linf(), epsilon=Ratio(63, 255)), id="robust, radius too large"),
    pytest.param(lambda: robust_model(1), Threat(norm=L2(), epsilon=Ratio(1)), id="robust, the other norm"),
]


@pytest.mark.slow
@pytest.mark.parametrize("model, threat", HONEST)
def test_an_honest_model_is_trusted_where_it_is_neither_safe_nor_lost(model: Callable[[], nn.Module], threat: Threat):
    """One step and many then differ much, without a lie: 18 points at the larger radius, 38 in L2."""
    verdict = honest(model(), threat=threat).verdict()
    assert verdict.status == "trusted", failed(verdict)
