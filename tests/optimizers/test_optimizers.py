"""The optimizers: torch's numbers, and no compiler imported for them."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from components.optimizers.adamw import AdamW
from components.optimizers.parts.optimizer import Group, Optimizer, Rule
from components.optimizers.sgd import Sgd

SHAPES = [(16, 3, 3, 3), (16,), (4, 5), (7,)]
# What torch calls what our memory holds.
KINDS = {"momentum": "momentum_buffer", "mean": "exp_avg", "square": "exp_avg_sq", "count": "step"}


def sgd(nesterov: bool = True, decay: float = 5e-4, norms: bool = True) -> Sgd:
    return Sgd(momentum=0.9, nesterov=nesterov, weight_decay=decay, decay_norms=norms)


def adamw(decay: float = 0.05, norms: bool = True) -> AdamW:
    return AdamW(betas=(0.9, 0.99), eps=1e-8, weight_decay=decay, decay_norms=norms)


def reference(rule: Rule, groups: list[dict]) -> torch.optim.Optimizer:
    if isinstance(rule, AdamW):
        return torch.optim.AdamW(groups, 1.0, rule.betas, rule.eps, rule.weight_decay)
    assert isinstance(rule, Sgd)
    return torch.optim.SGD(groups, 1.0, rule.momentum, weight_decay=rule.weight_decay, nesterov=rule.nesterov)


def pair(seed: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    rng = torch.Generator().manual_seed(seed)
    ours = [nn.Parameter(torch.randn(shape, generator=rng)) for shape in SHAPES]
    return ours, [nn.Parameter(parameter.detach().clone()) for parameter in ours]


def compare(
    rule: Rule,
    rates: tuple[float, float],
    momenta: list[float],
    steps: int = 6,
) -> None:
    """Our steps and torch's; a parameter gets its first gradient late, another none at all. Two groups of own rates."""
    ours, theirs = pair(0)
    rng = torch.Generator().manual_seed(1)
    optimizer = Optimizer(rule, [Group(ours[:2], rates[0]), Group(ours[2:], rates[1])])
    groups: list[dict] = []
    for part, rate in ((theirs[:2], rates[0]), (theirs[2:], rates[1])):
        for parameter in part:
            decay = rule.weight_decay if rule.decay_norms or parameter.ndim > 1 else 0.0
            groups.append({"params": [parameter], "rate": rate, "weight_decay": decay})
    expected = reference(rule, groups)
    for number in range(steps):
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in ours)
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            absent = place == 3 or (place == 2 and number < 2)
            one.grad = None if absent else torch.randn(one.shape, generator=rng)
            other.grad = None if one.grad is None else one.grad.clone()
        rate, momentum = 0.1 / (1 + number), momenta[number % len(momenta)]
        for group in expected.param_groups:
            group["lr"] = rate * group["rate"]
            group.update({"betas": (momentum, group["betas"][1])} if "betas" in group else {"momentum": momentum})
        optimizer.step(rate, momentum)
        expected.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    for kind, known in optimizer.memory.items():
        found = [expected.state[other].get(KINDS[kind]) for other in theirs]
        assert [one in known for one in ours] == [tensor is not None for tensor in found]
        assert all(torch.equal(known[one], tensor) for one, tensor in zip(ours, found, strict=True) if one in known)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 5e-4])
@pytest.mark.parametrize("momenta", [[0.0], [0.9], [0.95, 0.85, 0.9]], ids=str)
def test_each_step_of_sgd_is_that_of_torch(nesterov: bool, decay: float, momenta: list[float]) -> None:
    if nesterov and not all(momenta):
        pytest.skip("torch refuses nesterov without momentum, as the recipe does")
    compare(sgd(nesterov, decay), (1.0, 1.0), momenta)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("momenta", [[0.9], [0.95, 0.85, 0.9]], ids=str)
def test_each_step_of_adamw_is_that_of_torch(decay: float, momenta: list[float]) -> None:
    compare(adamw(decay), (1.0, 1.0), momenta, steps=12)


@pytest.mark.parametrize("rule", [sgd(norms=False), adamw(norms=False), sgd(), adamw()], ids=str)
def test_rates_of_groups_and_vectors_without_decay_are_those_of_torchs_groups(rule: Rule) -> None:
    compare(rule, (0.25, 1.0), [0.9])


def test_vectors_do_not_decay_where_norms_do_not() -> None:
    for rule in (sgd(norms=False), adamw(norms=False)):
        vector, matrix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 3))
        for parameter in (vector, matrix):
            parameter.grad = torch.zeros_like(parameter)
        Optimizer(rule, [Group([vector, matrix])]).step(0.1, 0.9)
        assert vector.eq(1).all() and matrix.lt(1).all()


@pytest.mark.parametrize("rule", [sgd(), adamw()], ids=str)
def test_nothing_to_move_is_no_step(rule: Rule) -> None:
    Optimizer(rule, [Group([nn.Parameter(torch.zeros(2))]), Group([])]).step(0.1, 0.9)


@pytest.mark.parametrize("rule", [sgd(), adamw()], ids=str)
def test_what_is_remembered_goes_on_in_another_optimizer(rule: Rule) -> None:
    ours, again = pair(0)
    named = [dict(zip("abcd", parameters, strict=True)) for parameters in (ours, again)]
    first, second = (Optimizer(rule, [Group(parameters)]) for parameters in (ours, again))
    for number in range(4):
        if number == 2:
            state = first.state(named[0])
            second.load(
                named[1], {name: tensor.clone() for name, tensor in state.items()} | {"mean.gone": torch.ones(1)}
            )
            assert second.state(named[1]).keys() == state.keys()
            with torch.no_grad():
                for one, other in zip(ours, again, strict=True):
                    other.copy_(one)
        for one, other in zip(ours, again, strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(number))
            other.grad = one.grad.clone()
        first.step(0.1, 0.9)
        if number >= 2:
            second.step(0.1, 0.9)
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))


def test_a_training_process_imports_no_compiler() -> None:
    code = """
import sys, torch
import components.training.loop
from components.optimizers import OPTIMIZERS
from components.optimizers.parts.optimizer import Group, Optimizer
from tests.optimizers.test_optimizers import adamw, sgd
for rule in (sgd(), adamw()):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = Optimizer(rule, [Group([parameter])])
    (parameter**2).sum().backward()
    optimizer.step(0.1, 0.9)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
