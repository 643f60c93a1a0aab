"""The one figure of a study, as an SVG file that needs no page around it: curves, capacity, points or the plane."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from components.reports.charts import LEFT, Axis, Plot, colour, mark, percent_axis, tag, whole_axis
from components.reports.study.contents import ArmResult, CurvePoint, Study
from components.reports.study.plane import plane as draw_plane
from components.reports.wording import magnitude, title
from components.statistics.number_text import percent

STYLE = Path(__file__).parents[1] / "figures.css"
WIDTH, HEIGHT, LEGEND, LINE = 560, 360, 200, 20
FONT = "svg { font-family: system-ui, sans-serif; } .paper { fill: var(--card); } svg text.legend { fill: var(--ink); }"
DASHED = "dashed"
# Of figures that have a panel per arm.
PANELS_ACROSS, PANEL, PANEL_HEIGHT = 4, 240, 190
HEADING = 30


def figure(document: Study) -> str:
    """The SVG text of the figure that study.yaml asks for."""
    return FIGURES[document.figure](document)


def curves(document: Study) -> str:
    """Accuracy under the validation attack by epoch: a panel per arm, a line per seed; a collapse is a fall."""
    arms = document.arms
    seeds = list(dict.fromkeys(seed for arm in arms.values() for seed in arm.seeds))
    everything = [point for arm in arms.values() for seed in arm.seeds.values() for point in seed.curve]
    x = whole_axis("epoch", [point.epoch for point in everything], count=4)
    y = percent_axis("", [0, *(point.robust_accuracy for point in everything)])
    across = min(PANELS_ACROSS, len(arms))
    drawn = []
    for index, (name, arm) in enumerate(arms.items()):
        plot = Plot(x, y, PANEL, PANEL_HEIGHT)
        for seed, found in arm.seeds.items():
            _course(plot, found.curve, seeds.index(seed), f"{name}, seed {seed}")
        place = f"translate({PANEL * (index % across)} {(PANEL_HEIGHT + HEADING) * (index // across)})"
        words = tag("text", name, class_="legend", x=LEFT, y=20)
        panel = plot.render(f"{name}: accuracy under the validation attack by epoch")
        drawn.append(tag("g", words + tag("g", panel, transform=f"translate(0 {HEADING})"), transform=place))
    for index, seed in enumerate(seeds):
        drawn.append(_key(index, f"seed {seed}", PANEL * across, 1.5 * LINE + LINE * index))
    height = (PANEL_HEIGHT + HEADING) * -(-len(arms) // across)
    return _file("validation accuracy under attack, %", "".join(drawn), PANEL * across + LEGEND // 2, height)


def _course(plot: Plot, curve: Sequence[CurvePoint], index: int, name: str) -> None:
    points = [(float(point.epoch), point.robust_accuracy) for point in curve]
    plot.line(points, f"{colour(index)} thin")
    x, y = points[-1]
    plot.mark(x, y, index, f"{name}, epoch {x:g}: {percent(y)} %", "small")


def capacity(document: Study) -> str:
    """Accuracy by number of parameters: a line through the means of each arm, a small mark per seed; clean hollow."""
    arms = document.arms.values()
    families = list(dict.fromkeys(arm.arm for arm in arms))
    sizes = {_parameters(arm) for arm in arms}
    ticks = tuple((math.log10(size), magnitude(size)) for size in sorted(sizes))
    margin = 0.1 * max(ticks[-1][0] - ticks[0][0], 1)
    x = Axis("parameters (logarithmic)", ticks[0][0] - margin, ticks[-1][0] + margin, ticks)
    plot = Plot(x, percent_axis(""), WIDTH, HEIGHT)
    for index, family in enumerate(families):
        own = sorted((arm for arm in arms if arm.arm == family), key=_parameters)
        for condition, style, hollow in (("clean", DASHED, "hollow"), (document.robust, "", "")):
            at = [(math.log10(_parameters(arm)), arm) for arm in own]
            means = [(place, arm.over_seeds["last"][condition].mean) for place, arm in at]
            plot.line(means, f"{colour(index)} {style}")
            for place, arm in at:
                for value, words in _seeds(arm, condition):
                    plot.mark(place, value, index, f"{family} {arm.variant}, {words}", f"small {hollow}")
    label = "Accuracy of the last checkpoint by number of parameters"
    heading = f"accuracy of the last checkpoint, %: {title(document.robust)} solid, clean dashed"
    return _drawing(plot, heading, families, label)


def points(document: Study) -> str:
    """A row per arm, last checkpoint: a mark per seed under attack (filled) and clean (hollow), intervals of means."""
    names = list(document.arms)
    ticks = tuple((-float(place), name) for place, name in enumerate(names))
    height, left = 60 + 34 * len(names), 16 + 8 * max(map(len, names))
    plot = Plot(percent_axis("accuracy, %"), Axis("", 0.5 - len(names), 0.5, ticks), WIDTH, height, left)
    for index, (name, arm) in enumerate(document.arms.items()):
        for condition, shift, hollow in (("clean", 0.16, "hollow"), (document.robust, -0.16, "")):
            at, total = shift - index, arm.over_seeds["last"][condition]
            if total.low is not None and total.high is not None:
                low, high = max(0.0, total.low), min(1.0, total.high)
                plot.segment((low, at), (high, at), f"whisker {colour(index)}")
            for value, words in _seeds(arm, condition):
                plot.mark(value, at, index, f"{name}, {words}", f"small {hollow}")
    label = "Clean accuracy and accuracy under attack of the last checkpoint, per arm and seed"
    heading = f"last checkpoint: {title(document.robust)} filled, clean hollow"
    return _drawing(plot, heading, [], label)


def plane(document: Study) -> str:
    """Robustness against accuracy, last checkpoint, with lines of equal W-Robust; under it the balances by epoch."""
    robust, clean = (_mean_of(condition) for condition in (document.robust, "clean"))
    drawn = draw_plane(document, robust, clean)
    heading = f"last checkpoint, up: {title(document.robust)}, %; small marks: seeds; lines: equal W-Robust"
    return _file(heading, drawn.text, drawn.width, drawn.height)


def _mean_of(condition: str) -> Callable[[ArmResult], float]:
    return lambda arm: arm.over_seeds["last"][condition].mean


FIGURES: dict[str, Callable[[Study], str]] = {"curves": curves, "capacity": capacity, "points": points, "plane": plane}


def _drawing(plot: Plot, heading: str, names: list[str], label: str) -> str:
    """The plot under its heading, with a legend of the arms beside it, as a file of its own."""
    legend = [_key(index, name, plot.width, 1.5 * LINE + LINE * index) for index, name in enumerate(names)]
    width = plot.width + (LEGEND if names else 0)
    height = max(plot.height, LINE * len(names) + 2 * LINE)
    return _file(heading, plot.render(label) + "".join(legend), width, height)


def _key(index: int, name: str, x: int, y: float) -> str:
    """An entry of the legend: line, mark and name of series number `index`."""
    line = tag("line", class_=f"line {colour(index)}", x1=x, x2=x + 26, y1=y, y2=y)
    return line + mark(index, x + 13.0, y, "small") + tag("text", name, class_="legend", x=x + 34, y=y + 4.5)


def _file(heading: str, drawn: str, width: int, height: int) -> str:
    """What was drawn, under its heading, with style and background."""
    inner = tag("g", drawn, transform=f"translate(0 {HEADING})")
    style = tag("style", STYLE.read_text(encoding="utf-8") + FONT + " .thin { stroke-width: 1.4; }")
    paper = tag("rect", class_="paper", width=width, height=height + HEADING)
    words = tag("text", heading, class_="legend", x=14, y=20)
    size = {"viewBox": f"0 0 {width} {height + HEADING}", "width": width, "height": height + HEADING}
    return tag("svg", style + paper + words + inner, xmlns="http://www.w3.org/2000/svg", **size) + "\n"


def _seeds(arm: ArmResult, condition: str) -> Iterator[tuple[float, str]]:
    """The accuracy of each seed's last checkpoint, and how a pointer shows it."""
    for seed, found in arm.seeds.items():
        value = found.last[condition].value
        yield value, f"seed {seed}, {title(condition)}: {percent(value)} %"


def _parameters(arm: ArmResult) -> int:
    return next(iter(arm.seeds.values())).num_parameters
