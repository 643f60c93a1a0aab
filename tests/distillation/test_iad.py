"""IAD-I and IAD-II against their equations, gradients too, in float64, before and after the student asks itself."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from components.data.batch import Batch
from components.distillation.iad_1 import Iad1
from components.distillation.iad_2 import Iad2
from components.distillation.parts.introspection import trust
from components.foundation.errors import InputError
from components.numerics.cost import PassCounter
from tests.parts.equations import WIDE, crafted, objective_of, require_equal, rows, seeded, teacher, trained
from tests.parts.method_members import STUDENT_ATTACK
from tests.parts.plain_sums import Rows, mean, plain_cross_entropy, plain_kl, plain_softmax

EXPONENT, TEMPERATURE, BEGIN = 0.5, 2.0, 3
EPOCHS = pytest.mark.parametrize("epoch", [BEGIN - 1, BEGIN, BEGIN + 4])


SHARED: dict[str, Any] = {
    "attack": STUDENT_ATTACK,
    "temperature": TEMPERATURE,
    "exponent": EXPONENT,
    "begin_epoch": BEGIN,
}


def first(**changes: Any) -> Iad1:
    own: dict[str, Any] = {"alpha": 1.0, "weighted": "self"}
    return Iad1(**SHARED | own | changes)


def second(**changes: Any) -> Iad2:
    own: dict[str, Any] = {"clean_weight": 0.2, "robust_weight": 0.5}
    return Iad2(**SHARED | own | changes)


def softened(target: Rows, logits: Rows) -> list[float]:
    """T² · KL of each image."""
    divided = [[v / TEMPERATURE for v in z] for z in logits]
    pairs = zip(target, divided, strict=True)
    return [TEMPERATURE**2 * plain_kl(plain_softmax(q, TEMPERATURE), z) for q, z in pairs]


def own(clean: Rows, attacked: Rows) -> list[float]:
    return [plain_kl(plain_softmax(c), z) for c, z in zip(clean, attacked, strict=True)]


def trusts(target_adv: Rows, labels: list[int], asks: bool) -> list[float]:
    return [plain_softmax(q)[y] ** EXPONENT if asks else 1.0 for q, y in zip(target_adv, labels, strict=True)]


def labelled(logits: Rows, labels: list[int]) -> float:
    return mean([plain_cross_entropy(z, y) for z, y in zip(logits, labels, strict=True)])


@EPOCHS
@pytest.mark.parametrize("weighted", ["self", "both"])
@pytest.mark.parametrize("alpha", [1.0, 0.6])
def test_the_first_equals_its_equation(alpha, weighted, epoch, images, labels):
    batch, (model, weight), advising = Batch.of(images.double(), labels), trained(1), teacher(2)

    def plain(images_adv: Tensor) -> float:
        clean, attacked = rows(model, batch.images), rows(model, images_adv)
        a = trusts(rows(advising, images_adv), labels.tolist(), epoch >= BEGIN)
        taught = softened(rows(advising, batch.images), attacked)
        terms = [
            (trusted if weighted == "both" else 1) * t + (1 - trusted) * o
            for trusted, t, o in zip(a, taught, own(clean, attacked), strict=True)
        ]
        return alpha * mean(terms) + (1 - alpha) * labelled(clean, labels.tolist())

    method = first(alpha=alpha, weighted=weighted).build(advising)
    method.begin_epoch(epoch)
    require_equal(method, model, batch, plain, [weight])


@EPOCHS
def test_the_second_equals_its_equation(epoch, images, labels):
    batch, (model, weight), clean_one, robust = Batch.of(images.double(), labels), trained(1), teacher(2), teacher(3)

    def plain(images_adv: Tensor) -> float:
        clean, attacked = rows(model, batch.images), rows(model, images_adv)
        target = rows(robust, images_adv)
        a = trusts(target, labels.tolist(), epoch >= BEGIN)
        asked = zip(a, softened(target, attacked), own(clean, attacked), strict=True)
        robust_term = mean([trusted * t + TEMPERATURE**2 * (1 - trusted) * o for trusted, t, o in asked])
        clean_term = mean(softened(rows(clean_one, images_adv), attacked))
        return 0.3 * labelled(attacked, labels.tolist()) + 0.5 * robust_term + 0.2 * clean_term

    method = second().build(clean_one, robust)
    method.begin_epoch(epoch)
    require_equal(method, model, batch, plain, [weight])


@pytest.mark.parametrize(("epoch", "student", "advising"), [(0, 1, 1), (BEGIN, 2, 2)])
def test_clean_images_are_looked_at_once_the_student_asks_itself(epoch, student, advising, images, labels):
    """Of the first, with full weight for the teacher: then its teacher sees the attacked images too."""
    (model, _), network, batch = trained(1), teacher(2), Batch.of(images.double(), labels)
    method = first().build(network)
    method.begin_epoch(epoch)
    images_adv, counters = crafted(method, model, batch), [PassCounter(model), PassCounter(network)]
    loss = objective_of(method, model, batch, images_adv)
    assert [one.take()["forward"] for one in counters] == [student * len(images), advising * len(images)]
    assert float(loss.parts["loss_own"]) > 0 if epoch else float(loss.parts["loss_own"]) == 0


def test_clean_images_may_be_looked_at_always(images, labels):
    """Before the student asks itself, as published: for batch norm's statistics alone."""
    (model, _), batch, found = trained(1), Batch.of(images.double(), labels), []
    for passes, looks in (("weighted", 1), ("always", 2)):
        method = replace(first(), clean_passes=passes).build(teacher(2))
        images_adv, counter = crafted(method, model, batch), PassCounter(model)
        found.append(objective_of(method, model, batch, images_adv).total)
        assert counter.take()["forward"] == looks * len(images)
        found[-1].backward()
        assert counter.take()["backward"] == len(images)
    assert torch.equal(*found)


def test_a_curve_has_the_same_columns_in_every_epoch(images, labels):
    (model, _), batch = trained(1), Batch.of(images.double(), labels)
    for method in (
        first().build(teacher(2)),
        first(alpha=0.5).build(teacher(2)),
        second().build(teacher(2), teacher(3)),
    ):
        columns = []
        for epoch in (0, BEGIN):
            method.begin_epoch(epoch)
            columns.append(list(method.loss(model, batch, WIDE, seeded()).parts))
        assert columns[0] == columns[1]


def test_trust_keeps_its_digits_at_both_ends():
    logits = torch.tensor([[0.0, -12.0, -13.0], [-90.0, 0.0, 0.0]])
    in_teacher, in_student = trust(logits, torch.tensor([0, 0]), 1.0)
    rest = math.exp(-12) + math.exp(-13)
    assert in_student.tolist() == pytest.approx([rest / (1 + rest), 1], rel=1e-6, abs=0)
    assert in_teacher.tolist() == pytest.approx([1 / (1 + rest), math.exp(-90) / 2], rel=1e-4, abs=0)
    assert trust(logits, torch.tensor([1, 0]), 0.0).student.tolist() == [0, 0]


def test_mixed_labels_and_weights_above_one_are_refused(images, labels):
    (model, _), mixed = trained(1), Batch.of(images.double(), torch.eye(3).double()[labels])
    for method in (first().build(teacher(2)), second().build(teacher(2), teacher(3))):
        with pytest.raises(
            InputError, match=r"^recipe.augmentation.cutmix: iad_. needs one class for each image, want 0$"
        ):
            method.loss(model, mixed, WIDE, seeded())
    with pytest.raises(ValueError, match=r"got weights 0.6 and 0.5, want them at most 1 in sum"):
        second(clean_weight=0.6)
    with pytest.raises(ValueError, match=r"robust_weight\n.*greater than or equal to 0"):
        second(robust_weight=-0.1)
