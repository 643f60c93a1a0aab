"""The decision and the main table of a report as text, aligned or as Markdown."""

import textwrap

from components.foundation.lines import one_line
from components.reports import grids, wording
from components.reports.robustness.contents import Report
from components.reports.robustness.document import best_models, conditions, subject
from components.reports.robustness.sentences import left_out, summary, verdict_text, weakest_text
from components.reports.wording import ABSENT, WIDTH, title, unbroken
from components.statistics.number_text import half_width, percent
from components.statistics.outcomes import Interval


def worst_of(document: Report, name: str) -> str:
    """What a model's worst case is the worst of: `AutoAttack and 4 more attacks`, `FGSM and PGD`."""
    worst = document.models[name].worst_case
    if worst is None:
        return ABSENT
    attacks = [title(attack) for attack in worst.attacks]
    if worst.cascade is None:
        return " and ".join(attacks) if len(attacks) < 3 else f"{len(attacks)} attacks"
    more = f" and {len(attacks)} more attack{'s' if len(attacks) != 1 else ''}" if attacks else ""
    return wording.cascade_title(document.cascade) + more


def columns(document: Report) -> list[str]:
    """The columns of the main table, in order: every condition that any selected model was measured under."""
    measured = [conditions(document.models[name]) for name in best_models(document)]
    last = [
        name
        for name in ("cascade", "worst_case", "balanced_worst_case", "w_robust")
        if any(name in row for row in measured)
    ]
    return ["clean", *document.attacks, *last]


def text_table(document: Report) -> str:
    """The decision and the main table for a terminal, at most 100 columns: transposed where attacks need the room."""
    grid = _grid(document)
    if max(map(len, grids.aligned(grid, right_from=1))) > WIDTH:
        grid = [list(column) for column in zip(*grid, strict=True)]
    said = [*_answer(document), *summary(document), *_unmet(document), *_rest(document)]
    head = [line for text in said for line in textwrap.wrap(unbroken(text), WIDTH, subsequent_indent="  ")]
    head = [line.replace("\u00a0", " ") for line in head]
    table = grids.ruled(grid, right_from=1, closed=True)
    return "\n".join([*head, "", _heading(document), "", table, *_notes(document)])


def markdown_table(document: Report) -> str:
    """The decision, its criteria and the main table as Markdown: a column for each model, what decides at the top."""
    answer = [f"**{answer}**" for answer in _answer(document)]
    said = [*answer, " ".join(summary(document)), *_criteria(document), *_rest(document)]
    head, *conditions = [list(column) for column in zip(*_grid(document), strict=True)]
    names = columns(document)
    first = [conditions[names.index(name)] for name in ("worst_case", "w_robust", "clean") if name in names]
    table = grids.markdown([head, *first, *(row for row in conditions if row not in first)], right_from=1)
    return "\n\n".join([*said[:2], _heading(document), table, *said[2:], " ".join(_notes(document))])


def _answer(document: Report) -> list[str]:
    """GO or NO-GO for whom, if there is a decision."""
    decision = document.decision
    return [] if decision is None else [f"{decision.answer}: {title(decision.model)}"]


def _unmet(document: Report) -> list[str]:
    unmet = document.decision.unmet if document.decision else []
    return [f"Not met: {one.name}: {one.measured}; wanted {one.wanted}." for one in unmet]


def _criteria(document: Report) -> list[str]:
    """All criteria as a table, if there are any."""
    if document.decision is None:
        return []
    rows = [[one.name, one.wanted, one.measured, "yes" if one.met else "**no**"] for one in document.decision.criteria]
    return [grids.markdown([["criterion", "wanted", "measured", "met"], *rows])]


def _rest(document: Report) -> list[str]:
    """The weakest class, and how far the numbers can be believed."""
    me, weakest = subject(document), weakest_text(document)
    names = [me, *(name for name in best_models(document) if name != me)]
    said = "; ".join(f"{title(name)} {verdict_text(document, name)}" for name in names)
    return [*([f"Weakest class: {weakest}."] if weakest else []), f"Measurement: {said}"]


def _grid(document: Report) -> list[list[str]]:
    names = columns(document)
    rows = [["% right", *(wording.condition_title(name, document.cascade) for name in names)]]
    for model in best_models(document):
        found = conditions(document.models[model])
        rows.append([title(model), *(_cell(found[name]) if name in found else ABSENT for name in names)])
    return rows


def _cell(found: Interval[float]) -> str:
    return f"{percent(found.value)} ±{half_width(found)}"


def _heading(document: Report) -> str:
    return one_line(wording.setting_text(document.dataset, document.num_images, document.threat))


def _notes(document: Report) -> list[str]:
    return [
        f"± is half the {100 * document.confidence:.0f} % interval.",
        "Worst case: right clean and under every attack, image by image; balanced: every class counts alike.",
        "W-Robust: mean of clean and worst case.",
        *left_out(document),
    ]
