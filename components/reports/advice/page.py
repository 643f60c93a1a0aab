"""The page of an advice: one file, the same bytes for the same document."""

from pathlib import Path
from typing import Any

from components.evaluation.advice.document import MeasureName
from components.foundation.errors import InputError
from components.reports import attack_words, wording
from components.reports.advice import words
from components.reports.advice.contents import Advice
from components.reports.charts import Plot, colour, percent_axis
from components.reports.measure_words import DIRECTIONS, MEANINGS, TITLES
from components.reports.robustness import labels
from components.reports.robustness.facts import breakable
from components.reports.robustness.figures import Figure
from components.reports.robustness.labels import Point
from components.statistics.number_text import bounds, percent, points

FOLDER = Path(__file__).parent
ROBUSTNESS = FOLDER.parent / "robustness"
TEMPLATE, PAGE_STYLE, FIGURE_STYLE = "advice.html.j2", ROBUSTNESS / "page.css", FOLDER.parent / "figures.css"


def page(found: Advice) -> str:
    """The HTML. Error: jinja2 is not installed."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError:
        raise InputError("advice: needs jinja2, which is not installed (pip install '.[report]')") from None
    environment = Environment(
        loader=FileSystemLoader([FOLDER, ROBUSTNESS]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words_of = (wording.epsilon_text, wording.sentence, wording.unbroken, attack_words.attack_text, breakable)
    # The last three are those of `parts.html.j2`.
    functions = (*words_of, percent, points, bounds)
    environment.filters |= {one.__name__: one for one in functions}
    styles = {"figure_style": FIGURE_STYLE.read_text("utf-8"), "page_style": PAGE_STYLE.read_text("utf-8")}
    return environment.get_template(TEMPLATE).render(**_context(found), **styles) + "\n"


def _context(found: Advice) -> dict[str, Any]:
    return {
        "found": found,
        "norm": wording.NORM_WORDS[found.threat.norm],
        "measures": words.shown(found),
        "titles": TITLES,
        "directions": DIRECTIONS,
        "meanings": MEANINGS,
        "number": words.number,
        "apart": _apart,
        "rule": words.rule(found),
        "setting": words.setting(found),
        "figure": plane(found),
    }


def plane(found: Advice) -> Figure:
    """Confident errors across, worst-case accuracy up, a cross of intervals for each teacher."""
    pairs = [
        (found.teachers[name].measures[found.decides], found.teachers[name].measures["worst_case"])
        for name in found.order
    ]
    across = TITLES[found.decides]
    plot = Plot(
        percent_axis(across, [0.0, *(errors.high for errors, _ in pairs)]),
        percent_axis("robust"),
        width=460,
        height=330,
    )
    for index, (errors, robust) in enumerate(pairs):
        plot.segment((errors.low, robust.value), (errors.high, robust.value), f"whisker {colour(index)}")
        plot.segment((errors.value, robust.low), (errors.value, robust.high), f"whisker {colour(index)}")
    marks = [
        Point(name, errors.value, robust.value, index, _told(found, name))
        for index, (name, (errors, robust)) in enumerate(zip(found.order, pairs, strict=True))
    ]
    labels.draw(plot, marks)
    return Figure(
        "Robustness against confident errors",
        "Across: share of images on which the teacher is confidently wrong. Up: share still right in the worst case. "
        "Up and left is better; the arms are 95 % intervals.",
        plot.render("Confident errors against worst-case accuracy of " + ", ".join(found.order)),
    )


def _told(found: Advice, name: str) -> str:
    keys = ("worst_case", found.decides)
    return f"{name}: " + ", ".join(f"{TITLES[key]} {words.number(found, name, key)}" for key in keys)


def _apart(found: Advice, teacher: str, measure: MeasureName) -> tuple[str, str] | None:
    """The difference from the first teacher and its interval; none for the first one and for what was not measured."""
    difference = found.teachers[teacher].against_first.get(measure)
    if difference is None or teacher == found.order[0]:
        return None
    written = _nats if measure.startswith("entropy") else points
    value, low, high = map(written, (difference.value, difference.low, difference.high))
    return value, f"{low} to {high}"


def _nats(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "\u2212")
    return "0.00" if text[1:] == "0.00" else text
