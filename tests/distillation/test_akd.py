"""AKD against its equation, gradients too, in float64; and against KD+SWA, whose clean teacher may be left out."""

import pytest
import torch
from torch import Tensor

from components.data.batch import Batch
from components.distillation.akd import Akd
from components.distillation.kd_swa import KdSwa
from tests.parts.equations import WIDE, require_equal, rows, seeded, teacher, trained
from tests.parts.method_members import STUDENT_ATTACK
from tests.parts.plain_sums import mean, plain_cross_entropy, plain_kl, plain_softmax


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_it_equals_its_equation(share, images, labels):
    batch, (model, weight), advising = Batch.of(images.double(), labels), trained(1), teacher(2)

    def plain(images_adv: Tensor) -> float:
        attacked, target = rows(model, images_adv), rows(advising, images_adv)
        hard = mean([plain_cross_entropy(z, y) for z, y in zip(attacked, labels.tolist(), strict=True)])
        soft = mean([plain_kl(plain_softmax(q), z) for q, z in zip(target, attacked, strict=True)])
        return (1 - share) * hard + share * soft

    require_equal(Akd(attack=STUDENT_ATTACK, teacher_weight=share).build(advising), model, batch, plain, [weight])


def test_its_gradient_is_that_of_kd_swa_without_a_clean_teacher(images, labels):
    batch, (model, weight), advising = Batch.of(images.double(), labels), trained(1), teacher(2)
    both = (
        Akd(attack=STUDENT_ATTACK, teacher_weight=0.6).build(advising),
        KdSwa(attack=STUDENT_ATTACK, clean_weight=0, robust_weight=0.6, temperature=1).build(teacher(3), advising),
    )
    found = [torch.autograd.grad(one.loss(model, batch, WIDE, seeded()).total, weight)[0] for one in both]
    assert torch.allclose(*found, rtol=0, atol=1e-12)
