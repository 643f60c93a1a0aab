"""The verdict and the main table as text, aligned or as Markdown; how numbers and names are written in the report."""

import re
import textwrap
from fractions import Fraction
from typing import Any, NamedTuple

from components.reports.robustness.document import best_models, conditions, failed, status, subject
from components.statistics.outcomes import Document

WIDTH = 100
RANGE = "\u2013"
ABSENT = "\u2013"

# Names that are written in a way of their own. AutoAttack is none of them: no attack is called so, only the cascade.
_TITLES = {
    "worst_case": "worst case",
    "w_robust": "W-Robust",
    "fgsm": "FGSM",
    "r_fgsm": "R+FGSM",
    "step_ll": "step l.l.",
    "step_rnd": "step rnd",
    "bim": "BIM",
    "iter_ll": "iter l.l.",
    "pgd": "PGD",
    "mi_fgsm": "MI-FGSM",
    "apgd": "APGD",
    "apgd_ce": "APGD-CE",
    "apgd_t": "APGD-T",
    "fab": "FAB",
    "fab_t": "FAB-T",
    "square": "Square",
    "cw": "CW",
    "not_judged": "not judged",
    "not_measured": "not measured",
}
# What the words about a pair of conditions say already.
_PAIR = ("first", "then", "n", "right_first", "right_then", "gained", "lost", "change")
_CASCADES = {"autoattack": "AutoAttack", "quick": "APGD-CE + APGD-T"}


# Words that a name of one's own may contain: `pgd_50` -> `PGD 50`.
_WORDS = {"pgd": "PGD", "fgsm": "FGSM", "apgd": "APGD", "cw": "CW", "bim": "BIM", "trades": "TRADES"}


def title(name: str) -> str:
    """A name of the parameters as a heading: `clean_teacher` -> `clean teacher`, `fgsm` -> `FGSM`."""
    return _TITLES.get(name) or " ".join(_WORDS.get(word, word) for word in name.split("_"))


def sentence(words: str) -> str:
    """Words with their first letter large, for the start of a sentence; `str.capitalize` would shrink all others."""
    return words[:1].upper() + words[1:]


def cascade_title(document: Document) -> str:
    """The cascade's name: AutoAttack only where it is that, else the attacks it consists of, or how many."""
    cascade = document["cascade"]
    attacks = [title(attack) for attack in cascade["attacks"]]
    own = " + ".join(attacks) if len(attacks) < 4 else f"cascade of {len(attacks)} attacks"
    return _CASCADES.get(cascade["name"], own)


def column_title(document: Document, column: str) -> str:
    """The heading of a column of the main table."""
    return cascade_title(document) if column == "cascade" else title(column)


def worst_of(document: Document, name: str) -> str:
    """What a model's worst case is the worst of: `AutoAttack and 4 more attacks`, `FGSM and PGD`."""
    worst = document["models"][name]["worst_case"]
    if worst is None:
        return ABSENT
    attacks = [title(attack) for attack in worst["attacks"]]
    if worst["cascade"] is None:
        return " and ".join(attacks) if len(attacks) < 3 else f"{len(attacks)} attacks"
    more = f" and {len(attacks)} more attack{'s' if len(attacks) != 1 else ''}" if attacks else ""
    return cascade_title(document) + more


def percent(value: float) -> str:
    """`0.986` -> `98.6`; the sign `%` stands in the heading."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of shares in points, signed: `-0.012` -> `−1.2`."""
    text = f"{100 * value:+.1f}".replace("-", "\u2212")
    return "0.0" if text[1:] == "0.0" else text


def half_width(found: dict[str, Any]) -> str:
    """Half the interval's width, in points."""
    return percent((found["high"] - found["low"]) / 2)


def bounds(found: dict[str, Any]) -> str:
    """The interval in percent, `96.8-99.5` with an en dash."""
    return f"{percent(found['low'])}{RANGE}{percent(found['high'])}"


def epsilon_text(epsilon: str) -> str:
    """Epsilon as written, and in grey levels where that is a whole number: `1/5 (51/255)`."""
    grey = grey_text(epsilon)
    return epsilon if grey == epsilon else f"{epsilon} ({grey})"


def grey_text(epsilon: str) -> str:
    """Epsilon in grey levels where that is a whole number of at most 255, else as written: `1/5` -> `51/255`."""
    levels = Fraction(epsilon) * 255
    return f"{levels}/255" if levels.denominator == 1 and 0 < levels <= 255 else epsilon


class NormWords(NamedTuple):
    """How a norm is written, what its ε means, and whether that is a number of grey levels of a pixel."""

    title: str
    meaning: str
    in_grey_levels: bool


NORM_WORDS = {
    "linf": NormWords("L∞", "every pixel may change by that share of the range from black to white", True),
    "l2": NormWords("L2", "the whole change of an image may have that length (pixels from 0 to 1)", False),
    "l1": NormWords("L1", "the changes of all pixels may add up to that much (pixels from 0 to 1)", False),
}
"""For every norm that a document can name: one without words here is an error, not another norm's words."""


def norm_text(norm: str) -> str:
    """The norm as it is printed: `linf` -> `L∞`."""
    return NORM_WORDS[norm].title


def norm_meaning(norm: str) -> str:
    """What ε is in this norm, in words."""
    return NORM_WORDS[norm].meaning


def measured_text(value: Any) -> str:
    """A measured value or bound of a check: numbers to four digits, what is missing as a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict) and {"first", "then", "right_first", "right_then", "n"} <= value.keys():
        return _pair_text(value)
    if isinstance(value, dict):
        return ", ".join(f"{rule_title(key)} {measured_text(inner)}" for key, inner in value.items()) or ABSENT
    if isinstance(value, list):
        return ", ".join(map(measured_text, value))
    if value is None:
        return ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pair_text(pair: dict[str, Any]) -> str:
    """Two conditions on the same images: `clean 290 → FGSM 240 of 300 right (−16.7 points)`."""
    first, then = (f"{title(pair[key])} {pair[f'right_{key}']}" for key in ("first", "then"))
    change = (pair["right_then"] - pair["right_first"]) / pair["n"]
    more = {key: value for key, value in pair.items() if key not in _PAIR}
    rest = f"; {measured_text(more)}" if more else ""
    return f"{first} → {then} of {pair['n']} right ({points(change)} points){rest}"


def rule_title(rule: str) -> str:
    """The name of a rule in words: `eps_zero_is_clean` -> `eps zero is clean`."""
    return re.sub(r"[_-]+", " ", rule)


def verdict_text(document: Document, name: str) -> str:
    """The verdict on one model in a few words: `student suspect (square stronger)`."""
    rules = ", ".join(rule_title(check["rule"]) for check in failed(document, name))
    return f"{title(name)} {title(status(document, name))}" + (f" ({rules})" if rules else "")


def columns(document: Document) -> list[str]:
    """The columns of the main table, in order: every condition that any selected model was measured under."""
    measured = [conditions(document["models"][name]) for name in best_models(document)]
    last = [name for name in ("cascade", "worst_case", "w_robust") if any(name in row for row in measured)]
    return ["clean", *document["attacks"], *last]


def text_table(document: Document) -> str:
    """The verdict and the main table for a terminal, at most 100 columns: transposed where attacks need the room."""
    grid = _grid(document)
    if len(_aligned(grid)[0]) > WIDTH:
        grid = [list(column) for column in zip(*grid, strict=True)]
    head, *rows = _aligned(grid)
    rule = "\u2500" * len(head)
    verdict = textwrap.wrap(_verdict(document), WIDTH, subsequent_indent="  ")
    table = [head.rstrip(), rule, *(row.rstrip() for row in rows), rule]
    return "\n".join([*verdict, "", _heading(document), "", *table, *_notes(document)])


def markdown_table(document: Document) -> str:
    """The verdict and the main table as Markdown."""
    head, *rows = _grid(document)
    align = [":---", *["---:"] * (len(head) - 1)]
    table = ["| " + " | ".join(row) + " |" for row in (head, align, *rows)]
    return "\n".join([f"**{_verdict(document)}**", "", _heading(document), "", *table, "", " ".join(_notes(document))])


def _verdict(document: Document) -> str:
    me = subject(document)
    names = [me, *(name for name in best_models(document) if name != me)]
    return "Verdict: " + "; ".join(verdict_text(document, name) for name in names)


def _grid(document: Document) -> list[list[str]]:
    names = columns(document)
    rows = [["% right", *(column_title(document, name) for name in names)]]
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
