"""All students of two balanced teachers: steps whose temperatures move up and down again, and gradients that balances
which have moved decide."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.b_mtard import BMtard
from components.distillation.ciard import Ciard
from components.distillation.mtard import Mtard
from components.distillation.parts.balance import Pair, matching_temperatures
from tests.distillation.test_b_mtard import FIELDS, linear, traced
from tests.parts.equations import WIDE, crafted, require_equal, rows, seeded, teacher, trained
from tests.parts.method_members import CEILINGS, STUDENT_ATTACK
from tests.parts.plain_balance import PlainBalance
from tests.parts.plain_sums import mean, plain_cross_entropy, plain_kl, plain_softmax

WEIGHED = {name: value for name, value in FIELDS.items() if "temperature" not in name}
# What is left of CIARD without its push and with a robust teacher that stays as it is.
BARE: dict[str, Any] = {
    "push_temperature": 5.0,
    "push_weight": 0.0,
    "teacher_learning_rate": 0.0,
    "teacher_momentum": 0.1,
    "teacher_weight_decay": 2e-4,
    "teacher_start": 0,
    "epochs": 6,
}
HIGH = 1.0085


@pytest.mark.parametrize(
    ("fields", "balance"),
    [
        (BMtard(**{**FIELDS, "temperature_max": HIGH}), {}),
        (Ciard(**{**FIELDS, **BARE, "temperature_max": HIGH, "weight_rule": "loss", "weight_sum": 3.0}), {}),
        (Mtard(**WEIGHED), {"eta_temperature": 0.0}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_twenty_steps_by_hand_with_a_robust_teacher_that_is_the_surer_at_first(fields, balance, images, labels):
    """Its temperature moves up from the smallest to the largest, and down again while the clean one's moves up, across
    both milestones."""
    teachers = linear(2.0, 2), linear(8.0, 1)
    method, factor = fields.build(*teachers).double(), getattr(fields, "weight_sum", 1)
    steps = list(traced(method, teachers, PlainBalance(high=HIGH, **balance), 1, images, labels, turn=10))
    heated = not isinstance(fields, Mtard)
    for parts, plain in steps:
        plain = {name: value for name, value in plain.items() if heated or "temperature" not in name}
        plain["total"] *= factor
        assert {name: parts[name] for name in plain} == pytest.approx(plain, rel=1e-6)
    weights = [parts["weight_robust"] for parts, _ in steps]
    assert len(set(weights)) == 20
    if heated:
        robust, clean = ([parts[f"temperature_{side}"] for parts, _ in steps] for side in ("robust", "clean"))
        up, down = [1 + 1e-3 * step for step in range(9)], [1.0075, 1.0065, 1.0064, 1.0063, 1.0062, 1.0061]
        later = [1.001, 1.002, 1.0021, 1.0022, 1.0023, 1.0024, 1.00241, 1.00242, 1.00243]
        assert robust == pytest.approx([*up, HIGH, HIGH, *down, 1.00609, 1.00608, 1.00607], abs=1e-9)
        assert clean == pytest.approx([1.0] * 11 + later, abs=1e-9)
        at_bounds = [(parts["temperature_at_min_robust"], parts["temperature_at_max_robust"]) for parts, _ in steps]
        assert at_bounds == [(1, 0)] + [(0, 0)] * 8 + [(0, 1)] * 2 + [(0, 0)] * 9


class Moved(NamedTuple):
    """Fields of a member, what the plain balance of the same rules begins with, and the share of the labels."""

    fields: Any
    balance: dict[str, Any]
    label_weight: float = 0.0


def b_mtard(**changes: Any) -> BMtard:
    return BMtard(**{**MOVING, **HOT, **changes})


def ciard(**changes: Any) -> Ciard:
    return Ciard(**{**MOVING, **HOT, **BARE, "weight_sum": 3.0, **changes})


MOVING: dict[str, Any] = {
    "attack": STUDENT_ATTACK,
    "reduction": "batch_mean",
    "weight_step": 0.0625,
    "robust_weight": 0.75,
    "balance_milestones": (),
    "balance_decay": 1.0,
}
HOT: dict[str, Any] = {"temperature_step": 0.25, "temperature_min": 1.5, "temperature_max": 9.0}
# Each rule with its own numbers, which are exact in float32, as the buffers are made.
STEP = {"eta_temperature": 0.25, "eta_weight": 0.0625, "low": 1.5, "high": 9.0, "weights": [0.75, 0.25]}
STAYS = {"eta_weight": 0.0}
LED = {"eta_weight": 0.0, "weights": [0.6, 0.4]}
COOL = {"eta_temperature": 0.0, "low": 1.0, "high": 1.0}
SOLVED = {"eta_temperature": 0.0, "low": 0.625, "high": 9.0}
CASES: dict[str, Moved] = {
    "b_mtard": Moved(b_mtard(), STEP),
    "b_mtard class_mean": Moved(b_mtard(reduction="class_mean"), STEP),
    "b_mtard labels": Moved(b_mtard(label_weight=0.5), STEP, 0.5),
    "b_mtard fixed": Moved(b_mtard(weight_rule="fixed"), STEP | STAYS),
    "b_mtard validation": Moved(b_mtard(weight_rule="validation", validation_step=1.0), STEP | LED),
    "b_mtard solve": Moved(b_mtard(temperature_rule="solve", temperature_min=0.625), STEP | SOLVED),
    "b_mtard solve fixed labels": Moved(
        b_mtard(temperature_rule="solve", temperature_min=0.625, weight_rule="fixed", label_weight=0.25),
        STEP | SOLVED | STAYS,
        0.25,
    ),
    "mtard": Moved(Mtard(**MOVING), STEP | COOL),
    "mtard exponent": Moved(Mtard(**MOVING, exponent=2.5), STEP | COOL | {"exponent": 2.5}),
    "mtard fixed labels": Moved(Mtard(**MOVING, weight_rule="fixed", label_weight=0.25), STEP | COOL | STAYS, 0.25),
    "mtard validation": Moved(Mtard(**MOVING, weight_rule="validation", validation_step=1.0), STEP | COOL | LED),
    "ciard": Moved(ciard(weight_rule="loss", label_weight=0.25), STEP, 0.25),
    "ciard fixed": Moved(ciard(), STEP | STAYS),
    "ciard solve": Moved(ciard(temperature_rule="solve", temperature_min=0.625, weight_rule="loss"), STEP | SOLVED),
    "ciard validation": Moved(ciard(weight_rule="validation", validation_step=1.0), STEP | LED),
}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_late_step_equals_its_equation(name, swapped, images, labels):
    """The loss and its gradient, after five steps, by temperatures that are not 1 and weights that are not a half."""
    fields, begun, label_weight = CASES[name]
    batch, (model, weight), balance = Batch.of(images.double(), labels), trained(1), PlainBalance(**begun)
    robust, clean = [teacher(3), teacher(2)][:: 1 if swapped else -1]
    method, divide_by = fields.build(clean, robust, CEILINGS).double(), 3 if fields.reduction == "class_mean" else 1
    # The robust side misses 0.3 of its teacher, the clean one 0.2.
    method.end_validation({"robust_accuracy": 0.42, "clean_accuracy": 0.72})

    def sides(images_adv: Tensor) -> tuple[tuple[nn.Module, Tensor], ...]:
        return (robust, images_adv), (clean, batch.images)

    def balanced(images_adv: Tensor) -> dict[str, float]:
        asked, answered = zip(*((rows(net, at), rows(model, at)) for net, at in sides(images_adv)), strict=True)
        if getattr(fields, "temperature_rule", "") == "solve":
            # Which have a test of their own, to 1e-7.
            solved = matching_temperatures(Pair(robust(images_adv), clean(batch.images)), balance.low, balance.high)
            balance.taus = [float(tau) for tau in solved]
        return balance.step(asked, answered, 1.0, divide_by)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(5):
        balanced(crafted(method, model, batch))
        optimizer.zero_grad()
        method.loss(model, batch, WIDE, seeded()).total.backward()
        optimizer.step()
    used = balanced(crafted(method, model, batch))
    taus, weights = ([used[f"{kind}_{side}"] for side in ("robust", "clean")] for kind in ("temperature", "weight"))
    assert abs(weights[0] - 0.5) > 0.05 and ("mtard" in name[:5] or all(abs(tau - 1) > 0.1 for tau in taus))

    def plain(images_adv: Tensor) -> float:
        losses = [
            mean([plain_kl(plain_softmax(q, tau), z) for q, z in zip(rows(net, at), rows(model, at), strict=True)])
            for (net, at), tau in zip(sides(images_adv), taus, strict=True)
        ]
        hard = mean([plain_cross_entropy(z, y) for z, y in zip(rows(model, images_adv), labels.tolist(), strict=True)])
        taught = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / divide_by
        return (1 - label_weight) * getattr(fields, "weight_sum", 1) * taught + label_weight * hard

    require_equal(method, model, batch, plain, [weight])
