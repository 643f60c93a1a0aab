"""ARD against its equation, gradients too, in float64; and which images it looks at."""

import pytest
from torch import Tensor

from components.data.batch import Batch
from components.distillation.ard import Ard
from components.numerics.cost import PassCounter
from tests.parts.equations import WIDE, crafted, objective_of, require_equal, rows, seeded, teacher, trained
from tests.parts.method_members import STUDENT_ATTACK
from tests.parts.plain_sums import mean, plain_cross_entropy, plain_kl, plain_softmax


@pytest.mark.parametrize(("reduction", "divide_by"), [("batch_mean", 1), ("class_mean", 3)])
@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 30.0), (0.7, 3.0), (0.0, 1.0)])
def test_it_equals_its_equation(alpha, temperature, reduction, divide_by, images, labels):
    batch, (model, weight), advising = Batch.of(images.double(), labels), trained(1), teacher(2)
    fields = Ard(attack=STUDENT_ATTACK, alpha=alpha, temperature=temperature, reduction=reduction)
    target = [plain_softmax(z, temperature) for z in rows(advising, batch.images)]

    def plain(images_adv: Tensor) -> float:
        attacked = [[v / temperature for v in z] for z in rows(model, images_adv)]
        taught = mean([plain_kl(q, z) for q, z in zip(target, attacked, strict=True)]) / divide_by
        clean = zip(rows(model, batch.images), labels.tolist(), strict=True)
        return alpha * temperature**2 * taught + (1 - alpha) * mean([plain_cross_entropy(z, y) for z, y in clean])

    require_equal(fields.build(advising), model, batch, plain, [weight])


@pytest.mark.parametrize(("alpha", "passes"), [(1.0, 1), (0.5, 2)])
def test_clean_images_are_looked_at_where_they_have_a_weight(alpha, passes, images, labels):
    (model, _), batch = trained(1), Batch.of(images.double(), labels)
    method = Ard(attack=STUDENT_ATTACK, alpha=alpha, temperature=30.0, reduction="batch_mean").build(teacher(2))
    images_adv, counter = crafted(method, model, batch), PassCounter(model)
    loss = objective_of(method, model, batch, images_adv)
    assert counter.take()["forward"] == passes * len(images) and (loss.clean is None) == (passes == 1)
    assert ("train_accuracy" in loss.parts) == (passes == 2)
    assert method.loss(model, batch, WIDE, seeded()).total == loss.total
