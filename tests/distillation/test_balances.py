"""The rules beside the published ones: solved temperatures, weights by validation or fixed, labels, hits of a bound."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from components.data.batch import Batch
from components.distillation.b_mtard import BMtard
from components.distillation.ciard import Ciard
from components.distillation.mtard import Mtard
from components.distillation.parts.balance import Ceilings, Pair, matching_temperatures, share_below
from components.methods.parts.contract import Method
from components.numerics.losses import entropy
from components.wrappers.awp import Awp
from tests.parts.equations import WIDE, require_equal, rows, seeded, teacher, trained
from tests.parts.method_members import CEILINGS, MEMBERS, STUDENT_ATTACK, b_mtard, ciard, matched, mtard, smoothed
from tests.parts.plain_sums import Rows, mean, plain_cross_entropy, plain_kl, plain_softmax
from tests.training.test_training import new_run, recipe


def plain_entropy(logits: Rows, temperature: float) -> float:
    targets = [plain_softmax(z, temperature) for z in logits]
    return mean([-sum(p * math.log(p) for p in q if p > 0) for q in targets])


def plain_solved(cold: Rows, warm: Rows, low: float, high: float) -> float:
    """By steps of a hundredth of what is left, nine times: the temperature of the surer teacher."""
    wanted, begin, end = plain_entropy(warm, low), low, high
    for _ in range(9):
        width = (end - begin) / 100
        begin = max(
            [begin, *(begin + i * width for i in range(101) if plain_entropy(cold, begin + i * width) < wanted)]
        )
        end = min(begin + width, high)
    return begin


def logits(scale: float, seed: int, count: int = 7) -> Tensor:
    return scale * torch.randn(count, 5, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("low", [0.2, 1.0])
def test_the_surer_teacher_is_heated_until_both_entropies_are_equal(low, swapped):
    warm, cold = logits(1.0, 1), logits(4.0, 2)
    pair = Pair(cold, warm) if swapped else Pair(warm, cold)
    found = matching_temperatures(pair, low, 10.0)
    heated, other = (found.robust, found.clean) if swapped else (found.clean, found.robust)
    assert float(other) == low
    assert float(heated) == pytest.approx(plain_solved(cold.tolist(), warm.tolist(), low, 10.0), abs=1e-7)
    assert low < float(heated) < 10
    means = [float(entropy(z / t).mean()) for z, t in zip(pair, found, strict=True)]
    assert means[0] == pytest.approx(means[1], abs=1e-8)


def test_where_the_largest_temperature_is_not_enough_it_is_taken():
    warm, cold = logits(0.01, 1), logits(4.0, 2)
    assert [float(t) for t in matching_temperatures(Pair(warm, cold), 1.0, 3.0)] == [1.0, 3.0]
    assert [float(t) for t in matching_temperatures(Pair(cold, warm), 1.0, 3.0)] == [3.0, 1.0]


@pytest.mark.parametrize("pair", [Pair(logits(1.0, 3), logits(1.0, 3)), Pair(logits(0.0, 3), logits(0.0, 4))])
def test_teachers_that_are_equally_sure_stay_as_they_are(pair):
    assert [float(t) for t in matching_temperatures(pair, 0.5, 10.0)] == [0.5, 0.5]


def test_very_sure_teachers_have_finite_temperatures():
    found = matching_temperatures(Pair(logits(1.0, 1).float(), logits(1e6, 2).float()), 1.0, 10.0)
    assert [float(t) for t in found] == [1.0, 10.0]


TWO: dict[str, Any] = {
    "attack": STUDENT_ATTACK,
    "reduction": "batch_mean",
    "balance_milestones": (),
    "balance_decay": 1.0,
}
HOT: dict[str, Any] = {
    **TWO,
    "weight_step": 0.3,
    "temperature_step": 0.1,
    "temperature_min": 0.5,
    "temperature_max": 9.0,
}


def distilled(model, robust, clean, batch, images_adv, taus) -> list[float]:
    """Both divergences in plain sums."""
    sides = ((robust, images_adv, taus[0]), (clean, batch.images, taus[1]))
    return [
        mean([plain_kl(plain_softmax(q, t), z) for q, z in zip(rows(net, at), rows(model, at), strict=True)])
        for net, at, t in sides
    ]


@pytest.mark.parametrize("label_weight", [0.0, 0.3])
def test_the_solved_rule_with_labels_equals_its_equation(label_weight, images, labels):
    """The temperatures are used in the step in which they are found, and are constants to the gradient."""
    batch, (model, weight), robust, clean = Batch.of(images.double(), labels), trained(1), teacher(2), teacher(3)
    fields = {**HOT, "temperature_rule": "solve", "label_weight": label_weight}
    method = BMtard(**fields).build(clean, robust).double()

    images_adv = method.craft(model, batch, WIDE, seeded())  # pyright: ignore[reportCallIssue]
    taus = [float(t) for t in matching_temperatures(Pair(robust(images_adv), clean(batch.images)), 0.5, 9.0)]
    assert 0.5 in taus and 0.5 < max(taus) < 9

    def plain(images_adv: Tensor) -> float:
        losses = distilled(model, robust, clean, batch, images_adv, taus)
        hard = mean([plain_cross_entropy(z, y) for z, y in zip(rows(model, images_adv), labels.tolist(), strict=True)])
        return (1 - label_weight) * (losses[0] + losses[1]) / 2 + label_weight * hard

    require_equal(method, model, batch, plain, [weight])


@pytest.mark.parametrize("rule", ["fixed", "validation"])
def test_other_rules_of_the_weights_keep_them_over_an_epoch(rule, images, labels):
    batch, (model, _), robust, clean = Batch.of(images.double(), labels), trained(1), teacher(2), teacher(3)
    method = BMtard(**{**HOT, "weight_rule": rule, "robust_weight": 0.7}).build(clean, robust, CEILINGS).double()
    for _ in range(3):
        loss = method.loss(model, batch, WIDE, seeded())
        parts = {name: float(value) for name, value in loss.parts.items()}
        assert (parts["weight_robust"], parts["weight_clean"]) == pytest.approx((0.7, 0.3))
        total = 0.7 * parts["loss_robust"] + 0.3 * parts["loss_clean"]
        assert float(loss.total.detach()) == pytest.approx(total)


def weights_of(method: Method) -> tuple[float, float]:
    robust, clean = next(b for n, b in method.named_buffers() if n.endswith("weights.current")).tolist()
    return robust, clean


@pytest.mark.parametrize("make", [b_mtard, mtard, ciard])
@pytest.mark.parametrize(("step", "wanted"), [(1.0, 0.6), (0.25, 0.525), (0.0, 0.5)])
def test_validation_gives_more_to_the_side_that_is_further_below_its_teacher(make, step, wanted):
    """Teachers at 0.6 and 0.9: a student at 0.42 and 0.72 misses 0.3 and 0.2 of them."""
    method = make(weight_rule="validation", validation_step=step)
    method.end_validation({"robust_accuracy": 0.42, "clean_accuracy": 0.72, "mean_accuracy": 0.57})
    assert weights_of(method) == pytest.approx((wanted, 1 - wanted), abs=1e-6)
    before = weights_of(method)
    method.end_validation({"robust_accuracy": 0.6, "clean_accuracy": 0.95})
    assert weights_of(method) == before  # nothing is missing


@pytest.mark.parametrize(
    ("reached", "share"),
    [((0.3, 0.9), 1.0), ((0.7, 0.45), 0.0), ((0.3, 0.45), 0.5), ((0.6, 0.9), None), ((0.9, 1.0), None)],
)
def test_what_is_missing_is_counted_from_each_ceiling(reached, share):
    assert share_below(Ceilings(*reached), Ceilings(robust=0.6, clean=0.9)) == pytest.approx(share)


def test_a_teacher_that_is_never_right_is_no_ceiling():
    assert share_below(Ceilings(robust=0.0, clean=0.5), Ceilings(robust=0.0, clean=0.9)) == 0.0


@pytest.mark.parametrize("rule", ["loss", "fixed"])
def test_other_rules_do_not_hear_of_the_validation(rule):
    method = b_mtard(weight_rule=rule)
    method.end_validation({"robust_accuracy": 0.1, "clean_accuracy": 0.9})
    assert weights_of(method) == (0.5, 0.5)


@pytest.mark.parametrize(
    "around",
    [
        lambda method: method,
        Awp(gamma=0.01, start=0).build,
        lambda method: smoothed(Awp(gamma=0.01, start=0).build(method)),
    ],
)
def test_wrappers_hand_the_validation_on(around):
    method = mtard(weight_rule="validation")
    around(method).end_validation({"robust_accuracy": 0.1, "clean_accuracy": 0.9})
    assert weights_of(method)[0] > 0.6
    MEMBERS["standard"]().end_validation({})


def test_igdm_hands_the_validation_on():
    method = matched("b_mtard")
    inner = method.get_submodule("method")
    heard = []
    inner.__dict__["end_validation"] = heard.append
    method.end_validation({"robust_accuracy": 0.1})
    assert heard == [{"robust_accuracy": 0.1}]


def test_the_loop_tells_a_method_what_was_measured_after_each_epoch(linf, tmp_path):
    """Before the first epoch too; the weights of an epoch follow from the record of the epoch before."""
    method = mtard(weight_rule="validation", validation_step=0.5)
    records = list(new_run(method, linf, tmp_path, recipe())[1])
    robust = 0.5
    for before, after in pairwise(records):
        share = share_below(Ceilings(before["robust_accuracy"], before["clean_accuracy"]), CEILINGS)
        robust = robust if share is None else (robust + share) / 2
        assert after["weight_robust"] == pytest.approx(robust, abs=1e-6)
    assert len({record.get("weight_robust") for record in records}) > 2


def test_hits_of_a_bound_are_shares_of_an_epoch_s_steps(linf, tmp_path):
    """Steps of 0.4 in [1, 2]: the surer teacher is heated to the bound in three, and is there from the fourth on."""
    method = b_mtard(temperature_step=0.4, temperature_max=2.0, balance_milestones=())
    with torch.no_grad():
        method.get_parameter("clean_teacher.network.head.weight").mul_(200)
    records = list(new_run(method, linf, tmp_path, recipe())[1])
    hits = [{name: row[name] for name in row if "temperature_at" in name} for row in records[1:]]
    assert hits[0] == pytest.approx(
        {
            "temperature_at_min_robust": 1,
            "temperature_at_min_clean": 1 / 5,
            "temperature_at_max_robust": 0,
            "temperature_at_max_clean": 2 / 5,
        }
    )
    assert {row["temperature_at_max_clean"] for row in hits[1:]} == {1.0}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (BMtard, {"temperature_rule": "jump"}, "'step' or 'solve'"),
        (BMtard, {"weight_rule": "none"}, "'loss', 'validation' or 'fixed'"),
        (BMtard, {"origin_batches": 0}, "greater than or equal to 1"),
        (BMtard, {"label_weight": 1.5}, "less than or equal to 1"),
        (BMtard, {"temperature_max": 0.4}, "want min <= max"),
        (Mtard, {"exponent": 0.0}, "greater than 0"),
    ],
)
def test_fields_are_checked(kind, changes, message):
    fields = HOT if kind is BMtard else {name: value for name, value in HOT.items() if "temperature" not in name}
    with pytest.raises(ValueError, match=message):
        kind(**{**fields, **changes})


def test_ciard_checks_its_range_too():
    with pytest.raises(ValueError, match="want min <= max"):
        ciard(temperature_max=0.5)
    assert Ciard.__dataclass_fields__["weight_rule"].default == "fixed"
