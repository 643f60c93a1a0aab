"""Losses against plain formulas, and against themselves in double precision where probabilities underflow."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from components.distillation.kd_swa import KdSwa
from components.methods.parts.contract import Crafting, Relabelling
from components.numerics.losses import (
    NO_ANSWER,
    accuracy,
    answers,
    cross_entropy,
    dlr,
    entropy,
    kl_divergence,
    margin,
    targeted_dlr,
)
from tests.parts.method_members import MEMBERS, STUDENT_ATTACK
from tests.parts.plain_sums import plain_cross_entropy, plain_kl

# From logits of any network up to far beyond where float32 has no probability left (a gap of 104).
GAPS = (1, 10, 88, 104, 200, 1e3, 1e4)
BOUND = 1e-5
# Each of clean and attacked logits and labels, [N]; methods put the same together out of these.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": lambda z, _, y: cross_entropy(z, y),
    "smoothed": lambda z, _, y: cross_entropy(z, y, 0.1),
    "soft_labels": lambda z, z_adv, _: cross_entropy(z_adv, (z.detach() / 4).softmax(1)),
    "margin": lambda z, _, y: margin(z, y),
    "dlr": lambda z, _, y: dlr(z, y),
    "targeted_dlr": lambda z, _, y: targeted_dlr(z, y, (y + 1) % z.shape[1]),
    "kl": lambda z, z_adv, _: kl_divergence(z, z_adv, "none"),
    "kl_to_constant": lambda z, z_adv, _: kl_divergence(z.detach(), z_adv, "none"),
    "kl_batch_mean": lambda z, z_adv, _: kl_divergence(z, z_adv, "batch_mean"),
    "kl_class_mean": lambda z, z_adv, _: kl_divergence(z, z_adv, "class_mean"),
    "entropy": lambda z, _, __: entropy(z),
}


def cases(gap: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Clean and attacked logits whose classes are up to `gap` apart, in float32, and labels."""
    rng = torch.Generator().manual_seed(round(gap))
    for classes in (4, 10):
        labels = torch.randint(classes, (24,), generator=rng)
        drawn = gap * torch.rand(24, classes, generator=rng)
        sure = torch.zeros(24, classes).scatter(1, labels[:, None], gap)
        yield drawn, gap * torch.rand(24, classes, generator=rng), labels
        yield drawn, drawn + torch.randn(24, classes, generator=rng), labels
        yield sure, sure.roll(1, 0), labels
        yield sure, drawn, labels
        yield drawn - gap, torch.zeros_like(drawn), labels


def with_gradients(loss: Callable[..., Tensor], *logits: Tensor) -> list[Tensor]:
    """The loss of logits, and the gradient of its sum with respect to each of them."""
    leaves = [one.detach().requires_grad_() for one in logits]
    value = loss(*leaves)
    found = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    return [value.detach(), *(one for one in found if one is not None)]


def assert_near(found: list[Tensor], wanted: list[Tensor], bound: float = BOUND) -> None:
    """Row by row, relative to the largest number of the row where that is above 1."""
    for one, want in zip(found, wanted, strict=True):
        rows, want_rows = (x.reshape(len(x), -1) if x.ndim else x.reshape(1, 1) for x in (one, want))
        off = (rows - want_rows).abs().amax(1) / want_rows.abs().amax(1).clamp_min(1)
        assert one.isfinite().all() and float(off.max()) <= bound, (one[off.argmax()], want[off.argmax()])


def test_losses_equal_plain_formulas(rng):
    logits = torch.randn(5, 4, generator=rng, dtype=torch.float64) * 3
    labels = torch.tensor([0, 1, 2, 3, 0])
    target = torch.randn(5, 4, generator=rng, dtype=torch.float64).softmax(1)
    for smoothing in (0.0, 0.1):
        want = [plain_cross_entropy(z, int(y), smoothing) for z, y in zip(logits.tolist(), labels, strict=True)]
        assert cross_entropy(logits, labels, smoothing).tolist() == pytest.approx(want, abs=1e-12)
    want = [plain_kl(q, z) for q, z in zip(target.tolist(), logits.tolist(), strict=True)]
    assert kl_divergence(target.log(), logits, "none").tolist() == pytest.approx(want, abs=1e-12)
    assert float(kl_divergence(target.log(), logits, "batch_mean")) == pytest.approx(sum(want) / 5, abs=1e-12)
    assert float(kl_divergence(target.log(), logits, "class_mean")) == pytest.approx(sum(want) / 20, abs=1e-12)
    want = [-sum(q * math.log(q) for q in row) for row in target.tolist()]
    assert entropy(target.log()).tolist() == pytest.approx(want)
    for row, label, value in zip(logits.tolist(), labels.tolist(), margin(logits, labels).tolist(), strict=True):
        assert value == pytest.approx(max(z for k, z in enumerate(row) if k != label) - row[label])


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_double_precision(name, gap):
    for clean, attacked, labels in cases(gap):
        found = with_gradients(lambda *z: LOSSES[name](*z, labels), clean, attacked)  # noqa: B023
        wanted = with_gradients(lambda *z: LOSSES[name](*z, labels), clean.double(), attacked.double())  # noqa: B023
        assert_near(found, wanted)


class Sure(nn.Module):
    """Three pixels as logits, times a power of two: the same in single and in double precision."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), scale))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3] * self.scale


@pytest.mark.parametrize("scale", [2.0**7, 2.0**10, 2.0**13])
@pytest.mark.parametrize("name", MEMBERS)
def test_methods_train_a_model_that_is_very_sure(name, scale, batch, linf, rng):
    """The loss and the gradients are finite, and those of double precision on the same attacked images."""
    images_adv, found = linf.random_start(batch.images, rng), []
    for dtype in (torch.float32, torch.float64):
        method, model = MEMBERS[name]().to(dtype), Sure(scale).to(dtype)
        given = batch._replace(images=batch.images.to(dtype))
        if isinstance(method, Relabelling):
            given = method.relabelled(model, given)
        if isinstance(method, Crafting):
            loss = method.objective(model, given, images_adv.to(dtype)).total
        else:
            loss = method.loss(model, given, linf, torch.Generator().manual_seed(2)).total
        loss.backward()
        found.append([loss.detach(), model.scale.grad])
    assert all(one.isfinite().all() for one in found[0])
    if isinstance(method, Crafting):
        assert_near(*found)


class Table(nn.Module):
    """Answers with logits of its own, one row per image: some for clean, some for attacked images."""

    def __init__(self, clean: Tensor, attacked: Tensor) -> None:
        super().__init__()
        self.clean, self.attacked = nn.Parameter(clean), nn.Parameter(attacked)

    def forward(self, images: Tensor) -> Tensor:
        return torch.where(images.flatten(1)[:, :1] < 1, self.clean, self.attacked)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("name", [name for name, build in MEMBERS.items() if isinstance(build(), Crafting)])
def test_gradients_at_every_logit_are_those_of_double_precision(name, gap, batch):
    images = batch.images.clone()
    images[:, 0, 0, 0] = 0
    images_adv, rng, n = images.clone(), torch.Generator().manual_seed(round(gap)), len(images)
    images_adv[:, 0, 0, 0] = 1
    for _ in range(3):
        drawn = gap * torch.rand(n, 3, generator=rng)
        near = torch.zeros(n, 3).scatter(1, batch.labels[:, None], gap - 20 * torch.rand(n, 1, generator=rng))
        near = near.scatter(1, (batch.labels[:, None] + 1) % 3, gap)
        for clean, attacked in ((drawn, gap * torch.rand(n, 3, generator=rng)), (near, -near), (drawn, near)):
            found = []
            for dtype in (torch.float32, torch.float64):
                method, model = MEMBERS[name]().to(dtype), Table(clean.to(dtype), attacked.to(dtype))
                assert isinstance(method, Crafting)
                given = batch._replace(images=images.to(dtype))
                if isinstance(method, Relabelling):
                    given = method.relabelled(model, given)
                loss = method.objective(model, given, images_adv.to(dtype)).total
                loss.backward()
                grads = [one.grad * n for one in (model.clean, model.attacked) if one.grad is not None]
                found.append([loss.detach(), *grads])
            assert_near(*found)


@pytest.mark.parametrize("gap", GAPS)
def test_distillation_at_a_temperature_keeps_its_gradient_at_every_logit(gap):
    fields = KdSwa(attack=STUDENT_ATTACK, temperature=3, clean_weight=0.5, robust_weight=0.25)
    for clean, attacked, _ in cases(gap):
        found = []
        for dtype in (torch.float32, torch.float64):
            teacher, student = attacked.to(dtype), clean.to(dtype).requires_grad_()
            loss = fields._distilled(student, teacher.detach())
            (gradient,) = torch.autograd.grad(loss * len(clean), student)
            found.append([loss.detach(), gradient])
        assert_near(*found)


def test_trades_keeps_its_gradient_where_a_clean_probability_underflows():
    """Of ln p = -110 float32 has no p, whose logarithm the gradient would need."""
    clean, attacked = torch.tensor([[0.0, -1.0, -110.0]]), torch.tensor([[0.0, -1.5, -100.0]])
    _, found, _ = with_gradients(lambda z, z_adv: LOSSES["kl_batch_mean"](z, z_adv, torch.zeros(1)), clean, attacked)
    assert found[0].tolist() == pytest.approx([-0.0983, 0.0983, 0], abs=1e-4)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_no_number_is_no_answer(broken):
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    logits[1:, 2] = broken
    assert answers(logits).tolist() == [0, NO_ANSWER, NO_ANSWER]
    assert accuracy(logits, torch.tensor([0, 1, 2])) == pytest.approx(1 / 3)
    assert not (answers(torch.full((3, 3), broken)) == torch.arange(3)).any()
