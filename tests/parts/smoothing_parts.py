"""What the tests of ConvergeSmooth share: its fields, a method whose losses are given, methods of one step."""

import pytest
import torch

from components.methods.parts.contract import Loss, Method
from components.wrappers.converge_smooth import Smoothed, Smoothing
from tests.parts.method_fields import SMOOTHING
from tests.parts.method_members import MEMBERS

both_forms = pytest.mark.parametrize("form", ["batch", "example"])
# Each call makes a new one: with batch statistics and with running ones, with a graph at the start, with a memory.
ONE_STEP = {name: MEMBERS[name] for name in ("fgsm_rs", "n_fgsm", "gradalign", "fgsm_mep")}
by_method = pytest.mark.parametrize("name", ONE_STEP)


def smoothing(**changes) -> Smoothing:
    return Smoothing(**{**SMOOTHING, "stride_min": 0.02, **changes})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_course(method: Smoothed, u: float, u_before: float, u_adversarial: float) -> Smoothed:
    """`method` at the start of an epoch after two with these means."""
    means = torch.tensor([u, u_before, u_adversarial], dtype=torch.float64)
    method.load_state_dict(method.state_dict() | {"means": means})
    method.begin_epoch(5)
    return method


class Scripted(Method):
    """A method whose losses are given: leaves, so that the gradient of the total by each of them can be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.clean = self.adversarial = torch.zeros(0)

    def next(self, num: int, mean: float, rng: torch.Generator) -> None:
        noise = torch.randn(2, num, generator=rng, dtype=torch.float64) * 0.05
        self.clean, self.adversarial = (mean + noise[0]).requires_grad_(), (mean / 2 + noise[1]).requires_grad_()

    def loss(self, model, batch, threat, rng) -> Loss:
        total = 3 * self.adversarial.mean()
        return Loss(total, {"own": total.detach()}, adversarial=self.adversarial, clean=self.clean)
