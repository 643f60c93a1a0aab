"""What changed from one report to another: verdicts, every rate, and everything else that is not the same.

Rates are compared by their intervals alone: two reports need not be about the same images. Where they are, the paired
test of `components.reports.comparison.text` sees smaller differences.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from components.reports.robustness.document import best_models, reasons, status
from components.reports.wording import ABSENT, bounds, percent, points, rule_title, title
from components.statistics.outcomes import Document, shortened

# Facts about an evaluation that have to agree for its rates to mean the same.
_FACTS = ("dataset", "threat", "classes", "num_images", "seed", "precision", "adversarial", "attacks", "cascade")
_MORE = ("curve", "grid", "training", "data", "params", "provenance")
_CARD = ("sha256", "architecture", "num_parameters", "epoch", "upstream", "training_cost")
# What tells the entries of a list apart, and is part of their name in a difference.
_KEYS = ("epsilon", "attack", "class", "model")
# As many names as a line can hold.
LISTED = 8


def differences(old: Document, new: Document) -> Document:
    """What differs, as JSON: `verdicts`, `rates`, `only` (rates that one side alone has), `facts`, `same_rates`.

    A rate's `change` is new − old as a share; `apart` says whether the two 95 % intervals have nothing in common.
    """
    mine, theirs = dict(_rates(old)), dict(_rates(new))
    shared = [name for name in mine if name in theirs]
    changed = [name for name in shared if mine[name] != theirs[name]]
    return {
        "verdicts": _verdicts(old, new),
        "rates": [_rate(name, mine[name], theirs[name]) for name in changed],
        "same_rates": len(shared) - len(changed),
        "only": {"old": [name for name in mine if name not in theirs], "new": [n for n in theirs if n not in mine]},
        "facts": _facts(old, new),
    }


def text(found: Document, names: tuple[str, str], markdown: bool = False) -> str:
    """The differences for a terminal or as Markdown; `names` are the files of the two sides."""
    mark = "`" if markdown else ""
    files = [f"{side}: {mark}{name}{mark}" for side, name in zip(("old", "new"), names, strict=True)]
    blocks = [("  \n" if markdown else "\n").join(files)]
    verdicts = [[title(one["model"]), _judged(one["old"]), _judged(one["new"])] for one in found["verdicts"]]
    facts = [[fact["name"], _short(fact["old"]), _short(fact["new"])] for fact in found["facts"]]
    rates, same = [_row(rate) for rate in found["rates"]], found["same_rates"]
    for heading, head, rows, none in (
        ("Verdicts", ["model", "old", "new"], verdicts, "The verdicts are the same."),
        ("Rates", ["rate, %", "old", "new", "points", "intervals"], rates, "No rate changed."),
        ("Everything else", ["what", "old", "new"], facts, "Nothing else differs."),
    ):
        blocks += [f"## {heading}" if markdown else heading.upper(), _table(head, rows, markdown) or none]
        if heading == "Rates":
            blocks.append(f"{same} rate{' is' if same == 1 else 's are'} the same.")
            sides = {side: _listed(only) for side, only in found["only"].items() if only}
            blocks += [f"Only in the {side} report: {only}." for side, only in sides.items()]
    return "\n\n".join(blocks)


def _listed(names: list[str]) -> str:
    """A few names as they are; of many, how many belong to each model or section, which is their first word."""
    if len(names) <= LISTED:
        return ", ".join(names)
    return ", ".join(f"{count} of {group}" for group, count in Counter(name.split()[0] for name in names).items())


def _verdicts(old: Document, new: Document) -> list[Document]:
    names = dict.fromkeys([*best_models(old), *best_models(new)])
    sides = [(name, *(_verdict(document, name) for document in (old, new))) for name in names]
    return [{"model": name, "old": one, "new": other} for name, one, other in sides if one != other]


def _verdict(document: Document, name: str) -> Document | None:
    if name not in document["models"]:
        return None
    return {"status": status(document, name), "reasons": sorted(reasons(document, name))}


def _rates(value: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[str, Document]]:
    """Every object with a value and an interval, by the keys that lead to it."""
    if isinstance(value, Mapping):
        if {"value", "low", "high"} <= value.keys():
            yield " ".join(name), {key: value[key] for key in ("value", "low", "high", "n")}
            return
        for key, inner in value.items():
            # A section that says again what the models say already.
            if name or key not in ("capacity", "verdict"):
                yield from _rates(inner, (*name, str(key)) if name or key != "models" else name)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _rates(inner, (*name, _entry(inner, place)))


def _entry(value: Any, place: int) -> str:
    if isinstance(value, Mapping):
        return next((f"{'ε = ' if key == 'epsilon' else ''}{value[key]}" for key in _KEYS if key in value), str(place))
    return str(place)


def _rate(name: str, old: Document, new: Document) -> Document:
    apart = old["high"] < new["low"] or new["high"] < old["low"]
    change = shortened(new["value"] - old["value"])
    return {"name": name, "old": old, "new": new, "change": change, "apart": apart}


def _facts(old: Document, new: Document) -> list[Document]:
    mine, theirs = (dict(_told(document)) for document in (old, new))
    names = dict.fromkeys([*mine, *theirs])
    return [
        {"name": name, "old": mine.get(name), "new": theirs.get(name)}
        for name in names
        if mine.get(name) != theirs.get(name)
    ]


def _told(document: Document) -> Iterator[tuple[str, Any]]:
    for key in (*_FACTS, *_MORE):
        yield from _flat(document[key], key)
    for name, model in document["models"].items():
        for key in _CARD:
            yield from _flat(model[key], f"{name}.{key}")
        for kind in ("forward", "backward"):
            yield f"{name}.cost.{kind}", sum(passes[kind] for passes in model["cost"].values())


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}")
    else:
        yield name, value


def _row(rate: Document) -> list[str]:
    sides = (f"{percent(rate[side]['value'])} ({bounds(rate[side])})" for side in ("old", "new"))
    return [rate["name"], *sides, points(rate["change"]), "apart" if rate["apart"] else "overlap"]


def _judged(verdict: Document | None) -> str:
    if verdict is None:
        return ABSENT
    rules = ", ".join(map(rule_title, verdict["reasons"]))
    return title(verdict["status"]) + (f" ({rules})" if rules else "")


def _short(value: Any, limit: int = 60) -> str:
    words = ABSENT if value is None else str(value)
    return words if len(words) <= limit else words[: limit - 1] + "…"


def _table(head: list[str], rows: list[list[str]], markdown: bool) -> str:
    if not rows:
        return ""
    if markdown:
        written = [[cell.replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
        return "\n".join("| " + " | ".join(row) + " |" for row in written)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join([lines[0], "\u2500" * max(map(len, lines)), *lines[1:]])
