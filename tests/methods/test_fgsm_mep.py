"""FGSM-MEP against its equations by hand, in float64: what it remembers of each image, and where it puts that."""

import copy
import threading

import pytest
import torch
from torch import Tensor

from components.data.batch import Batch
from components.data.placement import Placement
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.methods.parts.image_memory import ImageMemory
from components.numerics import parallel
from components.threats.l2 import L2
from components.threats.parts.threat import Threat
from tests.parts.method_members import MEMBERS
from tests.parts.plain_formulas import (
    EPSILON,
    NEARLY,
    SMOOTHING,
    STEP,
    fgsm_mep,
    plain_gradient,
    plain_loss,
    plus_or_minus,
    require_same,
    seeded,
    within,
)


@pytest.mark.parametrize("craft, smoothing", [("smoothed", SMOOTHING), ("hard", 0.0)])
def test_fgsm_mep_equals_its_equations_over_four_visits(craft, smoothing, smooth, batch, linf):
    """Two epochs, a reset, and two more; batches of other images in another order in between."""
    images, labels = batch.images, batch.labels
    method, rng, draws = fgsm_mep(craft=craft).build(), seeded(5), seeded(5)
    still = Placement.still(images)
    delta, momentum = torch.zeros_like(images), torch.zeros_like(images)
    for epoch, order in enumerate(([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [3, 1, 11, 7, 0, 2, 4, 6, 5, 10, 9, 8]) * 2):
        method.begin_epoch(epoch)
        for chosen in (torch.tensor(order[:7]), torch.tensor(order[7:])):
            if epoch % 2 == 0:
                delta[chosen] = plus_or_minus(images[chosen], draws)
                momentum[chosen] = 0
            some, its = images[chosen], labels[chosen]
            got = method.loss(smooth, Batch(some, its, chosen, still), linf, rng).total
            start = within(some + delta[chosen], some, EPSILON)
            gradient = plain_gradient(smooth, start, its, smoothing)
            images_adv = within(start + STEP * gradient.sign(), some, EPSILON)
            logits, logits_start = smooth(images_adv), smooth(start)
            drift = sum((logits - logits_start).flatten() ** 2) / logits.numel()
            require_same(smooth, got, plain_loss(logits, its) + 10 * drift)
            momentum[chosen] = gradient / gradient.abs().sum() + 0.3 * momentum[chosen]
            delta[chosen] = within(start + STEP * momentum[chosen].sign(), some, EPSILON) - some
    memory = method.memory.tensors
    assert torch.allclose(memory["delta"], delta, **NEARLY) and torch.allclose(memory["momentum"], momentum, **NEARLY)


@pytest.mark.parametrize("align", [True, False])
def test_fgsm_mep_follows_the_image_only_if_aligned(align, smooth, linf):
    """An image seen shifted and mirrored, and then as it is: its perturbation is where its pixels are, or is not."""
    images = 0.3 + 0.4 * torch.rand(2, 1, 8, 8, generator=seeded(1)).double()
    labels, places = torch.tensor([0, 1]), torch.tensor([4, 2])
    placement = Placement(1, torch.tensor([2, 1]), torch.tensor([0, 1]), torch.tensor([True, False]))
    method = fgsm_mep(align=align).build()
    moved = Batch(placement.moved(images), labels, places, placement)
    first = method.start(smooth, moved, linf, seeded(3)) - moved.images
    noise = plus_or_minus(images, seeded(3))
    method.loss(smooth, moved, linf, seeded(4))
    start = moved.images + first
    ascent = STEP * plain_gradient(smooth, start, labels, SMOOTHING).sign()
    ahead = within(start + ascent, moved.images, EPSILON) - moved.images
    then = method.start(smooth, Batch(images, labels, places, Placement.still(images)), linf, seeded()) - images
    if not align:
        assert torch.allclose(then, ahead, **NEARLY)
        return
    # Image 0 was moved up by one row, right by one column, and mirrored; image 1 stayed.
    want = torch.stack([noise[0], ahead[1]])
    for row in range(1, 8):
        for column in range(7):
            want[0, 0, row, column] = ahead[0, 0, row - 1, 7 - (column + 1)]
    assert torch.allclose(then, want, **NEARLY)


def test_fgsm_mep_draws_only_while_images_can_be_new(smooth, batch, linf):
    method, rng = fgsm_mep().build(), seeded(1)
    for epoch, moves in enumerate((True, False, True, False)):
        method.begin_epoch(epoch)
        before = rng.get_state()
        method.loss(smooth, batch, linf, rng)
        assert torch.equal(before, rng.get_state()) != moves


def test_fgsm_mep_starts_at_signs(smooth, batch, linf):
    start = fgsm_mep().build().start(smooth, batch, linf, seeded(9))
    inner = (batch.images > EPSILON) & (batch.images < 1 - EPSILON)
    offset = (start - batch.images)[inner]
    assert torch.allclose(offset.abs(), torch.tensor(EPSILON).double(), atol=1e-12)
    assert 0.4 < (offset > 0).double().mean() < 0.6


def test_fgsm_mep_refuses_l2(tiny, images, labels):
    with pytest.raises(InputError, match="fgsm_mep: got norm l2, want linf"):
        MEMBERS["fgsm_mep"]().loss(tiny, Batch.of(images, labels), Threat(norm=L2(), epsilon=Ratio(1, 2)), seeded())


def test_memory_is_shared_between_processes(monkeypatch):
    """Two threads stand for two processes, each of which saw half of the images."""
    meeting, given = threading.Barrier(2), {}
    place = threading.local()

    def together(tensor: Tensor) -> Tensor:
        given[place.rank] = tensor.clone()
        meeting.wait()
        total = given[0] + given[1]
        meeting.wait()
        return total

    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "rank", lambda: place.rank)
    monkeypatch.setattr(parallel, "sum_", together)
    memories = [ImageMemory("delta"), ImageMemory("delta")]
    seen = [torch.tensor([0, 3]), torch.tensor([2, 5])]
    images = torch.arange(1.0, 5).view(4, 1, 1, 1)

    def work(rank: int) -> None:
        place.rank, memory = rank, memories[rank]
        for halves in (seen, seen[::-1]):  # a second epoch deals the images out anew
            mine = images[2 * rank : 2 * rank + 2]
            memory.make_room(halves[rank], mine)
            memory.remember(halves[rank], delta=memory.recall("delta", halves[rank]) + mine)
            memory.share()
            memory.take_stock()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for memory in memories:
        state = memory.state_dict()
        assert state["tensors.delta"].flatten().tolist() == [4, 0, 4, 6, 0, 6]
        assert state["tensors.seen"].tolist() == [True, False, True, True, False, True]


def test_fgsm_mep_differentiates_its_start_as_it_was(tiny, images, labels, linf):
    """Crafting with running statistics that its own training pass then moves: against finite differences."""
    model, batch = tiny.double(), Batch.of(images.double(), labels)

    def total(shift: float) -> tuple[float, float]:
        moved = copy.deepcopy(model).train()
        weight = moved.get_parameter("features.0.weight")
        with torch.no_grad():
            weight[0, 0, 0, 0] += shift
        loss = fgsm_mep(batch_norm="eval").build().loss(moved, batch, linf, seeded(1)).total
        return float(loss.detach()), float(torch.autograd.grad(loss, weight)[0][0, 0, 0, 0])

    step = 1e-6
    rise = (total(step)[0] - total(-step)[0]) / (2 * step)
    assert total(0.0)[1] == pytest.approx(rise, rel=1e-4)
