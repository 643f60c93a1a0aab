"""B-MTARD against ten steps by hand, and the invariants of its two balances."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from components.data.batch import Batch
from components.distillation.b_mtard import BMtard
from components.distillation.parts.balance import Pair, balance_entropy, balance_loss
from components.distillation.parts.inner_attack import InnerAttack
from components.foundation.params import Ratio

ATTACK = InnerAttack(steps=2, step_size=Ratio(4, 255), start="gaussian", loss="cross_entropy")
FIELDS: dict[str, Any] = {
    "attack": ATTACK,
    "reduction": "batch_mean",
    "temperature_step": 1e-3,
    "temperature_min": 1.0,
    "temperature_max": 10.0,
    "weight_step": 0.025,
    "balance_milestones": (2,),
    "balance_decay": 0.1,
}


def linear(scale: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    head = nn.Linear(64, 3).double()
    with torch.no_grad():
        head.weight.mul_(scale)
    return nn.Sequential(nn.Flatten(), head).eval().requires_grad_(False)


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [p / sum(powers) for p in powers]


def mean_kl(targets: list[list[float]], logits: list[list[float]], divide_by: int) -> float:
    total = 0.0
    for q, z in zip(targets, logits, strict=True):
        p = softmax(z, 1.0)
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True))
    return total / divide_by


@pytest.mark.parametrize("reduction", ["batch_mean", "class_mean"])
def test_ten_steps_by_hand(reduction, images, labels, linf):
    """Facts §4.1, step by step in plain Python floats: temperatures, weights, relative losses and the total."""
    clean_teacher, robust_teacher = linear(8.0, 1), linear(2.0, 2)
    method = BMtard(**{**FIELDS, "reduction": reduction}).build(clean_teacher, robust_teacher)
    torch.manual_seed(9)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    images = images.double()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    tau_r = tau_c = 1.0
    w_r = w_c = 0.5
    first = None
    for step in range(10):
        eta = 0.1 if step >= 6 else 1.0
        method.begin_epoch(2 if step >= 6 else 0)
        images_adv = ATTACK(
            student, Batch.of(images, labels), linf, torch.Generator().manual_seed(step), robust_teacher
        )
        loss = method.loss(student, Batch.of(images, labels), linf, torch.Generator().manual_seed(step))

        q_r = [softmax(z, tau_r) for z in robust_teacher(images_adv).tolist()]
        q_c = [softmax(z, tau_c) for z in clean_teacher(images).tolist()]
        count = len(labels) * (3 if reduction == "class_mean" else 1)
        loss_r = mean_kl(q_r, student(images_adv).tolist(), count)
        loss_c = mean_kl(q_c, student(images).tolist(), count)
        h_r, h_c = (sum(-sum(p * math.log(p) for p in row) for row in q) / len(q) for q in (q_r, q_c))
        used = (tau_r, tau_c)
        tau_r = min(max(tau_r - eta * 1e-3 * math.copysign(1, h_r / h_c - 1), 1.0), 10.0)
        tau_c = min(max(tau_c - eta * 1e-3 * math.copysign(1, h_c / h_r - 1), 1.0), 10.0)
        first = first or (loss_r, loss_c)
        relative = (loss_r / first[0], loss_c / first[1])
        # As published: relative to their mean, then a step towards the share, then clipped and renormalised.
        share = [value / (sum(relative) / 2) for value in relative]
        w_r, w_c = (w - eta * 0.025 * (w - r / sum(share)) for w, r in zip((w_r, w_c), share, strict=True))
        w_r, w_c = max(w_r, 0) / (max(w_r, 0) + max(w_c, 0)), max(w_c, 0) / (max(w_r, 0) + max(w_c, 0))

        parts = {name: float(value) for name, value in loss.parts.items()}
        assert float(loss.total.detach()) == pytest.approx(w_r * loss_r + w_c * loss_c, rel=1e-6)
        assert (parts["temperature_robust"], parts["temperature_clean"]) == pytest.approx(used, rel=1e-6)
        assert (parts["entropy_robust"], parts["entropy_clean"]) == pytest.approx((h_r, h_c), rel=1e-6)
        assert (parts["weight_robust"], parts["weight_clean"]) == pytest.approx((w_r, w_c), rel=1e-6)
        assert (parts["relative_loss_robust"], parts["relative_loss_clean"]) == pytest.approx(relative, rel=1e-5)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert tau_c > 1.006 and tau_r == 1.0  # the surer teacher was heated, the other stayed at the bound


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
    assert list(states[0]) == list(states[1]) == ["temperatures", "weights", "first_losses"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_fields_are_checked():
    with pytest.raises(ValueError, match="batch_mean"):
        BMtard(**{**FIELDS, "reduction": "none"})
    with pytest.raises(ValueError, match="want min <= max"):
        BMtard(**{**FIELDS, "temperature_min": 11.0})
