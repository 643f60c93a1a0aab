"""Where ConvergeSmooth is off: jumps of each schedule's learning rate, and the epochs around them."""

import pytest
from torch import nn

from components.data.batch import Batch
from components.schedules import SCHEDULES
from components.schedules.constant import Constant
from components.schedules.cosine import Cosine
from components.schedules.cyclic import Cyclic
from components.schedules.linear import Linear
from components.schedules.one_cycle import OneCycle
from components.schedules.parts.schedule import jumps
from components.schedules.step import Step
from components.wrappers.converge_smooth import Smoothing
from tests.parts.method_members import MEMBERS
from tests.parts.smoothing_parts import Scripted, seeded, smoothing

JUMPS = [
    (Constant(), []),
    (Step(milestones=(4, 6, 12), decay=0.1), [4.0, 6.0]),
    (Step(milestones=(0, 3), decay=0.5), [3.0]),
    (Cosine(warmup=2.0), []),
    (Cosine(warmup=0.1), []),
    (Linear(warmup=0), []),
    (Linear(warmup=2.0), []),
    (OneCycle(start=0.1, peak=0.4), []),
    (Cyclic(peak=0.5), []),
    (Cyclic(peak=0.01), []),
]


def test_every_schedule_is_asked_for_its_jumps():
    assert {type(schedule) for schedule, _ in JUMPS} == set(SCHEDULES.values())


@pytest.mark.parametrize("schedule, want", JUMPS, ids=lambda value: str(value))
def test_jumps_of_a_schedule(schedule, want):
    assert jumps(schedule, 10) == want


class Sawtooth:
    """A schedule that restarts within an epoch."""

    def factor(self, progress: float, epochs: int) -> float:
        return 1 - (progress % 2.5) / 2.5


def test_a_jump_within_an_epoch_is_found_where_it_is():
    assert jumps(Sawtooth(), 6) == pytest.approx([2.5, 5.0], abs=1e-9)
    method = smoothing(guard=0).build(MEMBERS["pgd_at"](), Sawtooth(), 6)
    assert [epoch for epoch in range(6) if epoch not in method.guarded] == [0, 1, 3, 4]


def active_epochs(fields: Smoothing, schedule, epochs: int, model: nn.Module, batch: Batch, threat) -> list[int]:
    inner = Scripted()
    method, found = fields.build(inner, schedule, epochs), []
    for epoch in range(epochs):
        inner.next(12, 1.0 + epoch % 2, seeded(epoch))
        method.begin_epoch(epoch)
        parts = method.loss(model, batch, threat, seeded()).parts
        method.end_epoch(model)
        if float(parts["smooth_above"] + parts["smooth_below"]):
            found.append(epoch)
    return found


def test_guard_windows_of_the_published_schedule(tiny, images, labels, linf):
    """110 epochs, decays after 100 and 105, the end as if it were one: epochs 2 to 98, 102, 103, 107 and 108."""
    fields, step = smoothing(warm_up=2, guard=1), Step(milestones=(100, 105), decay=0.1)
    found = active_epochs(fields, step, 110, tiny, Batch.of(images, labels), linf)
    assert found == [*range(2, 99), 102, 103, 107, 108]


@pytest.mark.parametrize("schedule, want", JUMPS, ids=lambda value: str(value))
def test_guard_windows_of_every_schedule(schedule, want, tiny, images, labels, linf):
    found = active_epochs(smoothing(warm_up=3), schedule, 10, tiny, Batch.of(images, labels), linf)
    assert found == [e for e in range(3, 10) if all(abs(e - centre) > 1 for centre in [*want, 10])]
