"""What tests of a method's equation share: networks in float64, and the comparison with a slow, plain formula."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.params import Ratio
from components.methods.parts.contract import Crafting, Loss, Method
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from tests.parts.plain_sums import Rows, slopes

PLACES = (0, 37, 101, 255)
WIDE = Threat(norm=Linf(), epsilon=Ratio(1, 4))


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int, scale: float = 3.0) -> nn.Sequential:
    """Two layers in float64, surer than fresh weights are, that prefer no class for all images."""
    torch.manual_seed(seed)
    centred = nn.LayerNorm(64, elementwise_affine=False)
    model = nn.Sequential(nn.Flatten(), centred, nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def teacher(seed: int) -> nn.Sequential:
    return network(seed).eval().requires_grad_(False)


def trained(seed: int) -> tuple[nn.Sequential, Tensor]:
    """A network and the weights of its first layer."""
    model = network(seed)
    return model, model.get_parameter("2.weight")


def require_equal(
    method: Method, model: nn.Module, batch: Batch, plain: Callable[[Tensor], float], weights: Sequence[Tensor]
) -> None:
    """The loss and its slopes by some `weights` are those of `plain`, a function of the attacked images."""
    assert isinstance(method, Crafting)
    images_adv = method.craft(model, batch, WIDE, seeded())
    loss = method.loss(model, batch, WIDE, seeded())
    assert float(loss.total.detach()) == pytest.approx(plain(images_adv), abs=1e-9)
    gradients = torch.autograd.grad(loss.total, weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        want = slopes(lambda: plain(images_adv), weight, PLACES)
        assert gradient.flatten()[list(PLACES)].tolist() == pytest.approx(want, abs=1e-7)
        assert gradient.abs().max() > 1e-3


def crafted(method: Method, model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(method, Crafting)
    return method.craft(model, batch, WIDE, seeded())


def objective_of(method: Method, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
    assert isinstance(method, Crafting)
    return method.objective(model, batch, images_adv)


def rows(model: nn.Module, images: Tensor) -> Rows:
    return model(images).tolist()
