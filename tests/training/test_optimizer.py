"""The optimizer is torch's own, number for number, without what its first step would import."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from components.training.optimizer import Sgd

SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
]
PROGRAM = """
import sys, torch
from components.data.normalization import Normalization
from components.foundation.params import member
from components.models import MODELS
from components.training.optimizer import Sgd
NORM, PIXELS = {"estimator": "running", "momentum": 0.1}, Normalization(method="none", offset=(0.0,), scale=(1.0,))
weight = torch.nn.Parameter(torch.ones(3))
optimizer = Sgd([weight], 0.1, 0.9)
optimizer.zero_grad()
weight.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
for name in ("small_cnn", "preact_resnet18"):
    with torch.device("meta"):
        model = member(MODELS, {"name": name, "width": 1, "batch_norm": NORM}, "model").build(10, (1, 8, 8), PIXELS)
    assert model is not None and all(weight.is_meta for weight in model.parameters())
print("imported" if "torch._dynamo" in sys.modules else "not imported")
"""


def trained(kind: type[torch.optim.SGD], settings: dict[str, Any]) -> tuple[list[Tensor], dict[str, Any]]:
    """Weights and state after five steps from the same start, taken up again from the state in between."""
    torch.manual_seed(0)
    model, images = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2)), torch.randn(8, 6)
    optimizer = kind(model.parameters(), **settings)
    for step in range(5):
        if step == 3:
            state, optimizer = optimizer.state_dict(), kind(model.parameters(), **settings)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        model(images).square().sum().mul(0.01).backward()
        optimizer.step()
    return [weight.detach() for weight in model.parameters()], optimizer.state_dict()


@pytest.mark.parametrize("settings", SETTINGS)
def test_steps_are_those_of_torch(settings: dict[str, Any]) -> None:
    (ours, state), (theirs, other) = trained(Sgd, settings), trained(torch.optim.SGD, settings)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert state["param_groups"] == other["param_groups"] and state["state"].keys() == other["state"].keys()


def test_neither_training_nor_a_model_from_a_file_imports_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "not imported\n", done.stderr
