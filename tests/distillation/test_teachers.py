"""Several teachers in one role: the mean of their probabilities, exactly, and nothing new where there is one."""

import math

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.b_mtard import BMtard
from components.distillation.parts.teachers import InFloat32, Together, together
from components.methods.parts.contract import Method, Teacher
from components.numerics.cost import PassCounter
from tests.parts.equations import WIDE, network, seeded, teacher
from tests.parts.method_members import STUDENT_ATTACK, frozen
from tests.parts.plain_sums import plain_softmax
from tests.parts.tiny_net import TinyNet


def plain_mean(networks: list[nn.Module], images: Tensor) -> list[list[float]]:
    """The mean of probabilities, class by class."""
    found = [[plain_softmax(row) for row in one(images).tolist()] for one in networks]
    return [[sum(column) / len(networks) for column in zip(*rows, strict=True)] for rows in zip(*found, strict=True)]


def test_one_teacher_is_itself():
    alone = teacher(1)
    assert together([alone]) is alone


@pytest.mark.parametrize("count", [2, 3])
def test_probabilities_are_averaged(count, images):
    networks: list[nn.Module] = [teacher(seed) for seed in range(count)]
    many = together(networks)
    logits = many(images.double())
    want = torch.tensor(plain_mean(networks, images.double()), dtype=torch.float64)
    assert torch.allclose(logits.exp(), want, rtol=1e-12, atol=1e-15)
    # Not the mean of logits, which another network would be.
    assert not torch.allclose(logits.exp(), torch.stack([one(images.double()) for one in networks]).mean(0).softmax(1))


def test_a_probability_that_underflows_is_averaged_too():
    class Sure(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[0.0, -2000.0]], dtype=torch.float64).expand(len(images), 2)

    logits = Together([Sure(), Sure()])(torch.zeros(1, 1, 2, 2))
    assert logits[0].tolist() == pytest.approx([0.0, -2000.0])
    assert float(logits.exp().sum()) == pytest.approx(1)


def test_the_gradient_goes_through_all_of_them(images):
    networks: list[nn.Module] = [teacher(1), teacher(2)]
    inputs = images.double().requires_grad_()
    (gradient,) = torch.autograd.grad(together(networks)(inputs)[:, 0].sum(), inputs)
    probabilities = torch.stack([one(inputs).softmax(1) for one in networks]).mean(0)
    (want,) = torch.autograd.grad(probabilities[:, 0].log().sum(), inputs)
    assert torch.allclose(gradient, want, rtol=1e-9, atol=1e-12) and gradient.abs().max() > 1e-3


def b_mtard(clean: nn.Module, robust: nn.Module) -> Method:
    fields = BMtard(
        attack=STUDENT_ATTACK,
        reduction="batch_mean",
        temperature_step=0.1,
        temperature_min=1,
        temperature_max=10,
        weight_step=0.1,
        balance_milestones=(),
        balance_decay=1,
    )
    return fields.build(clean, robust)


def test_every_network_counts_once_for_each_role_that_asks_it(images, labels):
    shared, other = frozen(1), frozen(2)
    method = b_mtard(shared, together([shared, other]))
    teachers = [one for one in method.networks() if isinstance(one, Teacher)]
    counter = PassCounter(*teachers)
    method.loss(TinyNet().train(), Batch.of(images, labels), WIDE, seeded())
    assert counter.take() == {"forward": 3 * len(images), "backward": 0}
    counter.close()


def test_the_same_network_twice_teaches_as_it_does_alone(images, labels):
    """The mean of two equal answers is the answer; and all of it is frozen, and in no checkpoint."""
    batch, losses = Batch.of(images.double(), labels), []
    for robust in ([teacher(2)], [teacher(2), teacher(2)]):
        method = b_mtard(teacher(1), together(robust))
        assert not any(key.startswith(("clean_teacher", "robust_teacher")) for key in method.state_dict())
        assert not any(parameter.requires_grad for parameter in method.parameters())
        losses.append(float(method.loss(network(3), batch, WIDE, seeded()).total.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-12) and math.isfinite(losses[0])


def test_float32_within_bfloat16(images):
    model = frozen(1)
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.bfloat16
        logits = InFloat32(model)(images)
    assert logits.dtype == torch.float32 and torch.equal(logits, exact)
