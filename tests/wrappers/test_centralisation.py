"""Weight centralisation against its equation by hand."""

import copy
import math

import pytest
import torch

from components.data.batch import Batch
from components.schedules.constant import Constant
from tests.parts.method_members import MEMBERS
from tests.parts.smoothing_parts import seeded, smoothing


def test_weights_are_drawn_to_the_mean_of_their_past(tiny, images, labels, linf):
    """w3 times the norm over all parameters, not squared, from the mean of the last two epochs' ends."""
    inner = MEMBERS["pgd_at"]()
    method = smoothing(weight_centralisation=0.1, weight_clean=0.0, weight_adversarial=0.0).build(inner, Constant(), 9)
    past = []
    for epoch in range(3):
        method.begin_epoch(epoch)
        with torch.no_grad():
            for parameter in tiny.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=seeded(epoch)) * 0.1)
        method.loss(tiny, Batch.of(images, labels), linf, seeded())
        method.end_epoch(tiny)
        past.append([parameter.detach().double().clone() for parameter in tiny.parameters()])
    method.begin_epoch(3)
    batch = Batch.of(images, labels)
    with torch.no_grad():
        tiny.head.weight.mul_(1.3)
    other = copy.deepcopy(tiny)  # a pass would move batch statistics
    total = inner.loss(other, batch, linf, seeded()).total
    alone = torch.autograd.grad(total, list(other.parameters()))
    loss = method.loss(tiny, batch, linf, seeded())
    offsets = [p.detach() - (two + three) / 2 for p, two, three in zip(tiny.parameters(), *past[1:], strict=True)]
    length = math.sqrt(sum(float(entry) ** 2 for offset in offsets for entry in offset.flatten()))
    assert float(loss.parts["smooth_centralisation"]) == pytest.approx(0.1 * length, rel=1e-6)
    assert loss.total.item() == pytest.approx(total.item() + 0.1 * length)
    together = torch.autograd.grad(loss.total, list(tiny.parameters()))
    for one, two, offset in zip(alone, together, offsets, strict=True):
        assert torch.allclose((two - one).double(), 0.1 * offset / length, atol=1e-6)


def test_at_the_centre_nothing_pulls(tiny, images, labels, linf):
    inner = MEMBERS["pgd_at"]()
    method = smoothing(weight_centralisation=1.0, centre_epochs=1).build(inner, Constant(), 9)
    method.begin_epoch(0)
    method.loss(tiny, Batch.of(images, labels), linf, seeded())
    method.end_epoch(tiny)
    method.begin_epoch(1)
    loss = method.loss(tiny, Batch.of(images, labels), linf, seeded())
    loss.total.backward()
    assert float(loss.parts["smooth_centralisation"]) == 0
    assert all(parameter.grad.isfinite().all() for parameter in tiny.parameters())
