"""Which rules of the overfitting sentinel are right, and how early: replayed on finished runs, without training.

    python benchmarks/sentinel_backtest.py --curves curves.json.gz [--runs FILE-OR-FOLDER ...]

`--curves` is a file of public curves: data set, method, `seeds`, seed, lists over epochs. What a collapse, robust
overfitting and a healthy run are, and which runs are learned from, is fixed in `sentinel_runs.py`. Thresholds and the
default are chosen on `learn` alone (`--learn-only` shows nothing else); all figures of `judge` follow from them.
`--runs` are a study's results, folders with `curves/MODEL.csv`, or more files of public curves: they are judged by what
was chosen, and nothing is learned from them.

Of each run only a rule's first alarm counts, since it is what acts. For a collapse it is a *hit* from ten epochs before
the start until two epochs after the collapse, *early* if it comes an epoch or more before the collapse, *premature*
before that span; else the run is *missed*. For robust overfitting it is a hit from the start on, premature before it,
and its lead is what stopping would save, the epochs that are left. A *false alarm* is a healthy run with any alarm.
Runs of the other kind count in neither. Runs without a rule's signal are left out for that rule.

Chosen is, among the thresholds with at most five false alarms per 100 healthy runs, what hits most, then what is early
most often, then the largest median lead, then the fewest false alarms, then the simplest and most cautious one. So far
as the runs to judge by are fewer than sixty, the rate of false alarms is "not shown".

`results/sentinel_backtest.json` has all of it: per rule the thresholds as learned, the counts on `judge` by data set
and together, the sweep over all thresholds, the pairs of rules, the same choice with each method's runs left out of the
learning, judged on that method, and what `widening` says where fewer images are looked at, drawn from the rates that
were measured: more noise than a real sentinel has, whose images are the same at each look.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.sentinel_runs import Run, Truth, given, public, split, truth, with_fewer  # noqa: E402
from benchmarks.sentinel_thresholds import BASE  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.errors import InputError  # noqa: E402
from components.foundation.storage import sha256  # noqa: E402
from components.statistics.intervals import clopper_pearson  # noqa: E402
from components.training.sentinel.replay import replay  # noqa: E402
from components.training.sentinel.rules import RULES, RuleName, Rules  # noqa: E402

BEFORE, AFTER = 10, 2  # Epochs before the start of a collapse and after the collapse in which an alarm is a hit.
ENOUGH = 60  # Healthy runs for a rate of false alarms.
TOLERATED = 0.05  # Of the healthy runs to learn from may have a false alarm.
NOT_SHOWN = "not shown"
FEWER, DRAWS = (100, 200, 500), 5  # Images of a look, and how often they are drawn.
TOGETHER = "together"

# `alarm_on` of docs/sentinel.md.
DEFAULT: tuple[RuleName, ...] = ("collapse", "widening")
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
# Thresholds to try, the most cautious first.
SWEEPS: dict[RuleName, dict[str, Sequence[Any]]] = {
    "collapse": {"collapse": (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)},
    "catastrophic": {},
    "hidden": {"hidden": (0.1, 0.2, *SHARES)},
    "fall": {"fall": (0.3, 0.2, 0.15, 0.1, 0.075, 0.05, 0.03, 0.02)},
    "gap": {"gap": (0.4, 0.3, 0.25, 0.2, 0.175, 0.15, 0.125, 0.1, 0.075, 0.05)},
    "widening": {"widening": (0.3, 0.2, 0.15, 0.125, 0.1, 0.075, 0.06, 0.05, 0.04, 0.03), "memory": (8, 16, 4, 1)},
    "robust_overfitting": {"decline": (0.05, 0.04, 0.03, 0.025, 0.02, 0.015, 0.01, 0.005), "window": (12, 8, 4)},
    "alignment": {"alignment": SHARES},
    "pert_align": {"pert_align": SHARES},
    "direction": {"direction": SHARES},
    "loss": {"loss_drop": (0.5, 0.3, 0.2, 0.1)},
    "distortion": {"distortion": SHARES},
    "kernel": {"velocity": (10.0, 5.0, 3.0, 2.0, 1.5), "rank": (0.3, 0.5, 0.7, 0.9)},
}
# A rule says nothing of a run without one of these.
NEEDS: dict[RuleName, tuple[str, ...]] = {
    "catastrophic": ("fgsm_accuracy",),
    "hidden": ("averaged_accuracy",),
    "gap": ("fgsm_accuracy",),
    "widening": ("fgsm_accuracy",),
    "robust_overfitting": ("train_adversarial_accuracy",),
    "alignment": ("alignment",),
    "pert_align": ("pert_align",),
    "direction": ("direction",),
    "loss": ("train_loss", "adversarial_loss"),
    "distortion": ("distortion",),
    "kernel": ("kernel_rank", "kernel_velocity"),
}
# Pairs of these are tried, either of the two and both at one look.
IN_PAIRS: tuple[RuleName, ...] = ("collapse", "hidden", "fall", "gap", "widening")


class Detector(NamedTuple):
    """A rule with its thresholds, or two of them: `how` is then `or`, `and`."""

    rules: tuple[tuple[RuleName, Rules], ...]
    how: str = "or"

    @property
    def name(self) -> str:
        return f" {self.how} ".join(name for name, _ in self.rules)

    @property
    def thresholds(self) -> dict[str, Any]:
        """The fields that are swept, by rule."""
        return {name: {field: getattr(rules, field) for field in SWEEPS[name]} for name, rules in self.rules}

    @property
    def aims_at(self) -> str:
        return "overfitting" if self.rules[0][0] == "robust_overfitting" else "collapse"

    def sees(self, run: Run) -> bool:
        """Whether the run has what the rules need: for `or` any of them."""
        seen = [_has(run, name) for name, _ in self.rules]
        return any(seen) if self.how == "or" else all(seen)

    def first(self, run: Run) -> float | None:
        """The epoch of the first alarm in a run."""
        epochs = [_alarms(name, rules, run) for name, rules in self.rules]
        heard = frozenset.union(*epochs) if self.how == "or" else frozenset.intersection(*epochs)
        return min(heard, default=None)


class Count(NamedTuple):
    """What a detector said of some runs. `leads` are those of hits, in epochs, the largest first."""

    sick: int
    hits: int
    early: int
    premature: int
    missed: int
    slow: int
    slow_hits: int
    leads: tuple[float, ...]
    healthy: int
    false_alarms: int

    @property
    def lead(self) -> float | None:
        return median(self.leads) if self.leads else None

    def document(self) -> dict[str, Any]:
        return {**self._asdict(), "leads": list(self.leads), "lead": self.lead, "false_per_100": self.per_100()}

    def point(self) -> dict[str, Any]:
        """A point of a ROC."""
        names = ("sick", "hits", "early", "premature", "healthy", "false_alarms")
        return {**{name: getattr(self, name) for name in names}, "lead": self.lead}

    def per_100(self) -> dict[str, float] | str:
        """Healthy runs with a false alarm, per 100, and the Clopper-Pearson interval at 95 %."""
        if self.healthy < ENOUGH:
            return NOT_SHOWN
        low, high = clopper_pearson(self.false_alarms, self.healthy)
        return {"value": 100 * self.false_alarms / self.healthy, "low": 100 * low, "high": 100 * high}


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    try:
        runs = public(args.curves)
        others = [run for path in args.runs for run in given(path)]
    except InputError as error:
        print(f"sentinel_backtest: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    learn, judge = split(runs)
    chosen = {"collapse": best(learn, candidates("collapse")), "overfitting": best(learn, candidates("overfitting"))}
    learned: dict[RuleName, Detector] = {rule: best(learn, detectors(rule)) for rule in RULES}
    shown = {**written_down(), **{f"{rule}, learned": one for rule, one in learned.items() if SWEEPS[rule]}}
    shown |= {f"best to learn from, {aim}": detector for aim, detector in chosen.items()}
    if args.learn_only:
        show(learn, shown)
        return
    result = {
        "curves": {"sha256": sha256(args.curves), "runs": len(runs)},
        "kinds": {name: kinds(some) for name, some in {"learn": learn, "judge": judge, "others": others}.items()},
        "chosen": {aim: about(detector, learn, judge) for aim, detector in chosen.items()},
        "written_down": {
            name: about(detector, learn, judge) | {"alarmed_healthy": alarmed_healthy(detector, judge)}
            for name, detector in written_down().items()
        },
        "rules": {rule: about(detector, learn, judge) | sweep(rule, judge) for rule, detector in learned.items()},
        "pairs": [pair_of(detector, learn, judge) for detector in best_pairs(learn)],
        "left_out": {aim: left_out(aim, learn, judge).document() for aim in chosen},
        "fewer_images": fewer_images(judge),
        "others": {rule: by_group(detector, others) for rule, detector in learned.items()} if others else {},
    }
    show(judge, shown)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, required=True, help="public curves, JSON, or JSON packed by gzip")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="more runs to judge by")
    parser.add_argument("--learn-only", action="store_true", help="choose, show the runs to learn from, write nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "sentinel_backtest.json")
    return parser.parse_args(arguments)


def detectors(rule: RuleName) -> list[Detector]:
    """The rule with each of its thresholds, the most cautious first."""
    fields = SWEEPS[rule]
    grid = [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]
    return [Detector(((rule, replace(BASE, **values)),)) for values in grid]


def written_down() -> dict[str, Detector]:
    """What `alarm_on` of docs/sentinel.md names, and each rule alone with the thresholds from there."""
    default = {"default": Detector(tuple((rule, BASE) for rule in DEFAULT))}
    return default | {rule: Detector(((rule, BASE),)) for rule in RULES}


def pairs() -> list[list[Detector]]:
    """For each two rules that are tried together, and each way, all their thresholds."""
    return [
        [
            Detector((*left.rules, *right.rules), how)
            for left, right in itertools.product(detectors(first), detectors(second))
        ]
        for first, second in itertools.combinations(IN_PAIRS, 2)
        for how in ("or", "and")
    ]


def candidates(aim: str) -> list[Detector]:
    """What is chosen from, the simplest first."""
    singles = [detector for rule in RULES for detector in detectors(rule) if detector.aims_at == aim]
    return singles + ([] if aim == "overfitting" else [detector for pair in pairs() for detector in pair])


def best(runs: Sequence[Run], choices: Iterable[Detector]) -> Detector:
    """The first of those with the best trade on these runs."""

    def worth(detector: Detector) -> tuple[bool, int, int, float, int]:
        one = count(detector, runs)
        tolerated = one.false_alarms <= TOLERATED * one.healthy
        lead = -float("inf") if one.lead is None else one.lead
        return tolerated, one.hits, one.early, lead, -one.false_alarms

    return max(choices, key=worth)


def best_pairs(runs: Sequence[Run]) -> list[Detector]:
    """The best thresholds of each two rules."""
    return [best(runs, pair) for pair in pairs()]


def count(detector: Detector, runs: Iterable[Run], known: Truth | None = None) -> Count:
    """What a detector said of those runs that it sees; `known` is what they are, if their looks do not tell."""
    said: Counter[str] = Counter()
    leads: list[float] = []
    for run in (run for run in runs if detector.sees(run)):
        fact, first = known or _truth(run), detector.first(run)
        if fact.kind == "healthy":
            said.update(["healthy", *["false_alarms"] * (first is not None)])
        elif fact.kind == detector.aims_at:
            soonest, latest, aim = _span(fact, run)
            verdict = "missed" if first is None or first > latest else "premature" if first < soonest else "hits"
            said.update(["sick", verdict, *["slow", f"slow_{verdict}"] * fact.slow])
            if first is not None and verdict == "hits":
                leads.append(aim - first)
                said["early"] += aim - first >= 1
    names = [name for name in Count._fields if name != "leads"]
    return Count(leads=tuple(sorted(leads, reverse=True)), **{name: said[name] for name in names})


def _span(fact: Truth, run: Run) -> tuple[float, float, float]:
    """From when to when an alarm is a hit, and the epoch that leads are counted to."""
    assert fact.start is not None
    last = run.looks[-1]["epoch"]
    if fact.kind == "overfitting":
        return fact.start, last, last
    assert fact.collapse is not None
    return fact.start - BEFORE, fact.collapse + AFTER, fact.collapse


def left_out(aim: str, learn: Sequence[Run], judge: Sequence[Run]) -> Count:
    """Each family's runs judged by what is best for the runs of the other families, counted together."""
    parts: list[Count] = []
    for family in dict.fromkeys(run.family for run in judge):
        detector = best([run for run in learn if run.family != family], candidates(aim))
        parts.append(count(detector, [run for run in judge if run.family == family]))
    return added(parts)


def added(parts: Sequence[Count]) -> Count:
    """The counts of disjoint runs as one."""
    columns = dict(zip(Count._fields, zip(*parts, strict=True), strict=True))
    leads = tuple(sorted(itertools.chain(*columns.pop("leads")), reverse=True))
    return Count(**{name: sum(values) for name, values in columns.items()}, leads=leads)


def by_group(detector: Detector, runs: Sequence[Run]) -> dict[str, Any]:
    """The counts by data set, and together."""
    return {name: count(detector, some).document() for name, some in grouped(runs).items()}


def grouped(runs: Sequence[Run]) -> dict[str, Sequence[Run]]:
    """The runs by data set, and together."""
    groups = dict.fromkeys(run.group for run in runs)
    return {group: [run for run in runs if run.group == group] for group in groups} | {TOGETHER: runs}


def about(detector: Detector, learn: Sequence[Run], judge: Sequence[Run]) -> dict[str, Any]:
    """A detector with its counts."""
    told = {"rule": detector.name, "thresholds": detector.thresholds, "aims_at": detector.aims_at}
    if not any(detector.sees(run) for run in (*learn, *judge)):
        return {**told, "learn": NOT_SHOWN, "judge": NOT_SHOWN}
    return {**told, "learn": by_group(detector, learn)[TOGETHER], "judge": by_group(detector, judge)}


def pair_of(pair: Detector, learn: Sequence[Run], judge: Sequence[Run]) -> dict[str, Any]:
    """Two rules together, with their best thresholds: points of learning and of judging."""
    points = {"learn": count(pair, learn).point(), "judge": count(pair, judge).point()}
    return {"rule": pair.name, "thresholds": pair.thresholds, **points}


def fewer_images(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each number of images and each threshold of `widening`: a point over several draws of all these runs."""
    points: list[dict[str, Any]] = []
    for num_images in FEWER:
        drawn = [(run, with_fewer(run, num_images, seed)) for seed in range(DRAWS) for run in runs if _has(run, "gap")]
        for threshold in (0.05, 0.06, 0.075, 0.1, 0.125, 0.15):
            detector = Detector((("widening", replace(BASE, widening=threshold)),))
            # What a run is is what it was at all images.
            told = added([count(detector, [copy], _truth(run)) for run, copy in drawn])
            points.append({"images": num_images, "widening": threshold, **told.point()})
    return points


def alarmed_healthy(detector: Detector, runs: Sequence[Run]) -> dict[str, float]:
    """The healthy runs with a false alarm, and when."""
    firsts = {run.id: detector.first(run) for run in runs if detector.sees(run) and _truth(run).kind == "healthy"}
    return {name: first for name, first in firsts.items() if first is not None}


def sweep(rule: RuleName, runs: Sequence[Run]) -> dict[str, Any]:
    """Points of the rule's ROC: hits and false alarms at each of its thresholds."""
    if not any(detectors(rule)[0].sees(run) for run in runs):
        return {"roc": NOT_SHOWN}
    return {
        "roc": [
            {
                **detector.thresholds[rule],
                **{name: count(detector, some).point() for name, some in grouped(runs).items()},
            }
            for detector in detectors(rule)
        ]
    }


def kinds(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """How many runs of each kind there are, by data set and together."""
    asked: dict[str, Callable[[Truth], bool]] = {
        "collapse": lambda fact: fact.kind == "collapse",
        "slow": lambda fact: fact.slow,
        "lasting": lambda fact: fact.lasting,
        "overfitting": lambda fact: fact.kind == "overfitting",
        "healthy": lambda fact: fact.kind == "healthy",
    }
    return {
        name: {kind: sum(is_so(_truth(run)) for run in some) for kind, is_so in asked.items()}
        for name, some in grouped(runs).items()
    }


def show(runs: Sequence[Run], shown: Mapping[str, Detector]) -> None:
    """Prints the kinds of runs, and a table with a row per detector."""
    for name, some in kinds(runs).items():
        print(f"{name}: " + ", ".join(f"{kind} {number}" for kind, number in some.items()))
    print("| rule | thresholds | runs | missed | premature | early | median lead | false alarms per 100 healthy |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, detector in shown.items():
        print(row(name, detector, runs))


def row(name: str, detector: Detector, runs: Sequence[Run]) -> str:
    """A line of the table."""
    told = ", ".join(f"{field} {value:g}" for fields in detector.thresholds.values() for field, value in fields.items())
    name = name if detector.name in name else f"{name}: {detector.name}"
    one = count(detector, runs)
    if not one.sick + one.healthy:
        return f"| {name} | {told} | {NOT_SHOWN} | | | | | |"
    rate = one.per_100()
    if isinstance(rate, dict):
        said = f"{rate['value']:.1f} ({rate['low']:.1f} to {rate['high']:.1f}; {one.false_alarms} of {one.healthy})"
    else:
        said = f"{NOT_SHOWN} ({one.false_alarms} of {one.healthy})"
    lead = "–" if one.lead is None else f"{one.lead:g}"
    return f"| {name} | {told} | {one.sick} | {one.missed} | {one.premature} | {one.early} | {lead} | {said} |"


def _has(run: Run, rule: RuleName) -> bool:
    return any(name in look for look in run.looks for name in NEEDS.get(rule, ("pgd_accuracy",)))


@cache
def _truth(run: Run) -> Truth:
    return truth(run.looks)


@cache
def _alarms(rule: RuleName, rules: Rules, run: Run) -> frozenset[float]:
    """The epochs at which one rule alarms."""
    heard = zip(run.looks, replay(run.looks, rules, (rule,)), strict=True)
    return frozenset(look["epoch"] for look, names in heard if names)


if __name__ == "__main__":
    main()
