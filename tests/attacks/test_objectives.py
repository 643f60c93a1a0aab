"""Losses and aims against values worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from components.attacks.iter_ll import IterLl
from components.attacks.parts.objectives import (
    TARGETED,
    Aim,
    LossName,
    away_from,
    clean_logits,
    goal,
    towards,
    wrong_class,
)
from components.attacks.pgd import Pgd
from components.attacks.step_ll import StepLl
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.numerics.losses import cross_entropy, dlr, kl_divergence, margin, targeted_dlr
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

# Sorted: 5, 3, 2, -1. The first image is right, the second wrong.
LOGITS = torch.tensor([[3.0, 5.0, -1.0, 2.0], [3.0, 5.0, -1.0, 2.0]], dtype=torch.float64)
LABELS = torch.tensor([1, 3])


def unasked() -> Tensor:
    raise AssertionError("the clean logits were not needed")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_margin_and_dlr_by_hand():
    assert margin(LOGITS, LABELS).tolist() == [-2.0, 3.0]
    # Over z₁ - z₃ = 5 - 2.
    assert dlr(LOGITS, LABELS).tolist() == pytest.approx([-2 / 3, 1.0], abs=1e-6)


def test_targeted_dlr_by_hand():
    """(z_target - z_label) over z₁ - (z₃ + z₄) / 2 = 5 - (2 - 1) / 2 = 4.5."""
    targets = torch.tensor([0, 2])
    assert targeted_dlr(LOGITS, LABELS, targets).tolist() == pytest.approx([-2 / 4.5, -3 / 4.5], abs=1e-6)


def test_dlr_ignores_shift_and_scale_unlike_the_margin():
    moved = LOGITS * 250 - 17
    targets = torch.tensor([0, 2])
    assert torch.allclose(dlr(moved, LABELS), dlr(LOGITS, LABELS), atol=1e-9)
    assert torch.allclose(targeted_dlr(moved, LABELS, targets), targeted_dlr(LOGITS, LABELS, targets), atol=1e-9)
    assert not torch.allclose(margin(moved, LABELS), margin(LOGITS, LABELS))


def test_equal_logits_give_finite_values():
    flat = torch.zeros(2, 4, requires_grad=True)
    values = dlr(flat, LABELS) + targeted_dlr(flat, LABELS, LABELS - 1)
    values.sum().backward()
    assert values.detach().isfinite().all() and flat.grad is not None and flat.grad.isfinite().all()


@pytest.mark.parametrize("classes, loss, remedy", [(2, "dlr", "use cross_"), (3, "targeted_dlr", "use cross_")])
def test_too_few_classes_are_refused(classes, loss, remedy):
    logits, labels = torch.zeros(1, classes), torch.zeros(1, dtype=torch.long)
    with pytest.raises(InputError, match=f"{loss}: the model has {classes} classes.*{remedy}"):
        dlr(logits, labels) if loss == "dlr" else targeted_dlr(logits, labels, labels + 1)


def test_each_aim_leaves_or_reaches_its_class():
    """The values of all aims at other logits than the clean ones, from which the classes were taken."""
    there = LOGITS.flip(1)
    expected: dict[Aim, Tensor] = {
        "true": cross_entropy(there, LABELS),
        "predicted": cross_entropy(there, torch.tensor([1, 1])),
        "least_likely": -cross_entropy(there, torch.tensor([2, 2])),
    }
    for aim, values in expected.items():
        clean = unasked if aim == "true" else lambda: LOGITS
        assert torch.equal(goal("cross_entropy", aim, LABELS, clean, seeded())(there), values)
    drawn = goal("margin", "random", LABELS, unasked, seeded())
    target = wrong_class(torch.rand(2, generator=seeded()), LABELS, 4)
    assert torch.equal(drawn(there), -margin(there, target)) and (target != LABELS).all()
    divergence = goal("kl", "true", LABELS, lambda: LOGITS, seeded())
    assert torch.equal(divergence(there), kl_divergence(LOGITS, there, "none"))


def test_targeted_losses_are_largest_at_the_target():
    labels, targets = torch.zeros(1, dtype=torch.long), torch.tensor([2])
    losses: list[LossName] = ["cross_entropy", "margin", "dlr"]
    assert set(losses) == set(TARGETED)
    for loss in losses:
        climb = towards(loss, labels, targets)
        reached = climb(torch.tensor([[0.0, 1.0, 5.0, 2.0]]))
        assert reached > climb(torch.tensor([[5.0, 1.0, 0.0, 2.0]])), loss


def test_a_goal_can_be_cut_down_to_some_images():
    for objective in (away_from("dlr", LABELS), towards("dlr", LABELS, LABELS - 1)):
        assert torch.equal(objective[torch.tensor([1])](LOGITS[1:]), objective(LOGITS)[1:])
        assert torch.equal(objective[torch.tensor([True, False])](LOGITS[:1]), objective(LOGITS)[:1])


def test_wrong_classes_are_drawn_alike():
    draws, labels = (torch.arange(3000) + 0.5) / 3000, torch.full((3000,), 2)
    assert wrong_class(draws, labels, 4).bincount(minlength=4).tolist() == [1000, 1000, 0, 1000]
    # The largest float below one still gives a class.
    assert wrong_class(torch.tensor([1 - 2**-24]), torch.tensor([1]), 1000).item() == 999
    with pytest.raises(InputError, match="1 class"):
        wrong_class(draws, labels, 1)


def test_clean_logits_are_those_of_evaluation_mode(tiny, images):
    tiny.train()
    logits = clean_logits(tiny, images)()
    assert tiny.training and not logits.requires_grad
    assert torch.equal(logits, tiny.eval()(images))


class Linear(nn.Module):
    """Logits W x, whose gradients are known in closed form."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def test_the_least_likely_class_gives_the_direction(rng):
    """-∇J(x, y_LL) = w_LL - Σ p_k w_k, by hand for a linear model."""
    model, images = Linear(torch.randn(5, 9, generator=rng)), 0.3 + 0.4 * torch.rand(8, 1, 3, 3, generator=rng)
    labels, weight = torch.zeros(8, dtype=torch.long), model.weight.detach()
    logits = model(images).detach()
    uphill = weight[logits.argmin(1)] - logits.softmax(1) @ weight
    want = images + 4 / 255 * uphill.sign().view_as(images)
    threat = Threat(norm=Linf(), epsilon=Ratio(4, 255))
    assert torch.allclose(StepLl()(model, images, labels, threat, seeded()), want, atol=1e-6)
    # Several grey levels on, the class meant is still that of the clean image.
    far = IterLl()(model, images, labels, threat.at(Ratio(32, 255)), seeded())
    clean_target = logits.argmin(1)
    assert (cross_entropy(model(far), clean_target) < cross_entropy(model(images), clean_target)).all()
    assert (model(far).argmin(1) != clean_target).any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss": "kl", "start": "zero"}, "start 'zero' with loss 'kl'"),
        ({"loss": "kl", "aim": "random"}, "no target"),
        ({"loss": "kl", "aim": "least_likely"}, "no target"),
    ],
)
def test_losses_without_gradient_or_target_are_refused(changes, message):
    fields = {"steps": 1, "step_size": Ratio(1, 255), "start": "uniform", "loss": "margin", "restarts": 1}
    with pytest.raises(ValueError, match=message):
        Pgd(**fields | changes)
