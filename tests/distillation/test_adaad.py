"""AdaAD against its equation, gradients too, in float64; and which images it looks at."""

import pytest
from torch import Tensor

from components.data.batch import Batch
from components.distillation.adaad import AdaAd
from components.numerics.cost import PassCounter
from tests.parts.equations import crafted, objective_of, require_equal, rows, teacher, trained
from tests.parts.method_members import taught_attack
from tests.parts.plain_sums import mean, plain_kl, plain_softmax

ATTACK = taught_attack("kl_teacher")


@pytest.mark.parametrize(("reduction", "divide_by"), [("batch_mean", 1), ("class_mean", 3)])
@pytest.mark.parametrize("adversarial", [1.0, 0.7])
def test_it_equals_its_equation(adversarial, reduction, divide_by, images, labels):
    batch, (model, weight), advising = Batch.of(images.double(), labels), trained(1), teacher(2)
    fields = AdaAd(attack=ATTACK, adversarial_weight=adversarial, reduction=reduction)

    def divergence(seen: Tensor) -> float:
        pairs = zip(rows(advising, seen), rows(model, seen), strict=True)
        return mean([plain_kl(plain_softmax(q), z) for q, z in pairs]) / divide_by

    def plain(images_adv: Tensor) -> float:
        return adversarial * divergence(images_adv) + (1 - adversarial) * divergence(batch.images)

    require_equal(fields.build(advising), model, batch, plain, [weight])


@pytest.mark.parametrize(
    ("adversarial", "clean", "student", "asked"),
    [(1.0, "weighted", 1, 1), (1.0, "always", 2, 1), (0.5, "weighted", 2, 2), (0.5, "always", 2, 2)],
)
def test_clean_images_are_looked_at_where_they_have_a_weight_or_always(
    adversarial, clean, student, asked, images, labels
):
    (model, _), advising, batch = trained(1), teacher(2), Batch.of(images.double(), labels)
    fields = AdaAd(attack=ATTACK, adversarial_weight=adversarial, reduction="batch_mean", clean_passes=clean)
    method = fields.build(advising)
    images_adv, counters = crafted(method, model, batch), [PassCounter(network) for network in (model, advising)]
    loss = objective_of(method, model, batch, images_adv)
    assert [counter.take()["forward"] for counter in counters] == [student * len(images), asked * len(images)]
    assert ("train_accuracy" in loss.parts) == (student == 2) and ("loss_clean" in loss.parts) == (asked == 2)
