"""Rates by layer, and layers that wait: which block is which, and what moves when."""

import pytest
import torch
from torch import nn

from components.data.normalization import Normalization
from components.foundation.params import member
from components.methods.parts.contract import Method
from components.methods.standard import Standard
from components.models import MODELS
from components.models.parts.blocks import blocks_of
from components.training.layers import Layers, groups_of, waiting
from components.training.told import rates
from components.wrappers.awp import Awp
from tests.parts.method_members import MEMBERS, WRAPPED
from tests.training.test_training import ADAMW, new_run, recipe

NORM = {"estimator": "running", "momentum": 0.1}
# Blocks of each architecture at width 1/8: first names of the first, a middle and the last one, and how many there are.
EXPECTED = {
    "small_cnn": (5, "features.0.weight", "head.2.weight"),
    "resnet18": (1 + 8 + 1, "features.0.weight", "head.linear.weight"),
    "resnet56": (1 + 27 + 1, "features.0.weight", "head.linear.weight"),
    "preact_resnet18": (1 + 8 + 1, "features.0.weight", "head.linear.weight"),
    "wide_resnet": (1 + 3 + 1, "features.0.weight", "head.linear.weight"),
    "mobilenet_v2": (1 + 17 + 1 + 1, "features.0.0.weight", "head.linear.weight"),
}


def built(name: str) -> nn.Module:
    fields = {"name": name, "width": 0.125, "batch_norm": NORM}
    fields |= {"depth": 10, "widen_factor": 1} if name == "wide_resnet" else {}
    none = Normalization(method="none", offset=(0.0,), scale=(1.0,))
    return member(MODELS, fields, "test").build(3, (1, 8, 8), none)


def standard() -> Method:
    return Standard(label_smoothing=0.0).build()


@pytest.mark.parametrize("name", EXPECTED)
def test_blocks_follow_the_network_from_the_input_to_the_head(name):
    model = built(name)
    count, first, last = EXPECTED[name]
    blocks = blocks_of(model)
    assert (len(blocks), blocks[0].names[0], blocks[-1].names[0]) == (count, first, last)
    names = [one for block in blocks for one in block.names]
    assert sorted(names) == sorted(dict(model.named_parameters())) and len(names) == len(set(names))
    # The order is that of the computation: each block is called before the next one.
    called: list[nn.Module] = []
    for block in blocks:
        block.modules[0].register_forward_hook(lambda module, *_: called.append(module))
    model.eval()(torch.rand(2, 1, 8, 8))
    assert called == [block.modules[0] for block in blocks]


def test_what_stands_outside_of_modules_belongs_to_the_first_block():
    class WithToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 4))
            self.embed, self.blocks = nn.Linear(3, 4), nn.ModuleList([nn.TransformerEncoderLayer(4, 1, 4)])
            self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    blocks = blocks_of(nn.Sequential(nn.Flatten(), nn.Sequential(WithToken())))
    assert [block.names[0].removeprefix("1.0.") for block in blocks] == [
        "embed.weight",
        "blocks.0.self_attn.in_proj_weight",
        "head.weight",
    ]
    assert "1.0.token" in blocks[0].names and "1.0.norm.weight" in blocks[1].names


def test_a_network_of_one_layer_is_its_head():
    (block,) = blocks_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    assert block.names == ["1.weight", "1.bias"]


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_rates_fall_from_the_head_to_the_input(name):
    model = built(name)
    groups = groups_of(model, standard(), Layers(decay=0.5, frozen_epochs=0))
    blocks = blocks_of(model)[::-1]
    assert [group.rate for group in groups[:-1]] == [0.5**depth for depth in range(len(blocks))]
    named = dict(model.named_parameters())
    for group, block in zip(groups[:-1], blocks, strict=True):
        assert [id(p) for p in group.parameters] == [id(named[one]) for one in block.names]
    assert groups[-1].parameters == []


def test_companions_have_the_whole_rate():
    groups = groups_of(built("small_cnn"), MEMBERS["lbgat"](), Layers(decay=0.5, frozen_epochs=0))
    assert groups[-1].rate == 1 and groups[-1].parameters


@pytest.mark.parametrize("method", ["standard", "pgd_at", "free_at", "awp", "smoothed_free_at"])
def test_until_then_only_the_head_moves_and_batch_norm_stands_still(method, linf, tmp_path):
    """Weights and running statistics in front of the head are those of the start, bit for bit; then they move."""
    members = MEMBERS | WRAPPED | {"awp": lambda: Awp(gamma=0.05, start=0).build(MEMBERS["pgd_at"]())}
    fields = recipe(optimizer=ADAMW, layers=Layers(decay=1, frozen_epochs=2), average=None, learning_rate=0.01)
    state, steps = new_run(members[method](), linf, tmp_path, fields)
    head = set(blocks_of(state.model)[-1].names)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    for record in steps:
        now = state.model.state_dict()
        moved = {name for name in now if not torch.equal(now[name], before[name])}
        wanted = set() if record["epoch"] == 0 else head if record["epoch"] <= 2 else set(now)
        assert moved == wanted, record["epoch"]
        assert all(parameter.requires_grad for parameter in state.model.parameters())


def test_a_stop_inside_leaves_all_parameters_free():
    model = built("small_cnn")
    with pytest.raises(KeyError), waiting(model, Layers(decay=1, frozen_epochs=1), 0):
        assert sum(parameter.requires_grad for parameter in model.parameters()) == 2
        raise KeyError
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        (None, []),
        (Layers(decay=1.0, frozen_epochs=0), []),
        (Layers(decay=0.5, frozen_epochs=0), ["5 blocks, of which the first has 0.062 of the head's learning rate"]),
        (Layers(decay=1.0, frozen_epochs=2), ["the head alone moves until epoch 2"]),
    ],
)
def test_what_is_told_of_layers_is_what_the_optimizer_has(layers, line):
    model = built("small_cnn")
    assert rates(model, layers) == [f"layers: {one}" for one in line]
    groups = groups_of(model, standard(), layers)
    assert not line or layers.decay == 1 or f"{groups[4].rate:.2g}" in line[0]
