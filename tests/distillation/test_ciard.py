"""CIARD against its equation, gradients too, in float64; and its robust teacher beside torch's own descent."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.ciard import Ciard, CiardMethod
from components.methods.parts.contract import Method
from tests.parts.equations import crafted, network, objective_of, require_equal, rows, teacher, trained
from tests.parts.method_members import STUDENT_ATTACK, ciard, frozen, taught_attack
from tests.parts.plain_sums import mean, plain_cross_entropy, plain_kl, plain_softmax
from tests.parts.tiny_net import TinyNet

FIELDS: dict[str, Any] = {
    "attack": STUDENT_ATTACK,
    "reduction": "batch_mean",
    "temperature_step": 0.1,
    "temperature_min": 1.5,
    "temperature_max": 10.0,
    "balance_milestones": (),
    "balance_decay": 1.0,
    "push_temperature": 5.0,
    "push_weight": 0.7,
    "teacher_learning_rate": 0.1,
    "teacher_momentum": 0.1,
    "teacher_weight_decay": 2e-4,
    "teacher_start": 0,
    "epochs": 6,
}


def magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value)))


@pytest.mark.parametrize("label_weight", [0.0, 0.2])
@pytest.mark.parametrize(("reduction", "divide_by"), [("batch_mean", 1), ("class_mean", 3)])
def test_it_equals_its_equation(reduction, divide_by, label_weight, images, labels):
    """The robust teacher learns in that step, and answers as it was before; the scale is a constant to the gradient."""
    batch, (model, weight), robust, clean = Batch.of(images.double(), labels), trained(1), teacher(2), teacher(3)
    fields = Ciard(**{**FIELDS, "reduction": reduction, "label_weight": label_weight})
    found, answered = labels.tolist(), clean(batch.images).argmax(1).tolist()
    assert 0 < sum(a != y for a, y in zip(answered, found, strict=True)) < len(found)

    def plain(images_adv: Tensor) -> float:
        attacked = rows(model, images_adv)
        sides = ((robust, images_adv, attacked), (clean, batch.images, rows(model, batch.images)))
        losses = [
            mean([plain_kl(plain_softmax(q, 1.5), z) for q, z in zip(rows(net, at), z_student, strict=True)])
            / divide_by
            for net, at, z_student in sides
        ]
        mistaken = [
            plain_kl(plain_softmax(q), [value / 5 for value in z])
            for q, z, y in zip(rows(clean, images_adv), attacked, found, strict=True)
            if max(range(3), key=lambda k: q[k]) != y
        ]
        assert 0 < len(mistaken) < len(found)
        pushed = mean(mistaken) / divide_by
        scale = 10.0 ** (min(map(magnitude, losses)) - magnitude(pushed))
        hard = mean([plain_cross_entropy(z, y) for z, y in zip(attacked, found, strict=True)])
        return (1 - label_weight) * (sum(losses) - 0.7 * scale * pushed) + label_weight * hard

    require_equal(fields.build(clean, robust).double(), model, batch, plain, [weight])


@pytest.mark.parametrize(("size", "scale"), [(1.0, 1.0), (30.0, 0.1)])
def test_the_push_has_the_size_of_the_smaller_loss(size, scale, images, labels):
    """The clean teacher's mistakes in two sizes: beside losses between 0.1 and 10, the term stays between them."""
    batch, model, clean = Batch.of(images.double(), labels), network(1), network(3, 3.0)
    with torch.no_grad():
        clean.get_parameter("4.weight").mul_(size)
    method = Ciard(**FIELDS).build(clean, teacher(2)).double()
    parts = objective_of(method, model, batch, batch.images).parts
    sizes = [magnitude(float(parts[name])) for name in ("loss_robust", "loss_clean", "loss_push")]
    assert float(parts["push_scale"]) == pytest.approx(10.0 ** (min(sizes[:2]) - sizes[2]))
    assert float(parts["push_scale"] * parts["loss_push"]) < 10 ** (min(sizes[:2]) + 1)


def test_without_mistakes_there_is_no_push(images):
    batch, model, clean = images.double(), network(1), teacher(3)
    right = Batch.of(batch, clean(batch).argmax(1))
    for changes in ({}, {"push_weight": 0.0}):
        method = Ciard(**{**FIELDS, **changes}).build(clean, teacher(2)).double()
        loss = objective_of(method, model, right, batch)
        losses = loss.parts["loss_robust"] + loss.parts["loss_clean"]
        assert float(loss.total.detach()) == pytest.approx(float(losses))
        pushed = {name: float(loss.parts[name]) for name in loss.parts if "push" in name or "mistakes" in name}
        assert set(pushed.values()) <= {0.0} and bool(pushed) != bool(changes)


def explicit(robust: nn.Module, batch: Batch, images: list[Tensor], rates: list[float], mode: str) -> nn.Module:
    """The published order of a step of the teacher: clean images, attacked ones, torch's descent."""
    robust = copy.deepcopy(robust).requires_grad_(True).train(mode != "eval")
    optimizer = torch.optim.SGD(robust.parameters(), lr=1.0, momentum=0.5, weight_decay=2e-4)
    for images_adv, rate in zip(images, rates, strict=True):
        if mode == "train":
            with torch.no_grad():
                robust(batch.images)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(robust(images_adv), batch.labels)
        if rate:
            loss.backward()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    return robust


@pytest.mark.parametrize("mode", ["train", "train_attacked", "eval"])
def test_the_robust_teacher_goes_on_as_torch_would_have_it(mode, images, labels, linf):
    """Weights and statistics over six epochs of a step, of which it learns in the last four; its rate falls to 0."""
    batch, robust, student = Batch.of(images.double(), labels), frozen(12).double(), TinyNet().double().train()
    fields = Ciard(**{**FIELDS, "teacher_momentum": 0.5, "teacher_start": 2, "teacher_batch_norm": mode})
    method, before = fields.build(frozen(11).double(), robust).double().train(), copy.deepcopy(robust.state_dict())
    seen, rates = [], []
    for epoch in range(6):
        method.begin_epoch(epoch)
        images_adv = crafted(method, student, batch)
        objective_of(method, student, batch, images_adv)
        seen.append(images_adv)
        way = (epoch - 1) / 4
        falls = (0.5 + 0.5 * math.cos(math.pi * way)) * math.exp(-0.01 * way**2)
        rates.append(0.1 * falls if epoch >= 2 else 0.0)
    wanted = explicit(robust, batch, seen, rates, mode)
    found = dict(method.get_submodule("robust_teacher").state_dict())
    for name, tensor in wanted.state_dict().items():
        assert torch.allclose(found[name], tensor, atol=1e-12), name
    moved = [name for name in before if not torch.equal(found[name], before[name])]
    assert any("running" in name for name in moved) == (mode != "eval") and "head.weight" in moved
    # The one that was given is somebody else's.
    assert all(torch.equal(tensor, before[name]) for name, tensor in robust.state_dict().items())


def test_its_rate_is_the_published_one():
    """1e-4 (½ + ½ cos π(e - 50)/250) exp(-0.01 (e - 50)²/250²) with e counted from 1, and none up to epoch 50."""
    method = ciard(teacher_learning_rate=1e-4, teacher_start=50, epochs=300)
    assert isinstance(method, CiardMethod)
    assert [method.rate_of(epoch) for epoch in (0, 49)] == [0.0, 0.0]
    for counted in (51, 175, 299):
        falls = (0.5 + 0.5 * math.cos(math.pi * (counted - 50) / 250)) * math.exp(-0.01 * (counted - 50) ** 2 / 250**2)
        assert method.rate_of(counted - 1) == pytest.approx(1e-4 * falls, rel=1e-12)
    assert method.rate_of(299) == pytest.approx(0.0, abs=1e-12)


def test_an_attack_that_asks_the_robust_teacher_leaves_its_statistics(images, labels, linf):
    batch, method = Batch.of(images, labels), ciard(attack=taught_attack("kl_teacher_held"))
    method.train()
    before = copy.deepcopy(method.get_submodule("robust_teacher").state_dict())
    crafted(method, TinyNet().train(), batch)
    after = method.get_submodule("robust_teacher").state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(module.training for module in method.get_submodule("robust_teacher").modules())


@pytest.mark.parametrize("mode", ["train", "train_attacked", "eval"])
def test_its_teacher_is_in_the_mode_of_its_field(mode):
    method: Method = ciard(teacher_batch_norm=mode)
    for _ in range(2):
        assert method.get_submodule("robust_teacher").training == (mode != "eval")
        assert not method.get_submodule("clean_teacher").training
        method.train()
    assert not any(p.requires_grad for p in method.parameters())


def test_the_student_s_gradient_does_not_reach_its_teachers(images, labels, linf):
    method, student = ciard(), TinyNet().train()
    method.begin_epoch(1)
    objective_of(method, student, Batch.of(images, labels), images).total.backward()
    assert all(parameter.grad is None for parameter in method.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
