"""IGDM against its equation in float64, gradients too, around every member of the family; and what a wrapper owes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.data.batch import Batch
from components.distillation import DISTILLATIONS
from components.distillation.akd import Akd
from components.foundation.errors import InputError
from components.methods.parts.contract import Crafting, Loss, Method, Teacher, needs
from components.methods.standard import Standard
from components.numerics.cost import PassCounter
from components.wrappers.awp import Awp
from components.wrappers.igdm import Igdm
from tests.parts.equations import WIDE, crafted, objective_of, require_equal, rows, seeded, teacher, trained
from tests.parts.method_members import MEMBERS, STUDENT_ATTACK, smoothed
from tests.parts.plain_sums import mean, plain_cross_entropy, plain_kl, plain_softmax
from tests.parts.tiny_net import TinyNet
from tests.training.test_training import new_run, recipe

EPOCHS = 4
IGDM = Igdm(alpha=3.0)
GUIDED = [name for name in DISTILLATIONS if name != "peer"]
every = pytest.mark.parametrize("name", GUIDED)


def differences(network: nn.Module, above: Tensor, below: Tensor) -> list[list[float]]:
    pairs = zip(rows(network, above), rows(network, below), strict=True)
    return [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]


@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_it_equals_its_equation(epoch, images, labels):
    """Around AKD. Some pixels are 0 or 1, so that x - δ leaves the range, where it is not clipped."""
    images = images.double()
    images[:, :, :4] = images[:, :, :4].round()
    batch, (model, weight), advising = Batch.of(images, labels), trained(1), teacher(2)

    def plain(images_adv: Tensor) -> float:
        attacked, target = rows(model, images_adv), rows(advising, images_adv)
        hard = mean([plain_cross_entropy(z, y) for z, y in zip(attacked, labels.tolist(), strict=True)])
        soft = mean([plain_kl(plain_softmax(q), z) for q, z in zip(target, attacked, strict=True)])
        mirrored = images - (images_adv - images)
        assert mirrored.min() < 0 and mirrored.max() > 1
        wanted, own = (differences(one, images_adv, mirrored) for one in (advising, model))
        matched = mean([plain_kl(plain_softmax(q), z) for q, z in zip(wanted, own, strict=True)])
        return 0.4 * hard + 0.6 * soft + 3 * (epoch + 1) / EPOCHS * matched

    method = IGDM.build(Akd(attack=STUDENT_ATTACK, teacher_weight=0.6).build(advising), EPOCHS)
    method.begin_epoch(epoch)
    require_equal(method, model, batch, plain, [weight])


def prepared(name: str, images, labels) -> tuple[Any, nn.Module, Batch]:
    """A member, a model in training mode and a batch, all in float64 and the same at each call."""
    torch.manual_seed(3)
    model, method = TinyNet().double().train(), MEMBERS[name]()
    method.begin_epoch(2)
    return method.double().train(), model, Batch.of(images.double(), labels)


@every
def test_it_adds_its_term_to_every_member(name, images, labels):
    """And leaves the member's own loss, attack and memory as they are without it."""
    method, model, batch = prepared(name, images, labels)
    images_adv = crafted(method, model, batch)
    loss = objective_of(method, model, batch, images_adv)
    assert loss.attacked_logits is not None
    with torch.no_grad(), eval_mode(method.robust_teacher):
        mirrored = batch.images - (images_adv - batch.images)
        rise = method.robust_teacher(images_adv) - method.robust_teacher(mirrored)
    own = loss.attacked_logits - model(mirrored)
    term = nn.functional.kl_div(own.log_softmax(1), rise.softmax(1), reduction="batchmean")
    total = loss.total + 3 * 3 / EPOCHS * term
    total.backward()
    inner, other, batch = prepared(name, images, labels)
    wrapped = IGDM.build(inner, EPOCHS)
    wrapped.begin_epoch(2)
    assert torch.equal(crafted(wrapped, other, batch), images_adv)
    found = wrapped.objective(other, batch, images_adv)
    assert float(found.total.detach()) == pytest.approx(float(total.detach()), abs=1e-9)
    assert float(found.parts["loss_gradient"]) == pytest.approx(float(term.detach()), abs=1e-9)
    found.total.backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None and torch.allclose(one.grad, two.grad, atol=1e-9)
    left, right = method.state_dict(), inner.state_dict()
    assert all(torch.allclose(left[key], right[key], 0, 0, True) for key in left)


@every
def test_the_loop_and_awp_find_in_it_what_they_find_in_the_inner_method(name, images, labels, linf):
    inner, model, batch = prepared(name, images, labels)
    wrapped = IGDM.build(inner, EPOCHS)
    assert isinstance(wrapped, Crafting) and wrapped.networks() == inner.networks()
    assert wrapped.companions() == inner.companions() and len(inner.companions()) == (name == "ciard")
    assert (wrapped.divisible, wrapped.replays, wrapped.host_decides, wrapped.label_smoothing) == (
        (inner.divisible, inner.replays, inner.host_decides, inner.label_smoothing)
    )
    assert wrapped.layers() == {"Matching": "", "method": "method."}
    awp = Awp(gamma=0.05, start=0).build(wrapped)
    loss = awp.loss(model, batch, linf, seeded())
    loss.total.backward()
    assert {"loss_rise", "loss_gradient"} <= loss.parts.keys() and float(loss.parts["loss_rise"]) > 0
    assert all(parameter.grad is not None for parameter in model.parameters())


@every
def test_student_and_teacher_are_passed_once_more(name, images, labels):
    """The teacher once more yet, where the method does not give what it has said of the attacked images."""
    method, model, batch = prepared(name, images, labels)
    images_adv, taken = crafted(method, model, batch), []
    for one in (method, IGDM.build(method, EPOCHS)):
        counters = [PassCounter(network) for network in (model, method.robust_teacher)]
        objective_of(one, model, batch, images_adv)
        taken.append([counter.take()["forward"] // len(images) for counter in counters])
    student, asked = (after - before for before, after in zip(*taken, strict=True))
    assert (student, asked) == (1, 2 if name in ("ard", "rslad", "ciard") else 1)


def around(name: str) -> Method:
    """All that may go around a member: IGDM, AWP and, where there are adversarial losses, ConvergeSmooth."""
    inner = Awp(gamma=0.05, start=1).build(IGDM.build(MEMBERS[name](), EPOCHS))
    return smoothed(inner) if name in ("akd", "iad_2", "kd_swa") else inner


@every
def test_stopped_and_continued_equals_uninterrupted(name, linf, tmp_path):
    whole, steps = new_run(around(name), linf, tmp_path / "whole", recipe())
    records = list(steps)
    assert records[1]["loss_rise"] == 0 != records[2]["loss_rise"] and records[1]["loss_gradient"] > 0
    _, steps = new_run(around(name), linf, tmp_path / "cut", recipe())
    for _ in range(3):
        next(steps)
    del steps
    again, steps = new_run(around(name), linf, tmp_path / "cut", recipe())
    assert len(list(steps)) == 2 and again.history == whole.history and again.passes == whole.passes
    left, right = whole._tensors(), again._tensors()
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert any("smooth_loss" in record for record in records) == (name in ("akd", "iad_2", "kd_swa"))


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in GUIDED])
def test_a_method_without_a_robust_teacher_is_refused(name):
    with pytest.raises(
        InputError, match=rf"^igdm: got method {name}, want one that attacks first and has a robust teacher$"
    ):
        IGDM.build(MEMBERS[name](), EPOCHS)


class Silent(Method):
    """Attacks, has a robust teacher, notes its epochs, and keeps its logits to itself."""

    def __init__(self) -> None:
        super().__init__(Standard(label_smoothing=0.25))
        self.robust_teacher = Teacher(teacher(2))
        self.noted = list[object]()

    def begin_epoch(self, epoch: int) -> None:
        self.noted.append(epoch)

    def end_epoch(self, model: nn.Module) -> None:
        self.noted.append(model)

    def craft(self, model, batch, threat, rng) -> Tensor:
        return batch.images

    def objective(self, model, batch, images_adv) -> Loss:
        return Loss(model(images_adv).sum(), {})


def test_a_method_without_logits_is_refused_at_its_first_step(images, labels):
    with pytest.raises(InputError, match=r"^igdm: Standard\(.*\) does not give the logits of its attacked images$"):
        IGDM.build(Silent(), EPOCHS).loss(trained(1)[0], Batch.of(images.double(), labels), WIDE, seeded())


def test_the_inner_method_hears_of_its_epochs():
    inner, model = Silent(), trained(1)[0]
    wrapped = IGDM.build(inner, EPOCHS)
    wrapped.begin_epoch(3)
    wrapped.end_epoch(model)
    assert inner.noted == [3, model] and wrapped.label_smoothing == 0.25


def test_what_it_asks_for_and_refuses():
    assert needs(IGDM) == ("method", "epochs")
    with pytest.raises(ValueError, match=r"alpha\n.*greater than 0"):
        Igdm(alpha=0)


def test_a_copy_has_a_teacher_of_its_own():
    wrapped = IGDM.build(MEMBERS["adaad"](), EPOCHS)
    copied = copy.deepcopy(wrapped)
    assert copied.networks()[0] is not wrapped.networks()[0]
