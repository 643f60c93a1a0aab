"""Figures of what was measured, from the document: title, one line on how to read it, SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from components.reports.attack_words import kind
from components.reports.charts import BOTTOM, TOP, Axis, Plot, colour, describe, number_axis, percent_axis, whole_axis
from components.reports.robustness import labels
from components.reports.robustness.contents import Report
from components.reports.robustness.document import best_models
from components.reports.robustness.label_leaking import ONE_STEP
from components.reports.robustness.labels import Point
from components.reports.wording import NORM_WORDS, cascade_title, epsilon_text, magnitude, sentence, title
from components.statistics.outcomes import Rate

DASHED = "dashed"


@dataclass(frozen=True)
class Figure:
    """One drawing with its title and the line that says how to read it."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Series:
    """One line of a chart: its name, its place in the palette, its style and its points."""

    name: str
    palette: int
    points: list[tuple[float, float]]
    style: str = ""


def plane(document: Report) -> Figure | None:
    """Clean accuracy across, worst-case accuracy up, a cross of intervals per selected model; None without attacks."""
    found = [(name, document.models[name]) for name in best_models(document)]
    shown = [(i, name, m.clean, m.worst_case) for i, (name, m) in enumerate(found) if m.worst_case]
    if not shown:
        return None
    clean = [bound for _, _, rate, _ in shown for bound in (rate.low, rate.high)]
    plot = Plot(percent_axis("clean accuracy, %", [*clean, 1.0]), percent_axis("robust"), width=460, height=330)
    for index, _, right, robust in shown:
        x, y = right.value, robust.value
        plot.segment((right.low, y), (right.high, y), f"whisker {colour(index)}")
        plot.segment((x, robust.low), (x, robust.high), f"whisker {colour(index)}")
    labels.draw(plot, [_point(index, title(name), right, robust) for index, name, right, robust in shown])
    return Figure(
        "Accuracy against robustness",
        "Across: share of clean images classified right. Up: share still right in the worst case. "
        "Up and right is better; the arms are 95 % intervals.",
        plot.render("Clean accuracy against worst-case accuracy of " + ", ".join(title(name) for _, name, *_ in shown)),
    )


def _point(index: int, name: str, clean: Rate, robust: Rate) -> Point:
    words = f"{describe(f'{name}, clean', clean)}; {describe('worst case', robust)}"
    return Point(name, clean.value, robust.value, index, words)


def epsilon_curves(document: Report) -> Figure | None:
    """Accuracy against the size of the perturbation, with bands; None where no curve was measured."""
    names = [name for name in best_models(document) if document.models[name].curve]
    if not names:
        return None
    x, position = _epsilon_axis(document, document.curve.epsilons)
    plot = Plot(x, percent_axis("accuracy"), width=460, height=330)
    limit = position(document.threat.epsilon)
    shown = plot.x.low <= limit <= plot.x.high
    if shown:
        plot.segment((limit, 0.0), (limit, 1.0), "limit")
    for name in names:
        index, curve = best_models(document).index(name), document.models[name].curve
        at = [position(point.epsilon) for point in curve]
        _band(plot, [([x_at], point) for x_at, point in zip(at, curve, strict=True)], index)
        for x_at, point in zip(at, curve, strict=True):
            words = describe(f"{title(name)}, ε = {epsilon_text(point.epsilon)}", point)
            plot.mark(x_at, point.value, index, words)
    if shown:
        labels.note(plot, "threat model", limit)
    return Figure(
        "Accuracy as the attack grows",
        f"Across: the size of the change the attack may make ({NORM_WORDS[document.threat.norm].title} ε). "
        "Up: accuracy in %. Bands are 95 % intervals; the dashed line is the threat model's ε.",
        plot.render("Accuracy against epsilon of " + ", ".join(map(title, names))),
    )


def _band(plot: Plot, rates: Sequence[tuple[Sequence[float], Rate]], index: int) -> None:
    """A line through rates, each at one or several places across, with their intervals as a band."""
    low = [(x, rate.low) for places, rate in rates for x in places]
    high = [(x, rate.high) for places, rate in rates for x in places]
    plot.band(low, high, colour(index))
    plot.line([(x, rate.value) for places, rate in rates for x in places], colour(index))


def _epsilon_axis(document: Report, measured: Sequence[str]) -> tuple[Axis, Callable[[str], float]]:
    """The axis over the measured epsilons, and where one lies on it: in grey levels for L∞, in its own unit else."""
    unit = 255 if NORM_WORDS[document.threat.norm].in_grey_levels else 1

    def position(epsilon: str) -> float:
        return float(Fraction(epsilon) * unit)

    # A single one lies at the end of an axis, not at its start.
    epsilons = [position(epsilon) for epsilon in (measured if len(set(measured)) > 1 else ["0", *measured])]
    return whole_axis("ε, in grey levels of 255", epsilons) if unit == 255 else number_axis("ε", epsilons), position


def staircase(document: Report) -> Figure | None:
    """What still stands after each attack of the cascade, a falling line per selected model; None without cascade."""
    names = [name for name in best_models(document) if document.models[name].cascade]
    if not names:
        return None
    places = ["clean", *document.cascade.attacks]
    ticks = tuple((float(place), _cut(title(attack), 12)) for place, attack in enumerate(places))
    plot = Plot(Axis("", -0.5, len(places) - 0.5, ticks), percent_axis("accuracy"), width=460, height=330)
    for name in names:
        index, model = best_models(document).index(name), document.models[name]
        steps: list[tuple[int, Rate]] = [(0, model.clean)]
        steps += [(places.index(step.attack), step) for step in model.cascade]
        _band(plot, [([at - 0.5, at + 0.5], step) for at, step in steps], index)
        for at, step in steps:
            plot.mark(float(at), step.value, index, describe(f"{title(name)} after {title(places[at])}", step))
    return Figure(
        f"What still stands in the cascade: {cascade_title(document.cascade)}",
        "From left to right, each attack runs only on the images still standing; a step is the accuracy after it. "
        "Bands are 95 % intervals. A last step that falls far means that the attacks before it were too weak.",
        plot.render("Accuracy after each attack of the cascade of " + ", ".join(map(title, names))),
    )


def one_step(document: Report) -> list[Figure]:
    """Per selected model, accuracy under every attack of the grid over its epsilons: one-step dashed, others solid."""
    described = document.grid
    charts = []
    for name in best_models(document):
        if not (grid := document.models[name].grid):
            continue
        x, position = _epsilon_axis(document, described.epsilons)
        plot = Plot(x, percent_axis("accuracy"))
        for index, attack in enumerate(described.attacks):
            single = kind(described.attacks[attack]) in ONE_STEP
            points = grid.get(attack, [])
            plot.line([(position(p.epsilon), p.value) for p in points], f"{colour(index)} {DASHED if single else ''}")
            for point in points:
                words = describe(f"{title(attack)}, ε = {epsilon_text(point.epsilon)}", point)
                plot.mark(position(point.epsilon), point.value, index, words, "small hollow" if single else "small")
        heading = sentence(title(name))
        charts.append(Figure(heading, "", plot.render(f"One-step and iterative attacks on the {title(name)}")))
    return charts


def capacities(document: Report) -> list[Figure]:
    """Per architecture with several sizes: clean (dashed) and worst-case accuracy against the number of parameters."""
    charts = []
    for family in document.capacity:
        models = family.models
        at = [math.log10(model.num_parameters) for model in models]
        ticks = {place: magnitude(model.num_parameters) for place, model in zip(at, models, strict=True)}
        margin = 0.08 * (at[-1] - at[0])
        x = Axis("parameters (logarithmic)", at[0] - margin, at[-1] + margin, tuple(ticks.items()))
        plot = Plot(x, percent_axis("accuracy"), width=460, height=330)
        for key, index, style, hollow in (("clean", 0, DASHED, "hollow"), ("worst_case", 1, "", "")):
            rates = [(m.clean if key == "clean" else m.worst_case) for m in models]
            shown = [(x, m.model, rate) for x, m, rate in zip(at, models, rates, strict=True) if rate]
            # Models of one size stand side by side: no line leads from one to the next.
            if len(ticks) == len(models):
                plot.line([(place, rate.value) for place, _, rate in shown], f"{colour(index)} {style}")
            words = [describe(f"{title(model)}, {title(key)}", rate) for _, model, rate in shown]
            for place, _, rate in shown:
                plot.segment((place, rate.low), (place, rate.high), f"whisker {colour(index)}")
            if key == "clean":
                for (place, _, rate), text in zip(shown, words, strict=True):
                    plot.mark(place, rate.value, index, text, hollow)
            else:
                named = zip(shown, words, strict=True)
                labels.draw(plot, [Point(title(m), place, rate.value, index, text) for (place, m, rate), text in named])
        drawing = plot.render(f"Accuracy against capacity, {family.architecture}")
        charts.append(Figure(family.architecture, "Arms are 95 % intervals.", drawing))
    return charts


def per_class(document: Report) -> list[Figure]:
    """One chart per selected model: clean and worst-case accuracy of every class with their intervals."""
    return [_class_chart(document, name, index) for index, name in enumerate(best_models(document))]


def _class_chart(document: Report, name: str, index: int) -> Figure:
    rows = document.models[name].per_class
    ticks = tuple((-float(place), _cut(row.class_)) for place, row in enumerate(rows))
    left = 14 + 7 * max((len(text) for _, text in ticks), default=1)
    y = Axis("class", 0.5 - len(rows) if rows else -1.0, 0.5, ticks)
    plot = Plot(percent_axis("accuracy, %"), y, height=TOP + BOTTOM + 21 * len(rows), left=left)
    for place, row in enumerate(rows):
        for key, style, shift in (("clean", "hollow", 0.16), ("worst_case", "", -0.16)):
            if found := row.clean if key == "clean" else row.worst_case:
                at = shift - place
                plot.segment((found.low, at), (found.high, at), f"whisker {colour(index)}")
                plot.mark(found.value, at, index, describe(f"{row.class_}, {title(key)}", found), style)
    heading = sentence(title(name))
    return Figure(heading, "", plot.render(f"Clean and worst-case accuracy per class of the {title(name)}"))


def _cut(text: str, limit: int = 16) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
