"""What changed from one report to another: decision and verdicts, every rate, and everything else that is not the same.

Rates are compared by their intervals alone: two reports need not be about the same images. Where they are, the paired
test of `components.reports.comparison.text` sees smaller differences.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from components.foundation.params import flat
from components.reports import grids
from components.reports.attack_words import with_attacks
from components.reports.robustness.contents import Report
from components.reports.robustness.document import best_models, total
from components.reports.robustness.sentences import verdict_text
from components.reports.wording import ABSENT, exact_text, title
from components.statistics.documents import as_json
from components.statistics.number_text import bounds, percent, points
from components.statistics.outcomes import Interval, shortened

# Facts about an evaluation that have to agree for its rates to mean the same.
_FACTS = ("dataset", "threat", "classes", "num_images", "seed", "precision", "adversarial", "attacks", "cascade")
_MORE = ("curve", "grid", "training", "data", "params", "provenance")
_MODEL = ("sha256", "architecture", "num_parameters", "epoch", "upstream", "training_cost")
# What tells the entries of a list apart, and is part of their name in a difference.
_KEYS = ("epsilon", "attack", "class", "model")
# As many names as a line can hold.
LISTED = 8


class Changed(NamedTuple):
    """Something with a name, on both sides; None where a side does not have it."""

    name: str
    old: Any
    new: Any


class ChangedRate(NamedTuple):
    """A rate on both sides: `change` is new − old as a share, `apart` whether the intervals have nothing in common."""

    name: str
    old: Interval[float]
    new: Interval[float]

    @property
    def change(self) -> float:
        return shortened(self.new.value - self.old.value)

    @property
    def apart(self) -> bool:
        return self.old.high < self.new.low or self.new.high < self.old.low


@dataclass(frozen=True)
class Changes:
    """What differs between two reports; `only` are the rates that one side alone has, by side."""

    verdicts: Sequence[Changed]
    rates: Sequence[ChangedRate]
    same_rates: int
    only: Mapping[str, Sequence[str]]
    facts: Sequence[Changed]


def differences(old: Report, new: Report) -> Changes:
    """What differs between two reports."""
    sides = as_json(old), as_json(new)
    mine, theirs = (dict(_rates(side)) for side in sides)
    shared = [name for name in mine if name in theirs]
    changed = [name for name in shared if mine[name] != theirs[name]]
    facts = [dict(_told(report, side)) for report, side in zip((old, new), sides, strict=True)]
    verdicts = [_decided(report) for report in (old, new)]
    return Changes(
        verdicts=_changed(*verdicts),
        rates=[ChangedRate(name, _interval(mine[name]), _interval(theirs[name])) for name in changed],
        same_rates=len(shared) - len(changed),
        only={"old": [name for name in mine if name not in theirs], "new": [n for n in theirs if n not in mine]},
        facts=_changed(*facts),
    )


def text(found: Changes, names: tuple[str, str], markdown: bool = False) -> str:
    """The differences for a terminal or as Markdown; `names` are the files of the two sides."""
    mark = "`" if markdown else ""
    files = [f"{side}: {mark}{name}{mark}" for side, name in zip(("old", "new"), names, strict=True)]
    blocks = [("  \n" if markdown else "\n").join(files)]
    verdicts = [[title(one.name), one.old or ABSENT, one.new or ABSENT] for one in found.verdicts]
    facts = [[fact.name, _short(fact.old), _short(fact.new)] for fact in found.facts]
    rates, same = [_row(rate) for rate in found.rates], found.same_rates
    draw = grids.markdown if markdown else grids.ruled
    for heading, head, rows, none in (
        ("Verdicts", ["model", "old", "new"], verdicts, "The verdicts are the same."),
        ("Rates", ["rate, %", "old", "new", "points", "intervals"], rates, "No rate changed."),
        ("Everything else", ["what", "old", "new"], facts, "Nothing else differs."),
    ):
        blocks += [f"## {heading}" if markdown else heading.upper(), draw([head, *rows]) if rows else none]
        if heading == "Rates":
            blocks.append(f"{same} rate{' is' if same == 1 else 's are'} the same.")
            sides = {side: _listed(only) for side, only in found.only.items() if only}
            blocks += [f"Only in the {side} report: {only}." for side, only in sides.items()]
    return "\n\n".join(blocks)


def _listed(names: Sequence[str]) -> str:
    """A few names as they are; of many, how many belong to each model or section, which is their first word."""
    if len(names) <= LISTED:
        return ", ".join(names)
    return ", ".join(f"{count} of {group}" for group, count in Counter(name.split()[0] for name in names).items())


def _decided(report: Report) -> dict[str, str]:
    """The decision with the criteria that are not met, and the verdict on every model."""
    verdicts = {name: verdict_text(report, name) for name in best_models(report)}
    if report.decision is None:
        return verdicts
    unmet = ", ".join(criterion.name for criterion in report.decision.unmet)
    answer = report.decision.answer + (f" ({unmet})" if unmet else "")
    return {f"decision on {report.decision.model}": answer, **verdicts}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Changed]:
    names = dict.fromkeys([*old, *new])
    return [Changed(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _rates(value: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
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
    named = value if isinstance(value, Mapping) else {}
    return next((f"{'ε = ' if key == 'epsilon' else ''}{named[key]}" for key in _KEYS if key in named), str(place))


def _interval(rate: Mapping[str, Any]) -> Interval[float]:
    return Interval[float](value=rate["value"], low=rate["low"], high=rate["high"])


def _told(report: Report, side: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in (*_FACTS, *_MORE):
        yield from flat(side[key], key).items()
    for name, model in side["models"].items():
        for key in _MODEL:
            yield from flat(model[key], f"{name}.{key}").items()
        for kind, passes in total(report.models[name].cost):
            yield f"{name}.cost.{kind}", passes


def _row(rate: ChangedRate) -> list[str]:
    sides = (f"{percent(side.value)} ({bounds(side)})" for side in (rate.old, rate.new))
    return [rate.name, *sides, points(rate.change), "apart" if rate.apart else "overlap"]


def _short(value: Any, limit: int = 60) -> str:
    words = exact_text(with_attacks(value))
    return words if len(words) <= limit else words[: limit - 1] + "…"
