"""In which mode batch norm is while images are crafted: every method that attacks has the choice, and keeps to it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.attacks.parts.ascent import ascend
from components.data.batch import Batch
from components.methods.parts.contract import Method
from components.methods.parts.crafting import crafting
from components.methods.trades import Trades
from components.models.parts.batch_norm import untracked
from tests.parts.method_members import MEMBERS
from tests.parts.tiny_net import TinyNet

# Trains on clean images alone; steps along the gradient that training leaves, and so never crafts.
WITHOUT_AN_ATTACK = ("standard", "free_at")
STEPS = 4


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_mode(name: str, mode: str) -> Method:
    """The member, crafting in that mode from its first step on."""
    method = MEMBERS[name]()
    if hasattr(method.fields, "mix"):
        method.fields = replace(method.fields, mix=replace(method.fields.mix, batch_norm=mode), delay=0)
    else:
        method.fields = replace(method.fields, batch_norm=mode)
    return method


def trained(name: str, mode: str, batch: Batch, threat) -> tuple[list[float], TinyNet]:
    """The losses of some steps without an update, and the network after them."""
    torch.manual_seed(3)
    model, method, rng = TinyNet().double(), in_mode(name, mode), seeded()
    method.double()
    method.begin_epoch(0)
    totals = [float(method.loss(model, batch, threat, rng).total.detach()) for _ in range(STEPS)]
    assert model.training and all(module.training for module in model.modules())
    return totals, model


def norm_of(model: TinyNet) -> torch.nn.BatchNorm2d:
    (norm,) = (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    return norm


def num_tracked(model: TinyNet) -> int:
    """The passes that batch norm's running statistics have seen."""
    return int(norm_of(model).get_buffer("num_batches_tracked"))


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in WITHOUT_AN_ATTACK])
def test_every_method_crafts_in_the_mode_that_it_is_told(name, images, labels, linf):
    batch = Batch.of(images.double(), labels)
    results = {mode: trained(name, mode, batch, linf) for mode in ("eval", "train", "train_untracked")}
    seen = {mode: num_tracked(model) for mode, (_, model) in results.items()}
    assert seen["train"] > seen["eval"] == seen["train_untracked"] > 0
    # The batch's own statistics make the same images, whether they are kept or not; later on a method may use them.
    assert results["train"][0][0] == pytest.approx(results["train_untracked"][0][0], abs=1e-12)
    assert results["train"][0] != results["eval"][0]
    assert all(norm_of(model).track_running_stats for _, model in results.values())


def test_a_ten_step_attack_in_training_mode_equals_a_plain_loop(images, labels, linf):
    """Iterates and running statistics, with every pass tracked."""
    torch.manual_seed(3)
    model, twin = TinyNet(), TinyNet()
    twin.load_state_dict(model.state_dict())

    def cross_entropy(logits: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    with crafting(model, "train") as network:
        got = ascend(network, images, images, cross_entropy, linf, 2 / 255, 10)
    want = images
    for _ in range(10):
        leaf = want.clone().requires_grad_()
        gradient = torch.autograd.grad(cross_entropy(twin(leaf)).sum(), leaf)[0]
        moved = leaf.detach() + 2 / 255 * gradient.sign()
        want = torch.max(torch.min(moved, images + linf.radius), images - linf.radius).clamp(0, 1)
    assert torch.allclose(got, want, atol=1e-6)
    assert all(torch.equal(one, two) for one, two in zip(model.buffers(), twin.buffers(), strict=True))


def test_untracked_passes_change_nothing_even_where_one_fails(tiny, images):
    before = [buffer.clone() for buffer in tiny.buffers()]
    with pytest.raises(ZeroDivisionError), untracked(tiny):
        tiny(images)
        raise ZeroDivisionError
    assert all(torch.equal(one, two) for one, two in zip(tiny.buffers(), before, strict=True))
    tiny(images)
    assert not torch.equal(next(tiny.buffers()), before[0])


def test_the_second_clean_pass_of_trades_changes_the_statistics_alone(images, labels, linf):
    fields, batch = MEMBERS["trades"]().fields, Batch.of(images, labels)
    assert isinstance(fields, Trades)
    losses, models = [], []
    for passes in (1, 2):
        torch.manual_seed(3)
        models.append(TinyNet())
        total = replace(fields, clean_passes=passes).build().loss(models[-1], batch, linf, seeded()).total
        total.backward()
        losses.append(float(total.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-6)
    assert [num_tracked(model) for model in models] == [2, 3]
    # Clean, attacked, clean once more: momentum 0.1 of the mean that the first pass left after the second.
    mean, again = (norm_of(model).get_buffer("running_mean") for model in models)
    torch.manual_seed(3)
    clean = TinyNet()
    clean(images)
    assert torch.allclose(again, 0.9 * mean + norm_of(clean).get_buffer("running_mean"), atol=1e-6)
