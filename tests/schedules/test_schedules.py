"""Schedules follow their curves."""

import pytest

from components.schedules import SCHEDULES
from components.schedules.constant import Constant
from components.schedules.cosine import Cosine
from components.schedules.cyclic import Cyclic
from components.schedules.one_cycle import OneCycle
from components.schedules.step import Step

CURVES = [
    (Constant(), {0.0: 1, 5.0: 1}),
    (Step(milestones=(4, 6), decay=0.1), {3.99: 1, 4.0: 0.1, 5.99: 0.1, 6.0: 0.01}),
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
