"""ARD against its equation, gradients too, in float64; and which images it looks at."""

from dataclasses import replace

import pytest
from torch import Tensor

from components.data.batch import Batch
from components.distillation.ard import Ard
from components.numerics.cost import PassCounter
from tests.parts.equations import crafted, objective_of, require_equal, rows, teacher, trained
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


@pytest.mark.parametrize(
    ("alpha", "clean", "passes"), [(1.0, "weighted", 1), (1.0, "always", 2), (0.5, "weighted", 2), (0.5, "always", 2)]
)
def test_clean_images_are_looked_at_where_they_have_a_weight_or_always(alpha, clean, passes, images, labels):
    (model, _), batch, fields = (
        trained(1),
        Batch.of(images.double(), labels),
        Ard(attack=STUDENT_ATTACK, alpha=alpha, temperature=30.0, reduction="class_mean"),
    )
    method = replace(fields, clean_passes=clean).build(teacher(2))
    images_adv, counter = crafted(method, model, batch), PassCounter(model)
    loss = objective_of(method, model, batch, images_adv)
    assert counter.take()["forward"] == passes * len(images) and ("train_accuracy" in loss.parts) == (passes == 2)
    assert loss.total == objective_of(fields.build(teacher(2)), model, batch, images_adv).total
    loss.total.backward()
    # Without a weight the pass has no graph.
    assert counter.take()["backward"] == len(images) * (2 if alpha < 1 else 1)
