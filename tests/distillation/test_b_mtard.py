"""B-MTARD against twenty steps by hand, and the invariants of its two balances."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.b_mtard import BMtard
from components.distillation.parts.balance import Pair, balance_entropy, balance_loss
from components.distillation.parts.inner_attack import InnerAttack
from components.foundation.params import Ratio
from components.methods.parts.contract import Method
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from tests.parts.equations import rows, seeded
from tests.parts.plain_balance import PlainBalance

ATTACK = InnerAttack(steps=2, step_size=Ratio(4, 255), start="gaussian", loss="cross_entropy")
LINF = Threat(norm=Linf(), epsilon=Ratio(8, 255))
FIELDS: dict[str, Any] = {
    "attack": ATTACK,
    "reduction": "batch_mean",
    "temperature_step": 1e-3,
    "temperature_min": 1.0,
    "temperature_max": 10.0,
    "weight_step": 0.025,
    "balance_milestones": (2, 5),
    "balance_decay": 0.1,
}
# Of twenty steps, across both milestones, and what is left of the step sizes.
EPOCHS = [0] * 6 + [1] * 6 + [2] * 2 + [4] * 2 + [5] * 4
DECAYS = [1.0] * 12 + [0.1] * 4 + [0.01] * 4


def linear(scale: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    head = nn.Linear(64, 3).double()
    with torch.no_grad():
        head.weight.mul_(scale)
    return nn.Sequential(nn.Flatten(), head).eval().requires_grad_(False)


def traced(
    method: Method,
    teachers: tuple[nn.Module, nn.Module],
    balance: PlainBalance,
    divide_by: int,
    images: Tensor,
    labels: Tensor,
    turn: int | None = None,
):
    """The parts of twenty steps of training, each with what the plain balance says of the same logits. The clean one of
    both teachers, which comes first, is by far the surer from step `turn` on."""
    torch.manual_seed(9)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    clean_teacher, robust_teacher = teachers
    batch, optimizer = Batch.of(images.double(), labels), torch.optim.SGD(student.parameters(), lr=0.5)
    for step, (epoch, decay) in enumerate(zip(EPOCHS, DECAYS, strict=True)):
        if step == turn:
            clean_teacher.get_parameter("1.weight").mul_(16)
        method.begin_epoch(epoch)
        images_adv = ATTACK(student, batch, LINF, seeded(step), robust_teacher)
        loss = method.loss(student, batch, LINF, seeded(step))
        asked = rows(robust_teacher, images_adv), rows(clean_teacher, batch.images)
        answered = rows(student, images_adv), rows(student, batch.images)
        plain = balance.step(asked, answered, decay, divide_by)
        yield {name: float(value) for name, value in loss.parts.items()} | {"total": float(loss.total.detach())}, plain
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()


@pytest.mark.parametrize("high", [10.0, 1.0085])
@pytest.mark.parametrize(("reduction", "divide_by"), [("batch_mean", 1), ("class_mean", 3)])
def test_twenty_steps_by_hand(reduction, divide_by, high, images, labels):
    """Step by step in plain Python floats: temperatures, entropies, weights, relative losses and the total.

    The weights of a step are its own, its temperatures those of the step before. The robust teacher is at the lower
    bound all the time and pushed against it; the clean one is pushed against the upper bound where that is near.
    """
    fields, teachers = {**FIELDS, "reduction": reduction, "temperature_max": high}, (linear(8.0, 1), linear(2.0, 2))
    method = BMtard(**fields).build(*teachers).double()
    steps = list(traced(method, teachers, PlainBalance(high=high), divide_by, images, labels))
    for parts, plain in steps:
        assert {name: parts[name] for name in plain} == pytest.approx(plain, rel=1e-6)
    clean = [parts["temperature_clean"] for parts, _ in steps]
    heated = [1 + 1e-3 * step for step in range(13)] + [1.0121, 1.0122, 1.0123, 1.0124, 1.01241, 1.01242, 1.01243]
    assert clean == pytest.approx([min(tau, high) for tau in heated], abs=1e-9)
    assert [parts["temperature_at_max_clean"] for parts, _ in steps] == [0.0] * (9 if high < 2 else 20) + [1.0] * (
        11 if high < 2 else 0
    )
    assert all(parts["temperature_robust"] == parts["temperature_at_min_robust"] == 1 for parts, _ in steps)
    weights = [parts["weight_robust"] for parts, _ in steps]
    assert weights[0] == 0.5 and len(set(weights)) == 20


@pytest.mark.parametrize("origin", [3, 50])
def test_losses_are_held_against_the_mean_of_the_first_batches(origin, images, labels):
    """Until there are so many, against the mean of those that there are."""
    fields, teachers = {**FIELDS, "origin_batches": origin}, (linear(8.0, 1), linear(2.0, 2))
    method = BMtard(**fields).build(*teachers).double()
    for parts, plain in traced(method, teachers, PlainBalance(origin=origin), 1, images, labels):
        assert {name: parts[name] for name in plain} == pytest.approx(plain, rel=1e-6)


def test_gradient_is_that_of_the_weighted_sum_alone(images, labels, linf):
    """The balances are constants to the optimizer, and no gradient reaches a teacher."""
    clean_teacher, robust_teacher = linear(8.0, 1), linear(2.0, 2)
    method = BMtard(**FIELDS).build(clean_teacher, robust_teacher)
    head = nn.Linear(64, 3).double()
    student = nn.Sequential(nn.Flatten(), head)
    images = images.double()
    images_adv = ATTACK(student, Batch.of(images, labels), linf, torch.Generator().manual_seed(0), robust_teacher)
    loss = method.loss(student, Batch.of(images, labels), linf, torch.Generator().manual_seed(0))
    loss.total.backward()
    weights = {side: float(loss.parts[f"weight_{side}"]) for side in Pair._fields}
    expected = torch.zeros_like(head.weight)
    for side, inputs, teacher in (("robust", images_adv, robust_teacher), ("clean", images, clean_teacher)):
        # d KL(q ‖ softmax(z)) / dz = softmax(z) - q
        delta = (student(inputs).softmax(1) - teacher(inputs).softmax(1)) / len(images)
        expected += weights[side] * delta.T @ inputs.flatten(1)
    assert head.weight.grad is not None
    assert torch.allclose(head.weight.grad, expected.detach(), atol=1e-6)
    assert all(parameter.grad is None for model in (clean_teacher, robust_teacher) for parameter in model.parameters())


def test_temperatures_stay_inside_their_bounds():
    pair = Pair(torch.tensor(1.0), torch.tensor(9.9995))
    for _ in range(5):
        pair = balance_entropy(pair, Pair(torch.tensor(2.0), torch.tensor(1.0)), 1e-3, 1.0, 10.0)
    assert float(pair.robust) == 1.0 and float(pair.clean) == 10.0
    equal = Pair(torch.tensor(0.7), torch.tensor(0.7))
    assert balance_entropy(pair, equal, 1e-3, 1.0, 10.0) == pair


def test_weights_stay_a_convex_combination_and_favour_the_slower():
    weights = Pair(torch.tensor(0.5), torch.tensor(0.5))
    for _ in range(400):
        weights = balance_loss(weights, Pair(torch.tensor(0.9), torch.tensor(0.1)), 0.025)
        assert float(weights.robust + weights.clean) == pytest.approx(1, abs=1e-5)
    assert float(weights.robust) == pytest.approx(0.9, abs=1e-3)


def test_weights_stay_where_both_losses_are_zero():
    weights = Pair(torch.tensor(0.75), torch.tensor(0.25))
    assert balance_loss(weights, Pair(torch.tensor(0.0), torch.tensor(0.0)), 0.025) == weights
    assert float(balance_loss(weights, Pair(torch.tensor(0.0), torch.tensor(1.0)), 1.0).clean) == 1


def test_state_round_trip_continues_exactly(images, labels, linf):
    teachers = linear(8.0, 1).float(), linear(2.0, 2).float()
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    straight, stopped = (BMtard(**FIELDS).build(*teachers) for _ in range(2))
    for step in range(6):
        if step == 3:
            fresh = BMtard(**FIELDS).build(*teachers)
            fresh.load_state_dict(stopped.state_dict())
            stopped = fresh
        losses = [
            m.loss(student, Batch.of(images, labels), linf, torch.Generator().manual_seed(step))
            for m in (straight, stopped)
        ]
        assert torch.equal(losses[0].total, losses[1].total)
    states = straight.state_dict(), stopped.state_dict()
    assert (
        list(states[0])
        == list(states[1])
        == [
            "balances.weights.current",
            "balances.weights.first_losses",
            "balances.weights.counted",
            "balances.temperatures.current",
        ]
    )
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_fields_are_checked():
    with pytest.raises(ValueError, match="batch_mean"):
        BMtard(**{**FIELDS, "reduction": "none"})
    with pytest.raises(ValueError, match="want min <= max"):
        BMtard(**{**FIELDS, "temperature_min": 11.0})
