"""MTARD against twenty steps by hand, and against its equation, gradients too, in float64."""

from typing import Any

import pytest
from torch import Tensor

from components.data.batch import Batch
from components.distillation.mtard import Mtard
from tests.distillation.test_b_mtard import ATTACK, DECAYS, linear, traced
from tests.parts.equations import require_equal, rows, teacher, trained
from tests.parts.plain_balance import PlainBalance
from tests.parts.plain_sums import mean, plain_kl, plain_softmax

FIELDS: dict[str, Any] = {
    "attack": ATTACK,
    "reduction": "batch_mean",
    "weight_step": 0.025,
    "balance_milestones": (2, 5),
    "balance_decay": 0.1,
}


@pytest.mark.parametrize(("reduction", "divide_by"), [("batch_mean", 1), ("class_mean", 3)])
@pytest.mark.parametrize("exponent", [1.0, 2.5])
def test_twenty_steps_by_hand(reduction, divide_by, exponent, images, labels):
    """w_c ← w_c - η (w_c - l̂_c^β / (l̂_r^β + l̂_c^β)) and w_r = 1 - w_c, without temperatures; a step has its own."""
    fields, teachers = {**FIELDS, "reduction": reduction, "exponent": exponent}, (linear(8.0, 1), linear(2.0, 2))
    method = Mtard(**fields).build(*teachers).double()
    # B-MTARD's balance without a step of the temperatures.
    balance, w_clean = PlainBalance(eta_temperature=0.0, exponent=exponent), 0.5
    steps = zip(DECAYS, traced(method, teachers, balance, divide_by, images, labels), strict=True)
    for decay, (parts, plain) in steps:
        assert (plain.pop("temperature_robust"), plain.pop("temperature_clean")) == (1, 1)
        plain = {name: value for name, value in plain.items() if "temperature" not in name}
        assert {name: parts[name] for name in plain} == pytest.approx(plain, rel=1e-6)
        robust, clean = (parts[f"relative_loss_{side}"] ** exponent for side in ("robust", "clean"))
        w_clean -= 0.025 * decay * (w_clean - clean / (robust + clean))
        assert (parts["weight_robust"], parts["weight_clean"]) == pytest.approx((1 - w_clean, w_clean), rel=1e-6)
        assert not any("temperature" in name for name in parts)
    assert abs(w_clean - 0.5) > 1e-3


def test_it_equals_its_equation(images, labels):
    batch, (model, weight), robust, clean = Batch.of(images.double(), labels), trained(1), teacher(2), teacher(3)
    method = Mtard(**FIELDS).build(clean, robust).double()

    def plain(images_adv: Tensor) -> float:
        sides = ((robust, images_adv), (clean, batch.images))
        losses = [
            mean([plain_kl(plain_softmax(q), z) for q, z in zip(rows(net, at), rows(model, at), strict=True)])
            for net, at in sides
        ]
        return (losses[0] + losses[1]) / 2  # at the first step both sides are where they began

    require_equal(method, model, batch, plain, [weight])
