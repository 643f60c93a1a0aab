"""RSLAD against its equation, gradients too, in float64."""

import pytest
from torch import Tensor

from components.data.batch import Batch
from components.distillation.rslad import Rslad
from tests.parts.equations import require_equal, rows, teacher, trained
from tests.parts.method_members import taught_attack
from tests.parts.plain_sums import mean, plain_kl, plain_softmax


@pytest.mark.parametrize(("reduction", "divide_by"), [("batch_mean", 1), ("class_mean", 3)])
def test_it_equals_its_equation(reduction, divide_by, images, labels):
    batch, (model, weight), advising = Batch.of(images.double(), labels), trained(1), teacher(2)
    fields = Rslad(attack=taught_attack("kl_teacher_clean"), adversarial_weight=0.8, reduction=reduction)
    target = [plain_softmax(z) for z in rows(advising, batch.images)]

    def plain(images_adv: Tensor) -> float:
        attacked, clean = rows(model, images_adv), rows(model, batch.images)
        on_attacked = mean([plain_kl(q, z) for q, z in zip(target, attacked, strict=True)])
        on_clean = mean([plain_kl(q, z) for q, z in zip(target, clean, strict=True)])
        return (0.8 * on_attacked + 0.2 * on_clean) / divide_by

    require_equal(fields.build(advising), model, batch, plain, [weight])
