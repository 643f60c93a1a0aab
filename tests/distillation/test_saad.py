"""SAAD and SAAD-C against their equation, gradients too, in float64; and whose entropies weigh an image."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from components.data.batch import Batch
from components.distillation.saad import Saad
from components.numerics import parallel
from components.numerics.cost import PassCounter
from tests.parts.equations import WIDE, crafted, objective_of, require_equal, rows, seeded, teacher, trained
from tests.parts.method_members import taught_attack
from tests.parts.plain_sums import mean, plain_kl, plain_softmax


def saad(**changes: Any) -> Saad:
    fields = {"alpha": 3.0, "beta": 0.2, "entropy_weight": 5.0, "epochs": 4}
    return Saad(attack=taught_attack("kl_teacher_linear"), **fields | changes)


def plain_entropy(probabilities: list[float]) -> float:
    return -sum(q * math.log(q) for q in probabilities)


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize(("alpha", "beta"), [(3.0, 0.0), (3.0, 0.2), (0.0, 0.2)])
def test_it_equals_its_equation(alpha, beta, epoch, images, labels):
    batch, (model, weight), advising = Batch.of(images.double(), labels), trained(1), teacher(2)
    clean_target = [plain_softmax(q) for q in rows(advising, batch.images)]

    def plain(images_adv: Tensor) -> float:
        mirrored = 2 * batch.images - images_adv
        target, attacked = rows(advising, images_adv), rows(model, images_adv)
        target_minus, minus = rows(advising, mirrored), rows(model, mirrored)
        entropies = [plain_entropy(plain_softmax(q)) for q in target]
        least, most = min(entropies), max(entropies)
        terms = []
        for i, clean in enumerate(rows(model, batch.images)):
            rise = [a - b for a, b in zip(target[i], target_minus[i], strict=True)]
            own = [a - b for a, b in zip(attacked[i], minus[i], strict=True)]
            matched = alpha * (epoch + 1) / 4 * plain_kl(plain_softmax(rise), own)
            taught = plain_kl(plain_softmax(target[i]), attacked[i]) + matched
            share = (entropies[i] - least) / (most - least)
            unsure = 5 * (entropies[i] - least) * taught
            terms.append(unsure + beta * (1 - share) * plain_kl(clean_target[i], clean))
        return mean(terms)

    method = saad(alpha=alpha, beta=beta).build(advising)
    method.begin_epoch(epoch)
    require_equal(method, model, batch, plain, [weight])


@pytest.mark.parametrize(
    ("changes", "student", "asked"),
    [
        ({}, 3, 3),
        ({"beta": 0}, 2, 2),
        ({"beta": 0, "clean_passes": "always"}, 3, 2),
        ({"alpha": 0}, 2, 2),
        ({"alpha": 0, "beta": 0}, 1, 1),
    ],
)
def test_a_pass_without_a_weight_is_left_out_unless_it_is_asked_for(changes, student, asked, images, labels):
    (model, _), advising, batch = trained(1), teacher(2), Batch.of(images.double(), labels)
    method = saad(**changes).build(advising)
    images_adv, counters = crafted(method, model, batch), [PassCounter(network) for network in (model, advising)]
    objective_of(method, model, batch, images_adv)
    assert [counter.take()["forward"] for counter in counters] == [student * len(images), asked * len(images)]


def test_a_teacher_that_is_equally_sure_of_all_images_teaches_the_clean_ones(images, labels):
    (model, _), batch = trained(1), Batch.of(images.double(), labels)
    constant = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).double()
    with torch.no_grad():
        constant.get_parameter("1.weight").zero_()
    loss = saad().build(constant).loss(model, batch, WIDE, seeded())
    assert float(loss.parts["weight_robust"]) == 0
    assert float(loss.total.detach()) == pytest.approx(0.2 * float(loss.parts["loss_clean"]))


def test_the_smallest_and_the_largest_entropy_are_those_of_all_processes(images, labels, monkeypatch):
    """Each half of a batch, with the other's entropies known, has its share of the loss of the whole."""
    (model, _), advising, batch = trained(1), teacher(2), Batch.of(images.double(), labels)
    method = saad().build(advising)
    images_adv = crafted(method, model, batch)
    whole = objective_of(method, model, batch, images_adv).total
    ends = list[Tensor]()
    monkeypatch.setattr(parallel, "gathered", lambda tensor: (ends.append(tensor), tensor[None])[1])
    halves = [torch.arange(len(images)) % 2 == rank for rank in range(2)]
    parts = [batch._replace(images=batch.images[half], labels=batch.labels[half]) for half in halves]
    alone = [method.objective(model, part, images_adv[half]).total for part, half in zip(parts, halves, strict=True)]
    monkeypatch.setattr(parallel, "gathered", lambda _: torch.stack(ends))
    found = [method.objective(model, part, images_adv[half]).total for part, half in zip(parts, halves, strict=True)]
    assert float((found[0] + found[1]).detach()) / 2 == pytest.approx(float(whole.detach()), abs=1e-12)
    assert abs(float((alone[0] + alone[1] - 2 * whole).detach())) > 1e-3
    assert not method.divisible
