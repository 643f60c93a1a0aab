"""What size and speed buy: worst-case accuracy of several models against what they cost, with the best choices."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from components.evaluation.latency import TimedModel
from components.reports.charts import Axis, Plot, colour, describe, percent_axis
from components.reports.robustness import labels
from components.reports.robustness.contents import Report
from components.reports.robustness.document import best_models
from components.reports.robustness.figures import Figure
from components.reports.robustness.labels import Point
from components.reports.wording import magnitude, title
from components.statistics.outcomes import Rate

# So that no mark lies on the frame; from where on only powers of ten have room for their numbers. Both in decades.
AIR, WIDE = 0.03, 2.5
# How far the axis follows an arm: a multiple of the largest median.
LONGEST = 2
FRONT = (
    "Up: accuracy in the worst case, %, with 95 % intervals. The stepped line is what is best at its price: "
    "a model below it is beaten by one that costs no more."
)


class Priced(NamedTuple):
    """A model with what it costs, and at most nearly always; `palette` is its place there."""

    palette: int
    name: str
    cost: float
    at_most: float
    rate: Rate


def by_parameters(document: Report) -> Figure | None:
    """Worst-case accuracy against the number of parameters; None where all models are of one size."""
    found = [
        Priced(index, name, model.num_parameters, model.num_parameters, model.worst_case)
        for index, name in enumerate(best_models(document))
        if (model := document.models[name]).worst_case and model.num_parameters
    ]
    heading, words = "Robustness against size", "Across: number of parameters, logarithmic. " + FRONT
    return _figure(heading, words, found, "parameters (logarithmic)", _count, "parameters")


def by_latency(document: Report, times: Mapping[str, TimedModel]) -> list[Figure]:
    """Worst-case accuracy against milliseconds per image, a chart for each size of batch; the arm ends at the p95."""
    named = [(index, name) for index, name in enumerate(best_models(document)) if name in times]
    sizes = list(times[named[0][1]].latency.by_batch) if named else []
    charts = []
    for size in sizes:
        found = [
            Priced(index, name, each.median, each.p95, rate)
            for index, name in named
            if (rate := document.models[name].worst_case) and (each := times[name].latency.by_batch.get(size))
        ]
        heading = f"Robustness against latency, {'one image' if size == '1' else f'batches of {size}'}"
        words = (
            "Across: median time per image in ms, logarithmic; the arm to the right ends at the p95, or at the frame. "
            + FRONT
        )
        figure = _figure(heading, words, found, "ms per image (logarithmic)", "{:g}".format, "ms per image")
        charts += [figure] if figure else []
    return charts


def _figure(
    heading: str, words: str, found: Sequence[Priced], axis: str, text: Callable[[float], str], unit: str
) -> Figure | None:
    if len({one.cost for one in found}) < 2:
        return None
    # An arm may leave the drawing: one hiccup of a busy machine would push all models together.
    most = LONGEST * max(one.cost for one in found)
    x = log_axis(axis, [cost for one in found for cost in (one.cost, min(one.at_most, most))], text)
    y = percent_axis("worst case, %", [bound for one in found for bound in (one.rate.low, one.rate.high)])
    plot = Plot(x, y, width=460, height=330)
    _draw_front(plot, found)
    points = []
    for one in found:
        at, value = math.log10(one.cost), one.rate.value
        plot.segment((at, one.rate.low), (at, one.rate.high), f"whisker {colour(one.palette)}")
        if one.at_most > one.cost:
            plot.segment(
                (at, value), (min(math.log10(one.at_most), plot.x.high), value), f"whisker {colour(one.palette)}"
            )
        told = f"{describe(title(one.name), one.rate)}; {text(one.cost)} {unit}"
        points.append(Point(title(one.name), at, value, one.palette, told))
    labels.draw(plot, points)
    return Figure(heading, words, plot.render(f"{heading}: {', '.join(title(one.name) for one in found)}"))


def _count(number: float) -> str:
    return magnitude(round(number))


def _draw_front(plot: Plot, found: Sequence[Priced]) -> None:
    """A line that rises where a model buys accuracy that no cheaper one has."""
    corners: list[tuple[float, float]] = []
    for one in front(found):
        at = math.log10(one.cost)
        corners += [(at, corners[-1][1])] if corners else []
        corners.append((at, one.rate.value))
    if corners:
        corners.append((plot.x.high, corners[-1][1]))
        for start, end in pairwise(corners):
            plot.segment(start, end, "limit")


def front(found: Sequence[Priced]) -> list[Priced]:
    """The models that none beats, by cost: of those that cost no more, none is as accurate."""
    best: list[Priced] = []
    for one in sorted(found, key=lambda one: (one.cost, -one.rate.value)):
        if not best or one.rate.value > best[-1].rate.value:
            best.append(one)
    return best


def log_axis(name: str, values: Sequence[float], text: Callable[[float], str]) -> Axis:
    """A logarithmic axis over positive values, from a round number to another: 1, 2 or 5 times a power of ten."""
    low, high = math.log10(min(values)) - AIR, math.log10(max(values)) + AIR
    decades = range(math.floor(low), math.ceil(high) + 1)
    rounds = [math.log10(factor * 10.0**decade) for decade in decades for factor in (1, 2, 5)]
    first, last = max(place for place in rounds if place <= low), min(place for place in rounds if place >= high)
    wide = last - first > WIDE
    places = [place for place in rounds if first <= place <= last and not (wide and place % 1)]
    return Axis(name, first, last, tuple((place, text(round(10**place, 12))) for place in places))
