"""Names of points on a chart: whatever the points are, no name covers a mark or another name or leaves the drawing."""

import math
import random
from itertools import combinations
from xml.etree import ElementTree

import pytest

from components.reports.charts import Plot, percent_axis
from components.reports.robustness.labels import MARK, Box, Point, draw, placed

FRAME = (46.0, 12.0, 446.0, 292.0)
NAMES = ("clean teacher", "robust teacher", "student", "a", "student of two teachers, again", "wide", "tall one", "x y")
# How far apart the points are: all over the drawing, near each other, nearly equal, equal.
SPREADS = (1.0, 0.1, 0.01, 0.0)


def random_points(seed: int, spread: float) -> list[tuple[float, float]]:
    rng = random.Random(f"{seed} {spread}")
    middle = rng.random(), rng.random()

    def around(centre: float, low: float, high: float) -> float:
        share = centre + spread * (rng.random() - centre)
        return low + share * (high - low)

    left, top, right, bottom = FRAME
    return [(around(middle[0], left, right), around(middle[1], top, bottom)) for _ in range(rng.randint(1, len(NAMES)))]


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("seed", range(8))
def test_no_name_covers_a_mark_or_another_name(seed: int, spread: float) -> None:
    points = random_points(seed, spread)
    scales = [1 + place % 3 / 2 for place in range(len(points))]
    names = placed(NAMES[: len(points)], points, scales, FRAME)
    boxes = [name.box for name in names if name]
    assert len(boxes) == len(points), "there is room for all"
    reach = [MARK * scale for scale in scales]
    marks = [Box(x - r, y - r, x + r, y + r) for (x, y), r in zip(points, reach, strict=True)]
    assert not any(box.meets(mark) for box in boxes for mark in marks)
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))
    assert all(box.inside(Box(*FRAME)) for box in boxes)


@pytest.mark.parametrize("spread", SPREADS)
def test_a_name_is_beside_its_mark_or_a_line_leads_to_it(spread: float) -> None:
    points = random_points(3, spread)
    for name, point in zip(placed(NAMES[: len(points)], points, [1.0] * len(points), FRAME), points, strict=True):
        assert name and (name.led or math.dist(point, name.box.nearest(*point)) < 3 * MARK)


def test_a_single_point_has_its_name_beside_it_and_off_its_own_arms() -> None:
    arms = [((150.0, 150.0), (250.0, 150.0)), ((200.0, 100.0), (200.0, 200.0))]
    (name,) = placed(["student"], [(200.0, 150.0)], [1.0], FRAME, arms)
    assert name and not name.led and not any(name.box.crossed_by(*arm) for arm in arms)


def test_marks_in_one_place_are_told_apart_by_size_and_each_has_its_name() -> None:
    plot = Plot(percent_axis("x"), percent_axis("y"), width=460, height=330)
    draw(plot, [Point(name, 0.99, 0.5, shape, name) for shape, name in enumerate(NAMES[:3])])
    svg = plot.render("three in one place")
    drawn = [mark for mark in ElementTree.fromstring(svg).iter("path") if "mark" in mark.get("class", "")]
    sizes = [float(mark.get("transform", "").partition("scale(")[2].rstrip(")") or 1) for mark in drawn]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    assert all(f">{name}<" in svg for name in NAMES[:3])


def test_a_line_crosses_a_box_only_where_it_has_a_part_in_it() -> None:
    box = Box(0, 0, 10, 10)
    assert box.crossed_by((-5, 5), (15, 5)) and box.crossed_by((-5, -5), (15, 15)) and box.crossed_by((5, 5), (6, 6))
    assert not any(box.crossed_by(*line) for line in [((-5, 5), (-1, 5)), ((5, 11), (15, 99)), ((0, -5), (-5, 0))])
