"""The fast methods' ingredients written out plainly in float64, and a network to try them on."""

import torch
from torch import Tensor, nn

from components.foundation.params import Ratio
from components.methods.fgsm_mep import FgsmMep

EPSILON, STEP = 8 / 255, 10 / 255
SMOOTHING = 0.1
NEARLY = {"rtol": 0, "atol": 1e-12}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_network() -> nn.Module:
    """A float64 network with batch norm and without kinks, so that finite differences hold."""
    torch.manual_seed(3)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(256, 3))
    return nn.Sequential(*layers).double().train()


def fgsm_mep(**changes: object) -> FgsmMep:
    fields = {
        "step_size": Ratio(10, 255),
        "momentum": 0.3,
        "reset_every": 2,
        "weight": 10.0,
        "label_smoothing": SMOOTHING,
        "align": False,
        "batch_norm": "train",
        "craft": "smoothed",
    }
    return FgsmMep(**fields | changes)  # pyright: ignore


def plain_loss(logits: Tensor, labels: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Cross-entropy written out, averaged over the images."""
    target = torch.full_like(logits, smoothing / logits.shape[1])
    target[range(len(labels)), labels] += 1 - smoothing
    return -(target * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1).mean()


def plain_gradient(model: nn.Module, images: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(plain_loss(model(leaf), labels, smoothing), leaf)[0]


def weight_gradients(model: nn.Module, total: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(total, list(model.parameters()), allow_unused=False))


def require_same(model: nn.Module, got: Tensor, want: Tensor) -> None:
    """Values and weight gradients of two losses agree."""
    assert torch.allclose(got, want, **NEARLY)
    for mine, its in zip(weight_gradients(model, got), weight_gradients(model, want), strict=True):
        assert torch.allclose(mine, its, **NEARLY)


def plus_or_minus(images: Tensor, rng: torch.Generator) -> Tensor:
    return EPSILON * torch.where(torch.rand(images.shape, generator=rng) < 0.5, 1.0, -1.0).double()


def within(values: Tensor, centre: Tensor, radius: float) -> Tensor:
    """Clipped to the ball and to the pixel range, entry by entry."""
    return torch.minimum(torch.maximum(values, centre - radius), centre + radius).clamp(0, 1)
