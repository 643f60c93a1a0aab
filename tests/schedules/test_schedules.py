"""Schedules follow their curves."""

from functools import partial

import pytest
import torch

from components.schedules import SCHEDULES
from components.schedules.constant import Constant
from components.schedules.cosine import Cosine
from components.schedules.cyclic import Cyclic
from components.schedules.linear import Linear
from components.schedules.one_cycle import OneCycle
from components.schedules.parts.schedule import factor_of_step, momentum
from components.schedules.step import Step

CURVES = [
    (Constant(), {0.0: 1, 5.0: 1}),
    (Step(milestones=(4, 6), decay=0.1), {3.99: 1, 4.0: 0.1, 5.99: 0.1, 6.0: 0.01}),
    (Constant(warmup=4.0), {0.0: 0, 1.0: 0.25, 4.0: 1, 10.0: 1}),
    (Step(milestones=(4, 6), decay=0.1, warmup=2.0), {0.0: 0, 1.0: 0.5, 2.0: 1, 3.99: 1, 4.0: 0.1, 6.0: 0.01}),
    (Step(milestones=(1,), decay=0.1, warmup=2.0), {0.5: 0.25, 1.0: 0.05, 2.0: 0.1}),
    (Linear(warmup=0.0), {0.0: 1, 2.5: 0.75, 10.0: 0}),
    (Linear(warmup=2.0), {0.0: 0, 1.0: 0.5, 2.0: 1, 6.0: 0.5, 10.0: 0}),
    (Linear(warmup=20.0), {0.0: 0, 5.0: 0.25, 10.0: 0.5}),
    (Cosine(warmup=0.0), {0.0: 1, 5.0: 0.5, 10.0: 0}),
    (Cosine(warmup=2.0), {0.0: 0, 1.0: 0.5, 2.0: 1, 6.0: 0.5, 10.0: 0}),
    (OneCycle(start=0.1, peak=0.4), {0.0: 0.1, 2.0: 0.55, 4.0: 1, 7.0: 0.5, 10.0: 0}),
    (Cyclic(peak=0.5), {0.0: 0, 2.5: 0.5, 5.0: 1, 7.5: 0.5, 10.0: 0}),
]


def test_every_schedule_has_its_curve():
    assert {type(schedule) for schedule, _ in CURVES} == set(SCHEDULES.values())


@pytest.mark.parametrize("schedule, points", CURVES, ids=lambda value: type(value).__name__)
def test_schedules(schedule, points):
    for progress, factor in points.items():
        assert schedule.factor(progress, 10) == pytest.approx(factor, abs=1e-9)


@pytest.mark.parametrize("kind", [Constant, partial(Step, milestones=(4,), decay=0.1), Cosine, Linear])
def test_the_first_step_of_a_warm_up_takes_its_share_of_the_rate(kind):
    """Of eight steps in two epochs of four: 1/8, 2/8, …, 1; from there on the schedule alone."""
    schedule, alone = (kind(warmup=warmup) for warmup in (2.0, 0.0))
    factors = [factor_of_step(schedule, step / 4, 10, 1 / 4) for step in range(40)]
    assert factors[:8] == pytest.approx([step / 8 for step in range(1, 9)])
    # Of what follows, cosine and line are stretched over the epochs that are left.
    rest = [schedule.factor(step / 4, 10) for step in range(8, 40)]
    assert factors[8:] == rest and rest[0] == 1 == factor_of_step(alone, 0.0, 10, 1 / 4)
    assert kind in (Cosine, Linear) or rest == [alone.factor(step / 4, 10) for step in range(8, 40)]


def test_a_step_within_a_warm_up_counts_milestones_from_its_begin():
    schedule = Step(milestones=(1,), decay=0.1, warmup=2.0)
    assert [factor_of_step(schedule, at, 10, 0.5) for at in (0.5, 1.0)] == pytest.approx([0.5, 0.075])


def test_other_schedules_have_the_rate_of_a_steps_begin():
    for schedule in (OneCycle(start=0.1, peak=0.4), Cyclic(peak=0.5)):
        assert factor_of_step(schedule, 2.0, 10, 0.25) == schedule.factor(2.0, 10)


def torch_momenta(steps: int, **kwargs) -> list[float]:
    """The momentum before each step under one of torch's own schedulers, which move it between 0.8 and 0.9."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    make = kwargs.pop("make")
    scheduler, found = make(optimizer, base_momentum=0.8, max_momentum=0.9, **kwargs), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    return found


def test_cyclic_momentum_is_that_of_torch():
    want = torch_momenta(
        10, make=torch.optim.lr_scheduler.CyclicLR, base_lr=0.0, max_lr=1.0, step_size_up=4, step_size_down=6
    )
    schedule = Cyclic(peak=0.4, momentum_at_peak=0.8)
    assert [momentum(schedule, step, 10, 0.9) for step in range(10)] == pytest.approx(want, abs=1e-12)
    assert want[4] == pytest.approx(0.8)


def test_one_cycle_momentum_is_that_of_torch():
    """Torch puts the peak at step pct_start · total_steps - 1, here 4, and the end at step 10."""
    want = torch_momenta(10, make=torch.optim.lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=11, pct_start=5 / 11)
    schedule = OneCycle(start=0.04, peak=0.4, momentum_at_peak=0.8)
    assert [momentum(schedule, step, 10, 0.9) for step in range(10)] == pytest.approx(want, abs=1e-12)
    assert want[4] == pytest.approx(0.8)


@pytest.mark.parametrize("schedule, points", CURVES, ids=lambda value: type(value).__name__)
def test_momentum_stays_where_no_schedule_moves_it(schedule, points):
    assert all(momentum(schedule, progress, 10, 0.9) == 0.9 for progress in points)
