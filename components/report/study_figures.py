"""The one figure of a study, as an SVG file that needs no page around it: curves, capacity or points."""

import math
from collections.abc import Callable
from pathlib import Path

from components.report.rates import Document
from components.report.svg import Axis, Plot, colour, mark, percent_axis, tag, whole_axis
from components.report.tables import percent, title

STYLE = Path(__file__).parent / "figures.css"
WIDTH, HEIGHT, LEGEND, LINE = 560, 360, 200, 20
FONT = "svg { font-family: system-ui, sans-serif; } .paper { fill: var(--card); } svg text.legend { fill: var(--ink); }"
DASHED = "dashed"
# Marks have four forms and colours eight: beyond four arms, dashes tell the second round from the first.
FORMS = 4


def figure(document: Document) -> str:
    """The SVG text of the figure that study.yaml asks for."""
    return FIGURES[document["figure"]](document)


def curves(document: Document) -> str:
    """Accuracy under the validation attack by epoch, a line per arm and seed; a collapse is a fall."""
    everything = [
        point for arm in document["arms"].values() for seed in arm["seeds"].values() for point in seed["curve"]
    ]
    accuracies = [point["robust_accuracy"] for point in everything]
    plot = Plot(
        whole_axis("epoch", [point["epoch"] for point in everything]), percent_axis("", [0, *accuracies]), WIDTH, HEIGHT
    )
    for index, (name, arm) in enumerate(document["arms"].items()):
        for seed, found in arm["seeds"].items():
            points = [(float(point["epoch"]), point["robust_accuracy"]) for point in found["curve"]]
            plot.line(points, f"{colour(index)} thin {_style(index)}")
            x, y = points[-1]
            plot.mark(x, y, index, f"{name}, seed {seed}, epoch {x:g}: {percent(y)} %", "small")
    label = "Accuracy under the validation attack by epoch, one line per arm and seed"
    return _drawing(plot, "validation accuracy under attack, %", list(document["arms"]), label)


def capacity(document: Document) -> str:
    """Accuracy by number of parameters: a line through the means of each arm, a small mark per seed; clean hollow."""
    arms = document["arms"].values()
    families = list(dict.fromkeys(arm["arm"] for arm in arms))
    sizes = {_parameters(arm) for arm in arms}
    ticks = tuple((math.log10(size), _short(size)) for size in sorted(sizes))
    margin = 0.1 * max(ticks[-1][0] - ticks[0][0], 1)
    x = Axis("parameters (logarithmic)", ticks[0][0] - margin, ticks[-1][0] + margin, ticks)
    plot = Plot(x, percent_axis(""), WIDTH, HEIGHT)
    for index, family in enumerate(families):
        own = sorted((arm for arm in arms if arm["arm"] == family), key=_parameters)
        for condition, style, hollow in (("clean", DASHED, "hollow"), (document["robust"], "", "")):
            at = [(math.log10(_parameters(arm)), arm) for arm in own]
            means = [(place, arm["over_seeds"]["last"][condition]["mean"]) for place, arm in at]
            plot.line(means, f"{colour(index)} {style}")
            for place, arm in at:
                for seed, found in arm["seeds"].items():
                    value = found["last"][condition]["value"]
                    words = f"{family} {arm['variant']}, seed {seed}, {title(condition)}: {percent(value)} %"
                    plot.mark(place, value, index, words, f"small {hollow}")
    label = "Accuracy of the last checkpoint by number of parameters"
    heading = f"accuracy of the last checkpoint, %: {title(document['robust'])} solid, clean dashed"
    return _drawing(plot, heading, families, label, restyled=False)


def points(document: Document) -> str:
    """A row per arm, last checkpoint: a mark per seed under attack (filled) and clean (hollow), intervals of means."""
    names = list(document["arms"])
    ticks = tuple((-float(place), name) for place, name in enumerate(names))
    height, left = 60 + 34 * len(names), 16 + 8 * max(map(len, names))
    plot = Plot(percent_axis("accuracy, %"), Axis("", 0.5 - len(names), 0.5, ticks), WIDTH, height, left)
    for index, (name, arm) in enumerate(document["arms"].items()):
        for condition, shift, hollow in (("clean", 0.16, "hollow"), (document["robust"], -0.16, "")):
            at, total = shift - index, arm["over_seeds"]["last"][condition]
            if "low" in total:
                low, high = max(0.0, total["low"]), min(1.0, total["high"])
                plot.segment((low, at), (high, at), f"whisker {colour(index)}")
            for seed, found in arm["seeds"].items():
                value = found["last"][condition]["value"]
                words = f"{name}, seed {seed}, {title(condition)}: {percent(value)} %"
                plot.mark(value, at, index, words, f"small {hollow}")
    label = "Clean accuracy and accuracy under attack of the last checkpoint, per arm and seed"
    heading = f"last checkpoint: {title(document['robust'])} filled, clean hollow"
    return _drawing(plot, heading, [], label)


FIGURES: dict[str, Callable[[Document], str]] = {"curves": curves, "capacity": capacity, "points": points}


def _drawing(plot: Plot, heading: str, names: list[str], label: str, restyled: bool = True) -> str:
    """The plot under its heading, with a legend of the arms beside it, as a file of its own."""
    top = 30
    width = plot.width + (LEGEND if names else 0)
    height = max(plot.height, LINE * len(names) + 2 * LINE) + top
    legend = []
    for index, name in enumerate(names):
        y = 1.5 * LINE + LINE * index
        style = _style(index) if restyled else ""
        stroke = {"x1": plot.width, "x2": plot.width + 26, "y1": y, "y2": y}
        legend.append(tag("line", class_=f"line {colour(index)} {style}", **stroke))
        legend.append(mark(index, plot.width + 13.0, y, "small"))
        legend.append(tag("text", name, class_="legend", x=plot.width + 34, y=y + 4.5))
    inner = tag("g", plot.render(label) + "".join(legend), transform=f"translate(0 {top})")
    style = tag("style", STYLE.read_text(encoding="utf-8") + FONT + " .thin { stroke-width: 1.4; }")
    paper = tag("rect", class_="paper", width=width, height=height)
    words = tag("text", heading, class_="legend", x=14, y=20)
    size = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    return tag("svg", style + paper + words + inner, xmlns="http://www.w3.org/2000/svg", **size) + "\n"


def _style(index: int) -> str:
    return DASHED if index // FORMS % 2 else ""


def _parameters(arm: Document) -> int:
    return next(iter(arm["seeds"].values()))["num_parameters"]


def _short(count: int) -> str:
    return f"{count / 1e6:.3g}M" if count >= 1e6 else f"{count / 1e3:.3g}k"
