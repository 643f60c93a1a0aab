"""The figure of a study of students: accuracy against robustness, and under it how the balances moved."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from components.reports.charts import LEFT, Axis, Plot, colour, mark, number_axis, percent_axis, tag, whole_axis
from components.reports.robustness import labels
from components.reports.robustness.labels import Point
from components.reports.study.contents import ArmResult, CurvePoint, Study
from components.reports.wording import title
from components.statistics.number_text import percent

WIDTH, HEIGHT = 960, 560
PANELS_ACROSS, PANEL, PANEL_HEIGHT, HEADING = 4, 240, 170, 30
# What is less robust than this share of the most robust arm is left out: it would push all others together.
NEAR = 0.5
SIDES = {"robust": 0, "clean": 1}
STEPS = 12


class Drawn(NamedTuple):
    """SVG text and the room that it takes."""

    text: str
    width: int
    height: int


def plane(document: Study, robust: Callable[[ArmResult], float], clean: Callable[[ArmResult], float]) -> Drawn:
    """Means of arms, with their names, and each seed of the last checkpoint; then a panel per balance of an arm.

    Lines from top left to bottom right join points of the same W-Robust. `robust` and `clean` are an arm's accuracies.
    """
    best = max(robust(arm) for arm in document.arms.values())
    shown = {name: arm for name, arm in document.arms.items() if robust(arm) >= NEAR * best}
    far = [
        f"{name} ({percent(clean(arm))}, {percent(robust(arm))})"
        for name, arm in document.arms.items()
        if name not in shown
    ]
    seeds = [seed for arm in shown.values() for seed in arm.seeds.values()]
    x = percent_axis("accuracy without attack, %", [seed.last["clean"].value for seed in seeds])
    y = percent_axis("", [seed.last[document.robust].value for seed in seeds])
    plot = Plot(x, y, WIDTH, HEIGHT)
    _lines(plot)
    points = []
    for index, (name, arm) in enumerate(shown.items()):
        for seed, found in arm.seeds.items():
            c, r = found.last["clean"].value, found.last[document.robust].value
            plot.mark(c, r, index, f"{name}, seed {seed}: {percent(c)} %, {percent(r)} %", "small hollow", scale=0.6)
        c, r = clean(arm), robust(arm)
        points.append(Point(name, c, r, index, f"{name}: {percent(c)} %, {percent(r)} %"))
    labels.draw(plot, points)
    drawn = plot.render(f"Accuracy {title(document.robust)} against accuracy without attack: {', '.join(shown)}")
    under = f"Not in the picture: {'; '.join(far)}" if far else ""
    panels = balances(document)
    words = tag("text", under, class_="legend", x=LEFT, y=HEIGHT + 20)
    moved = tag("g", panels.text, transform=f"translate(0 {HEIGHT + HEADING})")
    return Drawn(drawn + words + moved, WIDTH, HEIGHT + HEADING + panels.height)


def _lines(plot: Plot) -> None:
    """Points of equal W-Robust, at round values."""
    low, high = (plot.x.low + plot.y.low) / 2, (plot.x.high + plot.y.high) / 2
    for at, text in number_axis("", [100 * low, 100 * high], count=STEPS).ticks:
        total = 2 * at / 100
        left, right = max(plot.x.low, total - plot.y.high), min(plot.x.high, total - plot.y.low)
        if right - left > 0.05 * (plot.x.high - plot.x.low):
            plot.segment((left, total - left), (right, total - right), "grid")
            plot.text(right, total - right, f"W {text}", "tick end", shift=(-4, -4))


def balances(document: Study) -> Drawn:
    """Temperatures and weights by epoch: a panel for each that moved in an arm, a line per seed and side."""
    panels = [
        _panel(name, arm, quantity)
        for quantity in ("temperature", "weight")
        for name, arm in document.arms.items()
        if _moves(arm, quantity)
    ]
    if not panels:
        return Drawn("", 0, 0)
    words = tag("text", "How the balances moved: a line per seed", class_="legend", x=LEFT, y=20)
    for index, (side, place) in enumerate(SIDES.items()):
        at = WIDTH - 320 + 160 * index
        line = tag("line", class_=f"line {colour(place)}", x1=at, x2=at + 26, y1=16, y2=16)
        words += line + mark(place, at + 13.0, 16, "small")
        words += tag("text", f"{side} side", class_="legend", x=at + 34, y=20)
    rows = -(-len(panels) // PANELS_ACROSS)
    for index, panel in enumerate(panels):
        across, down = index % PANELS_ACROSS, index // PANELS_ACROSS
        at = f"translate({PANEL * across} {HEADING + (PANEL_HEIGHT + HEADING) * down})"
        words += tag("g", panel, transform=at)
    return Drawn(words, WIDTH, HEADING + rows * (PANEL_HEIGHT + HEADING))


def _moves(arm: ArmResult, quantity: str) -> bool:
    values = [value for seed in arm.seeds.values() for _, value in _course(seed.curve, f"{quantity}_robust")]
    return len(set(values)) > 1


def _course(curve: list[CurvePoint], name: str) -> Iterator[tuple[float, float]]:
    return ((float(point.epoch), point.balance[name]) for point in curve if name in point.balance)


def _panel(name: str, arm: ArmResult, quantity: str) -> str:
    """An arm's temperatures, or weights, of both sides."""
    lines = {
        (side, seed): list(_course(found.curve, f"{quantity}_{side}"))
        for side in SIDES
        for seed, found in arm.seeds.items()
    }
    points = [point for line in lines.values() for point in line]
    plot = Plot(_epochs(points), number_axis("", [value for _, value in points]), PANEL, PANEL_HEIGHT)
    for (side, seed), line in lines.items():
        plot.line(line, f"{colour(SIDES[side])} thin")
        plot.mark(*line[-1], SIDES[side], f"{side} side, seed {seed}: {line[-1][1]:.3g}", "small", scale=0.7)
    heading = tag("text", f"{name}: {quantity}", class_="legend", x=LEFT, y=20)
    drawn = plot.render(f"{name}: {quantity} of both sides by epoch")
    return heading + tag("g", drawn, transform=f"translate(0 {HEADING})")


def _epochs(points: list[tuple[float, float]]) -> Axis:
    return whole_axis("epoch", [epoch for epoch, _ in points], count=4)
