"""What is read first elsewhere than on the page: the name and description of a run, the card of a model's version."""

from collections.abc import Mapping
from typing import Any

from components.reports import grids, wording
from components.reports.robustness.contents import ModelReport, Report
from components.reports.robustness.document import headline, rates, status, subject
from components.reports.robustness.sentences import measurement, verdict_text, weakest_text
from components.reports.robustness.table import markdown_table
from components.reports.wording import sentence, title
from components.statistics.number_text import bounds, percent
from components.statistics.outcomes import Rate

SEPARATOR = " · "


def run_title(document: Report) -> str:
    """A run's name: `digits · pgd_at · worst case 68.2 % · trusted · NO-GO`; the last only where one was decided."""
    me = subject(document)
    worst = document.models[me].worst_case
    found = f"worst case {percent(worst.value)} %" if worst else "not attacked"
    answer = [document.decision.answer] if document.decision else []
    said = title(status(document, me))
    return SEPARATOR.join([document.dataset, method(document), found, said, *answer])


def method(document: Report) -> str:
    """How the robust teacher was trained; of models from outside, which one the report is about."""
    trained: Any = document.params.get("train_robust_teacher") or {}
    return str((trained.get("method") or {}).get("name") or subject(document))


def run_text(document: Report) -> str:
    """A run's description as Markdown: decision and numbers in its first line, then the table and what it means."""
    table = markdown_table(document)
    # The table's own first line says less.
    rest = table.partition("\n\n")[2] if document.decision else table
    return f"{first_line(document, subject(document))}\n\n{rest}"


def first_line(document: Report, name: str) -> str:
    """`NO-GO: student · worst case **68.2 %** (63.2–72.8 %, n = 359) · clean 99.4 % (…) · measurement trusted`."""
    model, decision = document.models[name], document.decision
    answer = [f"{decision.answer}: {title(name)}"] if decision and decision.model == name else []
    measured = {"worst case": model.worst_case, "clean": model.clean}
    found = [f"{words} **{percent(rate.value)} %** ({_interval(rate)})" for words, rate in measured.items() if rate]
    return SEPARATOR.join([*answer, *found, f"measurement {title(status(document, name))}"])


def run_tags(document: Report) -> dict[str, str]:
    """What a list of runs shows beside the numbers: data set, ε, the model's architecture, the method."""
    return {
        "dataset": document.dataset,
        "epsilon": wording.grey_text(document.threat.epsilon),
        "model": _architecture(document.models[subject(document)]),
        "method": method(document),
    }


def run_numbers(document: Report) -> dict[str, float | int]:
    """The headline for a tracker, most important first: the report's subject in percent, then all shares.

    A tracker shows numbers as they are and in the order in which they came.
    """
    me, numbers = subject(document), headline(document)
    model = document.models[me]
    shown = {"worst case percent": model.worst_case, "clean percent": model.clean}
    parts = {name: round(100 * rate.value, 1) for name, rate in shown.items() if rate}
    own = [f"{me}.worst_case", f"{me}.w_robust", *(name for name in numbers if name.startswith(f"{me}."))]
    order = [*(name for name in own if name in numbers), *numbers]
    return parts | {name: numbers[name] for name in dict.fromkeys(order)}


def model_card(document: Report, name: str) -> str:
    """The card of one model as Markdown: every percentage with its 95 % interval and the number of images."""
    model, decision = document.models[name], document.decision
    rows = [["condition", "% right", "95 % interval", "n"]]
    for condition, found in {**_first(rates(model)), **rates(model)}.items():
        shown = sentence(wording.condition_title(condition, document.cascade))
        rows.append([shown, percent(found.value), f"{bounds(found)} %", str(found.n)])
    unmet = decision.unmet if decision and decision.model == name else []
    setting = wording.setting_text(document.dataset, document.num_images, document.threat)
    lines = [
        first_line(document, name),
        *(f"Not met: {one.name}: {one.measured}; wanted {one.wanted}." for one in unmet),
        grids.markdown(rows, right_from=1),
        f"Measured on {setting}. Measurement: {verdict_text(document, name)}, {measurement(document, name)}.",
        *(
            [f"Weakest class: {weakest_text(document)}."]
            if name == subject(document) and weakest_text(document)
            else []
        ),
        f"{_architecture(model)}, {model.num_parameters:,} parameters, {len(document.classes)} classes: "
        f"{', '.join(document.classes)}. Takes images in [0, 1]; normalisation is its first layer.",
    ]
    return "\n\n".join(lines)


def _architecture(model: ModelReport) -> str:
    return str((model.architecture or {}).get("name", "architecture unknown"))


def _first(found: Mapping[str, Rate]) -> dict[str, Rate]:
    return {name: found[name] for name in ("worst_case", "clean") if name in found}


def _interval(rate: Rate) -> str:
    return f"{bounds(rate)} %, n = {rate.n}"
