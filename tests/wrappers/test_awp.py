"""AWP against an explicit perturb, backward, restore; and what a wrapper owes the loop."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation import DISTILLATIONS
from components.foundation.errors import InputError
from components.methods.free_at import FreeAt
from components.methods.parts.contract import Loss, Method, Relabelling, needs
from components.methods.standard import Standard
from components.numerics.cost import PassCounter
from components.wrappers.awp import Awp
from tests.parts.method_members import MEMBERS
from tests.parts.tiny_net import TinyNet
from tests.training.test_training import new_run, recipe

WRAPPED = ("pgd_at", "trades", "mart", "lbgat", "hat", "cktat", "adr", "n_fgsm", *DISTILLATIONS)
GAMMA = 0.05
wrapped = pytest.mark.parametrize("name", WRAPPED)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def prepared(name: str, images, labels) -> tuple[Any, nn.Module, Batch]:
    """A method, a model in training mode and a batch, all in float64 and the same at each call."""
    torch.manual_seed(3)
    model, method = TinyNet().double().train(), MEMBERS[name]()
    if name == "ciard":
        method.begin_epoch(1)
    return method.double().train(), model, Batch.of(images.double(), labels)


def explicit(method: Any, model: nn.Module, batch: Batch, threat) -> torch.Tensor:
    """The published procedure: the direction from a proxy, weights moved in place, backward, weights moved back."""
    if isinstance(method, Relabelling):
        batch = method.relabelled(model, batch)
    images_adv = method.craft(model, batch, threat, seeded())
    proxy, proxy_method = copy.deepcopy((model, method))
    proxy_method.objective(proxy, batch, images_adv).total.backward()
    moves = {}
    for (name, weight), other in zip(model.named_parameters(), proxy.parameters(), strict=True):
        if weight.ndim > 1 and other.grad is not None:
            moves[name] = GAMMA * weight.detach().norm() / other.grad.norm() * other.grad
    with torch.no_grad():
        for name, move in moves.items():
            model.get_parameter(name).add_(move)
    total = method.objective(model, batch, images_adv).total
    total.backward()
    with torch.no_grad():
        for name, move in moves.items():
            model.get_parameter(name).sub_(move)
    assert len(moves) == 2
    return total.detach()


@wrapped
def test_awp_equals_moving_the_weights_and_moving_them_back(name, images, labels, linf):
    """Loss, gradients of model and companion, and batch norm's statistics, which count each training pass once."""
    method, model, batch = prepared(name, images, labels)
    want = explicit(method, model, batch, linf)
    own, own_model, batch = prepared(name, images, labels)
    before = [parameter.clone() for parameter in own_model.parameters()]
    loss = Awp(gamma=GAMMA, start=0).build(own).loss(own_model, batch, linf, seeded())
    assert all(parameter.grad is None for parameter in own_model.parameters())
    loss.total.backward()
    assert all(torch.equal(a, b) for a, b in zip(own_model.parameters(), before, strict=True))
    assert float(loss.total.detach()) == pytest.approx(float(want), abs=1e-9)
    pairs = [(own_model, model)]
    pairs += zip(own.companions(), method.companions(), strict=True)
    for mine, theirs in pairs:
        for left, right in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(left, right, atol=1e-9)
            if name == "ciard" and mine is not own_model:  # moves its teacher by itself, once
                assert left.grad is None
                continue
            assert left.grad is not None and right.grad is not None
            assert torch.allclose(left.grad, right.grad, atol=1e-9)
        for left, right in zip(mine.buffers(), theirs.buffers(), strict=True):
            assert torch.allclose(left, right, atol=1e-9)
    assert float(loss.parts["loss_rise"]) > 0 or name == "lbgat"


class HalfSquare(Method):
    """A method whose loss is half the squared weights of a linear model, so that its gradient is the weights."""

    def craft(self, model, batch, threat, rng) -> Tensor:
        return batch.images

    def objective(self, model, batch, images_adv) -> Loss:
        outputs = model(torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8))
        return Loss(outputs.square().sum() / 2, {})


def test_the_move_is_as_long_as_gamma_says(images, labels, linf):
    """w + v is 1.1 w, in each tensor of two dimensions; and the gradient is the one there."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    weight, bias = model.get_parameter("1.weight"), model.get_parameter("1.bias")
    with torch.no_grad():
        bias.zero_()
    loss = Awp(gamma=0.1, start=0).build(HalfSquare()).loss(model, Batch.of(images, labels), linf, seeded())
    loss.total.backward()
    assert weight.grad is not None and torch.allclose(weight.grad, 1.1 * weight)
    assert float(loss.parts["loss_rise"]) == pytest.approx((1.1**2 - 1) * float(weight.detach().square().sum()) / 2)


def test_it_starts_with_its_epoch(images, labels, linf):
    losses = []
    for awp, epoch in ((None, 0), (Awp(gamma=GAMMA, start=2), 1), (Awp(gamma=GAMMA, start=2), 2)):
        method, model, batch = prepared("trades", images, labels)
        if awp is not None:
            method = awp.build(method)
            method.begin_epoch(epoch)
        losses.append(method.loss(model, batch, linf, seeded()))
    assert torch.equal(losses[0].total, losses[1].total) and float(losses[1].parts["loss_rise"]) == 0
    assert losses[2].total > losses[0].total and losses[2].parts["loss_rise"] > 0
    assert losses[1].parts.keys() == losses[2].parts.keys()  # the columns of one curve


def test_passes_are_counted_and_modes_are_left(images, labels, linf):
    method, model, batch = prepared("pgd_at", images, labels)
    counter = PassCounter(model)
    Awp(gamma=GAMMA, start=0).build(method).loss(model, batch, linf, seeded()).total.backward()
    assert counter.take() == {"forward": 24 + 12 + 12, "backward": 24 + 12 + 12}
    assert all(module.training for module in model.modules())


@wrapped
def test_the_loop_finds_in_it_what_it_finds_in_the_inner_method(name):
    inner = MEMBERS[name]()
    outer = Awp(gamma=GAMMA, start=0).build(inner)
    assert outer.companions() == inner.companions()
    assert len(inner.companions()) == int(name in ("lbgat", "ciard", "peer"))
    assert outer.networks() == inner.networks()
    asked = sum(need.endswith("teacher") for need in needs(inner.fields))
    assert len(inner.networks()) == (1 if name == "peer" else asked)


@pytest.mark.parametrize("name", ["trades", "lbgat", "adr"])
def test_stopped_and_continued_equals_uninterrupted(name, linf, tmp_path):
    awp = Awp(gamma=GAMMA, start=1)
    whole, steps = new_run(awp.build(MEMBERS[name]()), linf, tmp_path / "whole", recipe())
    records = list(steps)
    assert records[1]["loss_rise"] == 0 and records[2]["loss_rise"] != 0
    _, steps = new_run(awp.build(MEMBERS[name]()), linf, tmp_path / "cut", recipe())
    for _ in range(3):
        next(steps)
    del steps
    again, steps = new_run(awp.build(MEMBERS[name]()), linf, tmp_path / "cut", recipe())
    assert len(list(steps)) == 2 and again.history == whole.history and again.passes == whole.passes
    left, right = whole._tensors(), again._tensors()
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert any(key.startswith("method/") for key in left) == (name != "trades")


@pytest.mark.parametrize(
    ("name", "fields"),
    [("standard", Standard(label_smoothing=0.0)), ("free_at", FreeAt(replays=2, label_smoothing=0.0))],
)
def test_a_method_in_one_phase_is_refused(name, fields):
    with pytest.raises(InputError, match=f"^perturbation: got method {name}, want one that attacks first"):
        Awp(gamma=GAMMA, start=0).build(fields.build())


@pytest.mark.parametrize("gamma, start", [(0.0, 0), (0.01, -1)])
def test_numbers_out_of_range_are_refused(gamma, start):
    with pytest.raises(ValueError, match=r"(gamma|start)\n.*greater than"):
        Awp(gamma=gamma, start=start)
