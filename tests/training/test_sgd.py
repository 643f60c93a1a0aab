"""The optimizer: torch's numbers, bit for bit, and no compiler imported for them."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from components.training.sgd import Sgd


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 5e-4])
@pytest.mark.parametrize("momenta", [[0.0], [0.9], [0.95, 0.85, 0.9]], ids=str)
def test_each_step_is_that_of_torch(nesterov: bool, decay: float, momenta: list[float]) -> None:
    """Also where rates and momenta change, and a parameter gets its first gradient late, or none at all."""
    if nesterov and not all(momenta):
        pytest.skip("torch refuses nesterov without momentum, as the recipe does")
    rng = torch.Generator().manual_seed(0)
    shapes = [(16, 3, 3, 3), (16,), (4, 5), (7,)]
    ours = [nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    sgd = Sgd(ours, weight_decay=decay, nesterov=nesterov)
    reference = torch.optim.SGD(theirs, 1.0, momenta[0], weight_decay=decay, nesterov=nesterov)
    for number in range(6):
        sgd.zero_grad()
        assert all(parameter.grad is None for parameter in ours)
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            absent = place == 3 or (place == 2 and number < 2)
            one.grad = None if absent else torch.randn(one.shape, generator=rng)
            other.grad = None if one.grad is None else one.grad.clone()
        rate, momentum = 0.1 / (1 + number), momenta[number % len(momenta)]
        reference.param_groups[0].update(lr=rate, momentum=momentum)
        sgd.step(rate, momentum)
        reference.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    buffers = [reference.state[other].get("momentum_buffer") for other in theirs]
    assert [one in sgd.buffers for one in ours] == [buffer is not None for buffer in buffers]
    assert all(
        torch.equal(sgd.buffers[one], found) for one, found in zip(ours, buffers, strict=True) if one in sgd.buffers
    )


def test_nothing_to_move_is_no_step() -> None:
    Sgd([nn.Parameter(torch.zeros(2))], weight_decay=0.1, nesterov=True).step(0.1, 0.9)


def test_a_training_process_imports_no_compiler() -> None:
    code = """
import sys, torch
import components.training.loop
from components.training.sgd import Sgd
parameter = torch.nn.Parameter(torch.ones(2))
sgd = Sgd([parameter], weight_decay=0.1, nesterov=True)
(parameter**2).sum().backward()
sgd.step(0.1, 0.9)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
