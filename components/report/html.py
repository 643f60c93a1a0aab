"""The page: one file with its styles, drawings and images inside, the same bytes for the same document."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from components.errors import InputError
from components.report import figures, tables
from components.report.document import Document, best_models, conditions, subject
from components.report.gallery import gallery
from components.report.svg import mark
from components.report.tables import bounds, epsilon_text, norm_text, percent, title

TEMPLATE = Path(__file__).with_name("report.html.j2")
FIGURE_STYLE = Path(__file__).with_name("figures.css")


def page(
    document: Document,
    curves: figures.Curves,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, Any],
    gallery_images: int,
) -> str:
    """The HTML of the report. Errors: jinja2 is not installed.

    Args:
        document: the robustness document.
        curves: per trained model the rows of its curves file.
        tensors, metadata: the content of evaluation/gallery.safetensors.
        gallery_images: how many images the gallery shows.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError:
        raise InputError("report: needs jinja2, which is not installed (pip install 'temper[report]')") from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": percent,
        "bounds": bounds,
        "title": title,
        "epsilon": epsilon_text,
        "count": count,
    }
    environment.filters["norm"] = norm_text
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    shown = gallery(tensors, metadata, document, gallery_images)
    style = FIGURE_STYLE.read_text(encoding="utf-8")
    return template.render(**_context(document, curves), gallery=shown, figure_style=style) + "\n"


def figure_files(document: Document, curves: figures.Curves) -> dict[str, str]:
    """Every drawing as an SVG file of its own, with its style inside: file name to text."""
    context, style = _context(document, curves), FIGURE_STYLE.read_text(encoding="utf-8")
    groups = ("overview", "training", "balance", "ntk", "per_class")
    return {
        f"{group}-{re.sub(r'[^a-z0-9]+', '-', figure.title.lower())}.svg": _standalone(figure, style)
        for group in groups
        for figure in context[group]
    }


def _standalone(figure: figures.Figure, style: str) -> str:
    inside = f"<title>{escape(figure.title)}</title><style>{style} svg {{ background: var(--card); }}</style>"
    opening, rest = figure.svg.split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg" font-family="sans-serif">{inside}{rest}'


def count(number: float) -> str:
    """A count with a thin space between thousands: `12 345`."""
    return f"{round(number):,}".replace(",", "\u202f")


def _context(document: Document, curves: figures.Curves) -> dict[str, Any]:
    best = best_models(document)
    overview = [figures.plane(document), figures.epsilon_curves(document)]
    return {
        "document": document,
        "best": best,
        "subject": subject(document),
        "columns": tables.columns(document),
        "rows": {name: conditions(document["models"][name]) for name in best},
        "marks": [mark(index) for index in range(len(best))],
        "overview": [figure for figure in overview if figure],
        "training": figures.training(curves),
        "balance": figures.balance(curves),
        "ntk": figures.ntk(curves),
        "per_class": figures.per_class(document),
        "weakest": _weakest(document),
        "costs": _costs(document),
        "facts": _facts(document),
        "params": _flat(document["params"], ""),
    }


def _weakest(document: Document) -> Document | None:
    """The class of the subject with the lowest worst-case accuracy."""
    rows = [row for row in document["models"][subject(document)]["per_class"] if row["worst_case"]]
    return min(rows, key=lambda row: row["worst_case"]["value"], default=None)


def _costs(document: Document) -> list[Document]:
    """Per selected model: parameters, passes of the training, and passes per test image of each attack."""
    n, rows = document["num_images"], []
    for name in best_models(document):
        model = document["models"][name]
        attacks = {attack: {kind: total / n for kind, total in cost.items()} for attack, cost in model["cost"].items()}
        rows.append({"name": name, "model": model, "training": model["training_cost"], "attacks": attacks})
    return rows


def _facts(document: Document) -> dict[str, str]:
    """Where the numbers come from: data, seed, precision, model files, and the evaluation's own provenance."""
    models = {
        f"{title(name)} file": f"{model['file']} ({model['sha256']})" for name, model in document["models"].items()
    }
    curves = {f"{title(name)} curves": f"{one['file']} ({one['sha256']})" for name, one in document["training"].items()}
    fixed = {key: str(document[key]) for key in ("schema", "dataset", "seed", "precision")}
    return {**fixed, **models, **curves, **_flat(document["data"], "data"), **_flat(document["provenance"], "")}


def _flat(value: Any, name: str) -> dict[str, str]:
    if isinstance(value, dict):
        parts = (_flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
        return {key: text for part in parts for key, text in part.items()}
    return {name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
