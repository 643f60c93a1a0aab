"""The main table as text: aligned for a terminal, or Markdown; and how numbers are written everywhere in the report."""

from fractions import Fraction
from typing import Any

from components.report.document import Document, best_models, conditions

WIDTH = 100
RANGE = "\u2013"
ABSENT = "\u2013"

_TITLES = {"worst_case": "worst case", "w_robust": "W-Robust"}


def title(name: str) -> str:
    """A name of the parameters as a heading: `clean_teacher` -> `clean teacher`, `w_robust` -> `W-Robust`."""
    return _TITLES.get(name, name.replace("_", " "))


def percent(value: float) -> str:
    """`0.986` -> `98.6`; the sign `%` stands in the heading."""
    return f"{100 * value:.1f}"


def half_width(found: dict[str, Any]) -> str:
    """Half the interval's width, in points."""
    return percent((found["high"] - found["low"]) / 2)


def bounds(found: dict[str, Any]) -> str:
    """The interval in percent, `96.8-99.5` with an en dash."""
    return f"{percent(found['low'])}{RANGE}{percent(found['high'])}"


def epsilon_text(epsilon: str) -> str:
    """Epsilon as written, and in grey levels where that is a whole number: `1/5 (51/255)`."""
    levels = Fraction(epsilon) * 255
    grey = f"{levels}/255"
    return epsilon if levels.denominator != 1 or not levels or grey == epsilon else f"{epsilon} ({grey})"


def norm_text(norm: str) -> str:
    """The norm as it is printed: `linf` -> `L∞`."""
    return {"linf": "L∞", "l2": "L2"}.get(norm, norm)


def columns(document: Document) -> list[str]:
    """The columns of the main table, in order: every condition that any selected model was measured under."""
    measured = [conditions(document["models"][name]) for name in best_models(document)]
    return ["clean", *document["attacks"], *(name for name in _TITLES if any(name in row for row in measured))]


def text_table(document: Document) -> str:
    """The main table for a terminal, at most 100 columns: models down, or across where many attacks need the room."""
    grid = _grid(document)
    if len(_aligned(grid)[0]) > WIDTH:
        grid = [list(column) for column in zip(*grid, strict=True)]
    head, *rows = _aligned(grid)
    rule = "\u2500" * len(head)
    return "\n".join(
        [_heading(document), "", head.rstrip(), rule, *(row.rstrip() for row in rows), rule, *_notes(document)]
    )


def markdown_table(document: Document) -> str:
    """The main table as Markdown."""
    head, *rows = _grid(document)
    align = [":---", *["---:"] * (len(head) - 1)]
    lines = ["| " + " | ".join(row) + " |" for row in (head, align, *rows)]
    return "\n".join([f"**{_heading(document)}**", "", *lines, "", " ".join(_notes(document))])


def _grid(document: Document) -> list[list[str]]:
    names = columns(document)
    rows = [["% right", *map(title, names)]]
    for model in best_models(document):
        found = conditions(document["models"][model])
        rows.append([title(model), *(_cell(found[name]) if name in found else ABSENT for name in names)])
    return rows


def _cell(found: dict[str, Any]) -> str:
    return f"{percent(found['value'])} ±{half_width(found)}"


def _aligned(grid: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in grid]


def _heading(document: Document) -> str:
    threat = document["threat"]
    budget = f"{norm_text(threat['norm'])} ε = {epsilon_text(threat['epsilon'])}"
    return f"{document['dataset']}, {document['num_images']} test images, {budget}"


def _notes(document: Document) -> list[str]:
    return [
        f"± is half the {100 * document['confidence']:.0f} % interval.",
        "Worst case: right clean and under every attack, image by image.",
        "W-Robust: mean of clean and worst case.",
    ]
