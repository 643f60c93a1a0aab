"""ConvergeSmooth around other methods: what it passes on, remembers, shares between processes and refuses."""

import copy

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.errors import InputError
from components.methods.parts.contract import Crafting, Loss, OneStep
from components.numerics import parallel
from components.schedules.constant import Constant
from tests.parts.method_members import MEMBERS
from tests.parts.smoothing_parts import ONE_STEP, Scripted, both_forms, on_course, seeded, smoothing


class Remembering(Scripted):
    """A method with everything that a wrapper has to pass on."""

    replays = 3
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.companion = nn.Linear(1, 1)
        self.told: list[object] = []

    def begin_epoch(self, epoch: int) -> None:
        self.told.append(epoch)

    def end_epoch(self, model: nn.Module) -> None:
        self.told.append(model)

    def loss(self, model, batch, threat, rng) -> Loss:
        self.calls = self.calls + 1
        return super().loss(model, batch, threat, rng)


def test_what_the_method_is_to_the_loop_stays(tiny, images, labels, linf):
    inner = Remembering()
    method = smoothing().build(inner, Constant(), 9)
    assert method.replays == 3 and method.companions() == [inner.companion] and "method.calls" in method.state_dict()
    method.begin_epoch(0)
    method.end_epoch(tiny)
    assert inner.told == [0, tiny]
    wrapped = smoothing(clean="start").build(ONE_STEP["fgsm_rs"](), Constant(), 9)
    assert not isinstance(wrapped, (OneStep, Crafting)) and not wrapped.networks() and wrapped.replays == 1


def test_state_continues_in_the_middle_of_an_epoch(tiny, images, labels, linf, rng):
    """Two objects, the second of which takes over with the first one's state, go on alike bit for bit."""
    fields, batch = smoothing(form="example", weight_centralisation=0.1), Batch.of(images, labels)
    first, inner = (method := fields.build(scripted := Remembering(), Constant(), 9)), scripted
    for epoch in range(3):
        method.begin_epoch(epoch)
        for _ in range(2):
            inner.next(12, 1.0, rng)
            method.loss(tiny, batch, linf, rng)
        method.end_epoch(tiny)
    method.begin_epoch(3)
    method.loss(tiny, batch, linf, rng)
    second_inner = Remembering()
    second = fields.build(second_inner, Constant(), 9)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    second.begin_epoch(3)
    with torch.no_grad():
        tiny.head.weight.add_(0.01)
    for _ in range(2):
        inner.next(12, 1.0, rng)
        second_inner.clean, second_inner.adversarial = inner.clean, inner.adversarial
        left, right = first.loss(tiny, batch, linf, rng), second.loss(tiny, batch, linf, rng)
        assert torch.equal(left.total, right.total) and float(left.parts["smooth_loss"]) > 0
        assert left.parts.keys() == right.parts.keys()
        assert all(torch.equal(left.parts[name], right.parts[name]) for name in left.parts)
    first.end_epoch(tiny)
    second.end_epoch(tiny)
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys() and any(
        key.startswith("centralisation.past.1/head") for key in states[0]
    )
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@both_forms
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_method_can_be_wrapped_or_says_why_not(name, precision, form, tiny, images, labels, linf):
    inner = MEMBERS[name]()
    clean = "start" if isinstance(inner, OneStep) else "pass"
    method = smoothing(form=form, clean=clean, stride_min=0.0, stride_max=0.0).build(inner, Constant(), 5)
    optimizer = torch.optim.SGD(tiny.parameters(), lr=0.05)
    batch = Batch.of(images, labels)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        attacked = MEMBERS[name]().loss(copy.deepcopy(tiny), batch, linf, seeded()).adversarial
    if attacked is None or (form == "example" and len(attacked) != len(images)):
        with pytest.raises(InputError, match=r"smoothing: .* want "):
            method.loss(tiny, batch, linf, seeded())
        return
    for epoch in range(4):
        method.begin_epoch(epoch)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = method.loss(tiny, batch, linf, seeded(epoch))
        assert loss.total.dtype == torch.float32 and all(not part.requires_grad for part in loss.parts.values())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        method.end_epoch(tiny)
        opened = float(loss.parts["smooth_above"] + loss.parts["smooth_below"])
        assert opened == pytest.approx(float(epoch >= 2)) and (float(loss.parts["smooth_loss"]) > 0) == (epoch >= 2)


def test_gates_and_means_are_those_of_all_processes(tiny, images, labels, linf, monkeypatch):
    """With another process whose losses are 1 higher: the gate sees the mean of both, the gradient is this one's."""
    inner = Scripted()
    method = on_course(smoothing(weight_adversarial=0.0).build(inner, Constant(), 9), 1.0, 1.0, 1.0)
    inner.clean = torch.full((4,), 0.99, dtype=torch.float64, requires_grad=True)
    inner.adversarial = torch.ones(4, dtype=torch.float64, requires_grad=True)
    batch = Batch.of(images[:4], labels[:4])
    assert float(method.loss(tiny, batch, linf, seeded()).parts["smooth_loss"]) == 0
    monkeypatch.setattr(parallel, "mean", lambda tensor, count=1: tensor.detach() + 0.5)
    loss = method.loss(tiny, batch, linf, seeded())
    assert float(loss.parts["smooth_loss"]) == pytest.approx(0.49)
    assert torch.autograd.grad(loss.total, inner.clean)[0].tolist() == pytest.approx([0.25] * 4)
    monkeypatch.setattr(parallel, "sum_", lambda tensor: tensor * torch.tensor([3.0, 2.0, 3.0, 2.0]))
    method.end_epoch(tiny)
    assert float(method.means[0]) == pytest.approx(0.99 * 1.5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weight_clean": -1.0}, r"weight_clean\n.*greater than or equal to 0 "),
        ({"guard": -1}, r"guard\n.*greater than or equal to 0 "),
        ({"stride_max": 0.01}, r"got strides 0.02 to 0.01, want stride_min <= stride_max"),
        ({"centre_epochs": 0}, r"centre_epochs\n.*greater than or equal to 1 "),
    ],
    ids=lambda value: str(value),
)
def test_fields_without_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        smoothing(**changes)


def test_start_is_for_one_step_methods(tiny, images, labels, linf):
    with pytest.raises(InputError, match=r"got clean 'start', want 'pass' around pgd_at: it is no one-step method"):
        smoothing(clean="start").build(MEMBERS["pgd_at"](), Constant(), 3)
    method = smoothing().build(MEMBERS["standard"](), Constant(), 3)
    with pytest.raises(InputError, match="smoothing: standard has no adversarial losses"):
        method.loss(tiny, Batch.of(images, labels), linf, seeded())
