"""The page: one file with its styles, drawings and images inside, the same bytes for the same document."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from components.evaluation.latency import TimedModel
from components.foundation.errors import InputError
from components.reports import attack_words, wording
from components.reports.charts import mark
from components.reports.robustness import (
    facts,
    figures,
    kernel_reading,
    pareto,
    sentences,
    table,
    teaching,
    training_figures,
)
from components.reports.robustness.contents import Report
from components.reports.robustness.document import best_models, conditions, failed, status, subject, total
from components.reports.robustness.gallery import gallery, hard_images
from components.reports.wording import title
from components.statistics.number_text import bounds, percent, points

FOLDER = Path(__file__).parent
TEMPLATE, PAGE_STYLE, FIGURE_STYLE = "report.html.j2", FOLDER / "page.css", FOLDER.parent / "figures.css"

# Every section in its order: where its markup is, its name there and on the page, its heading.
SECTIONS = (
    ("evidence", "verdict", "What the verdict rests on"),
    ("evidence", "attacks", "Accuracy under every attack"),
    ("evidence", "tradeoff", "The trade-off, and growing attacks"),
    ("evidence", "transfer", "Attacks made for another model"),
    ("scale", "steps", "One-step against iterative attacks"),
    ("scale", "leak", "Does the attack tell the model the answer?"),
    ("scale", "capacity", "Does a larger model stand up better?"),
    ("evidence", "classes", "Class by class"),
    ("images", "hardest", "The hardest images"),
    ("images", "gallery", "What the attacks look like"),
    ("record", "costs", "What it cost"),
    ("record", "checkpoints", "Best against last checkpoint"),
    ("record", "training", "How the models were trained"),
    ("teachers", "teachers", "Teachers"),
    ("record", "balance", "How the student balanced its teachers"),
    ("record", "kernel", "How the models' inner geometry moved"),
    ("record", "provenance", "Where the numbers come from"),
)


def page(
    document: Report,
    curves: training_figures.Curves,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, Any],
    gallery_images: int,
) -> str:
    """The HTML of the report. Errors: jinja2 is not installed.

    Args:
        document: the robustness document.
        curves: per trained model the rows of its curves file; may be empty.
        tensors, metadata: the content of evaluation/gallery.safetensors. Images beyond the gallery's are shown where
            they are among the hardest.
        gallery_images: how many images the gallery shows.
    """
    environment = _environment()
    context = _context(document, curves) | {"shown": gallery(tensors, metadata, document, gallery_images)}
    context["hard_images"] = hard_images(document, tensors, metadata)
    context["sections"] = [section for section in SECTIONS if _has(section[1], context)]
    # In a style element, characters keep their meaning: nothing is escaped.
    styles = {"figure_style": FIGURE_STYLE.read_text("utf-8"), "page_style": PAGE_STYLE.read_text("utf-8")}
    return environment.get_template(TEMPLATE).render(**context, **styles) + "\n"


def speed(document: Report, times: Mapping[str, TimedModel]) -> str:
    """The HTML on how fast and how large the models are, for the dated page; empty where no times are known."""
    names = [name for name in best_models(document) if name in times]
    if not names:
        return ""
    machine = times[names[0]].latency
    context = {
        "names": names,
        "times": times,
        "machine": machine,
        "models": document.models,
        "confidence": round(100 * document.confidence),
        "n": document.num_images,
        "drawn": pareto.by_latency(document, times),
    }
    return _environment().get_template("speed.html.j2").render(**context)


def _environment() -> Any:
    """Jinja's, with the filters of the templates. Error: it is not installed."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError:
        raise InputError("report: needs jinja2, which is not installed (pip install '.[report]')") from None
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = (count, passes, bounds, percent, points, wording.epsilon_text, wording.grey_text)
    words = (
        title,
        wording.sentence,
        wording.rule_title,
        wording.unbroken,
        measured_text,
        attack_words.attack_text,
        facts.breakable,
    )
    # In a template, a filter is called as its function is.
    environment.filters |= {one.__name__: one for one in (*numbers, *words)}
    return environment


def figure_files(document: Report, curves: training_figures.Curves) -> dict[str, str]:
    """Every drawing as an SVG file of its own, with its style inside: file name to text."""
    style = FIGURE_STYLE.read_text(encoding="utf-8")
    drawings = {f"{group} {one.title}": one for group, drawn in _figures(document, curves).items() for one in drawn}
    names = {name: re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in drawings}
    return {f"{names[name]}.svg": _standalone(figure, style) for name, figure in drawings.items()}


def _standalone(figure: figures.Figure, style: str) -> str:
    inside = f"<title>{escape(figure.title)}</title><style>{style} svg {{ background: var(--card); }}</style>"
    opening, rest = figure.svg.split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg" font-family="sans-serif">{inside}{rest}'


def count(number: float) -> str:
    """A count with a thin space between thousands: `12 345`."""
    return f"{round(number):,}".replace(",", "\u202f")


def passes(number: float) -> str:
    """Passes per image: three digits below 100, a whole count above."""
    return f"{number:.3g}" if number < 100 else count(number)


def measured_text(value: Any) -> str:
    """What a check measured, in words, the attacks in it too."""
    return wording.measured_text(attack_words.with_attacks(value))


def _context(document: Report, curves: training_figures.Curves) -> dict[str, Any]:
    best = best_models(document)
    return {
        "document": document,
        "best": best,
        "subject": subject(document),
        "summary": sentences.summary(document),
        "left_out": sentences.left_out(document),
        "weakest": sentences.weakest_text(document),
        "measurement": sentences.measurement(document, subject(document)),
        "norm": wording.NORM_WORDS[document.threat.norm],
        "status": {name: status(document, name) for name in best},
        "failed": {name: failed(document, name) for name in best},
        "worst_of": {name: table.worst_of(document, name) for name in best},
        "cascade_title": wording.cascade_title(document.cascade),
        "columns": {column: wording.condition_title(column, document.cascade) for column in table.columns(document)},
        "rows": {name: conditions(document.models[name]) for name in best},
        "marks": [mark(index) for index in range(max(len(best), len(document.grid.attacks), 2))],
        "figures": _figures(document, curves),
        "kernel_readings": kernel_reading.readings(curves),
        "taught": teaching.context(document.teachers, len(document.classes)) if document.teachers else None,
        "cost_table": _costs(document),
        "facts": facts.facts(document),
        "params": facts.parameters(document.params),
    }


def _figures(document: Report, curves: training_figures.Curves) -> dict[str, list[figures.Figure]]:
    """Every drawing of the page, by the section that it is for; what there is nothing to draw of is left out."""
    single = {
        "plane": figures.plane,
        "growth": figures.epsilon_curves,
        "staircase": figures.staircase,
        "size": pareto.by_parameters,
    }
    found = {name: [figure] if (figure := draw(document)) else [] for name, draw in single.items()}
    return {
        **found,
        "per_class": figures.per_class(document),
        "steps": figures.one_step(document),
        "capacity": figures.capacities(document),
        "training": training_figures.training(curves),
        "balance": training_figures.balance(curves),
        "kernel": training_figures.ntk(curves),
    }


def _has(section: str, context: dict[str, Any]) -> bool:
    """Whether there is anything to say in a section."""
    document, shown, drawn = context["document"], context["shown"], context["figures"]
    present = {
        "verdict": document.verdict,
        "tradeoff": drawn["plane"] or drawn["growth"],
        "transfer": document.transfer.accuracy,
        "leak": any(model.label_leak for model in document.models.values()),
        "hardest": document.hardest,
        "gallery": shown["samples"] and shown["samples"][0]["models"],
        "checkpoints": document.best_versus_last,
        "teachers": document.teachers,
        **{name: drawn[name] for name in ("steps", "capacity", "training", "balance", "kernel")},
    }
    return bool(present.get(section, True))


def _costs(document: Report) -> dict[str, Any]:
    """Per selected model: parameters, passes of the training, and passes per test image of each attack and in all."""
    n, rows, columns = document.num_images, [], {}
    for name in best_models(document):
        model = document.models[name]
        passes: dict[str, dict[str, float]] = {}
        for task, cost in {**model.cost, "in all": total(model.cost)}.items():
            # A curve is one thing, whatever the number of its epsilons; a cascade's attacks differ.
            head, _, rest = task.partition("/")
            attack, _, epsilon = rest.partition("@")
            at = f" at ε = {epsilon}" if epsilon else ""
            column = f"cascade: {title(attack)}{at}" if head == "cascade" else title(head)
            sums = passes.setdefault(column, {"forward": 0.0, "backward": 0.0})
            for kind, number in cost:
                sums[kind] += number / n
        rows.append({"name": name, "model": model, "training": model.training_cost, "passes": passes})
        columns |= dict.fromkeys(passes)
    ordered = [*(column for column in columns if column != "in all"), "in all"]
    return {"columns": ordered if len(ordered) > 1 else [], "rows": rows}
