"""The verdict and the main table of a report as text, aligned or as Markdown."""

import textwrap

from components.reports import grids, wording
from components.reports.robustness.contents import Report
from components.reports.robustness.document import best_models, conditions, failed, status, subject
from components.reports.wording import ABSENT, WIDTH, percent, title
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


def verdict_text(document: Report, name: str) -> str:
    """The verdict on one model in a few words: `suspect (square stronger)`."""
    rules = ", ".join(wording.rule_title(check.rule) for check in failed(document, name))
    return title(status(document, name)) + (f" ({rules})" if rules else "")


def columns(document: Report) -> list[str]:
    """The columns of the main table, in order: every condition that any selected model was measured under."""
    measured = [conditions(document.models[name]) for name in best_models(document)]
    last = [name for name in ("cascade", "worst_case", "w_robust") if any(name in row for row in measured)]
    return ["clean", *document.attacks, *last]


def text_table(document: Report) -> str:
    """The verdict and the main table for a terminal, at most 100 columns: transposed where attacks need the room."""
    grid = _grid(document)
    if max(map(len, grids.aligned(grid, right_from=1))) > WIDTH:
        grid = [list(column) for column in zip(*grid, strict=True)]
    verdict = textwrap.wrap(_verdict(document), WIDTH, subsequent_indent="  ")
    table = grids.ruled(grid, right_from=1, closed=True)
    return "\n".join([*verdict, "", _heading(document), "", table, *_notes(document)])


def markdown_table(document: Report) -> str:
    """The verdict and the main table as Markdown."""
    table = grids.markdown(_grid(document), right_from=1)
    return "\n".join([f"**{_verdict(document)}**", "", _heading(document), "", table, "", " ".join(_notes(document))])


def _verdict(document: Report) -> str:
    me = subject(document)
    names = [me, *(name for name in best_models(document) if name != me)]
    return "Verdict: " + "; ".join(f"{title(name)} {verdict_text(document, name)}" for name in names)


def _grid(document: Report) -> list[list[str]]:
    names = columns(document)
    rows = [["% right", *(wording.condition_title(name, document.cascade) for name in names)]]
    for model in best_models(document):
        found = conditions(document.models[model])
        rows.append([title(model), *(_cell(found[name]) if name in found else ABSENT for name in names)])
    return rows


def _cell(found: Interval[float]) -> str:
    return f"{percent(found.value)} ±{wording.half_width(found)}"


def _heading(document: Report) -> str:
    return wording.setting_text(document.dataset, document.num_images, document.threat)


def _notes(document: Report) -> list[str]:
    return [
        f"± is half the {100 * document.confidence:.0f} % interval.",
        "Worst case: right clean and under every attack, image by image.",
        "W-Robust: mean of clean and worst case.",
    ]
