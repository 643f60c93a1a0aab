"""What all students do alike: in which order they pass their images, and in which precision temperatures divide."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation import DISTILLATIONS
from components.distillation.kd_swa import KdSwa
from components.methods.parts.contract import Crafting, Method, Teacher
from tests.parts.equations import objective_of
from tests.parts.method_members import MEMBERS, STUDENT_ATTACK, frozen
from tests.parts.tiny_net import TinyNet

# Batch norm's running statistics forget: the last pass counts most.
ORDERS = {
    "adaad": ["clean", "attacked"],
    "akd": ["attacked"],
    "ard": ["attacked", "clean"],
    "b_mtard": ["attacked", "clean"],
    "ciard": ["clean", "attacked"],
    "iad_1": ["attacked", "clean"],
    "iad_2": ["attacked", "clean"],
    "kd_swa": ["attacked"],
    "mtard": ["attacked", "clean"],
    "peer": ["attacked", "clean"],
    "rslad": ["attacked", "clean"],
    "saad": ["attacked", "mirrored", "clean"],
}


def test_there_is_an_order_for_every_member():
    assert list(ORDERS) == list(DISTILLATIONS)


@pytest.mark.parametrize("name", ORDERS)
def test_images_are_passed_in_this_order(name, images, labels):
    batch, images_adv, seen = Batch.of(images, labels), (images + 0.1).clamp(0, 1), list[str]()
    known = {"clean": images, "attacked": images_adv, "mirrored": images - (images_adv - images)}
    model, method = TinyNet().train(), MEMBERS[name]().train()
    method.begin_epoch(2)
    model.register_forward_pre_hook(
        lambda _, args: seen.extend(word for word, one in known.items() if torch.equal(one, args[0]))
    )
    objective_of(method, model, batch, images_adv)
    assert seen == ORDERS[name]


class Far(nn.Module):
    """A network whose logits are far from 0, in float32 or the same numbers in float64."""

    def __init__(self, network: nn.Module, scale: float = 1) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        return (self.scale * self.network(images.float()) + 3000).to(images.dtype)


def far(method: Method) -> Method:
    """The method with all its networks so far, and surer than the student: errors would cancel between equals."""
    for name, child in list(method.named_children()):
        if isinstance(child, Teacher):
            child.network = Far(child.network, 20)
        elif child in method.companions():
            setattr(method, name, Far(child, 20))
    return method


# At temperatures that are no powers of two, whose quotients would be exact.
SOFT: dict[str, Callable[[], Method]] = {name: MEMBERS[name] for name in ("ard", "ciard", "peer")}
SOFT["kd_swa"] = lambda: KdSwa(attack=STUDENT_ATTACK, clean_weight=0.1, robust_weight=0.6, temperature=3).build(
    frozen(11), frozen(12)
)


@pytest.mark.parametrize("name", SOFT)
def test_quotients_of_large_logits_keep_their_decimals(name, images, labels):
    """The loss in float32 is that of the same logits in float64."""
    torch.manual_seed(3)
    method, model, losses = far(SOFT[name]()), Far(TinyNet()).eval(), list[float]()
    for dtype in (torch.float32, torch.float64):
        one = copy.deepcopy(method)
        assert isinstance(one, Crafting)
        batch = Batch.of(images.to(dtype), labels)
        losses.append(float(one.objective(model, batch, (0.9 * images).to(dtype)).total.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6, abs=3e-8)
