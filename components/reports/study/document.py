"""What a study found: every arm with every seed, means over the seeds, and paired differences between arms."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import Tensor

from components.foundation.errors import InputError, choose
from components.reports.robustness.document import conditions
from components.statistics.intervals import CONFIDENCE, Paired, holm, paired, spread
from components.statistics.outcomes import Document, shortened

SCHEMA = "temper/study/1"
CHECKPOINTS = ("best", "last")
# A model has collapsed when it ends below this share of its best accuracy under attack.
COLLAPSE = 0.5

Rows = Sequence[Mapping[str, str]]


class Finding(NamedTuple):
    """One arm with one seed, as its files have it.

    `run` is what the plan says of it; `robustness` the report of its evaluation, whose models are `best` and `last`;
    `outcomes` the tensors [n] behind it; `curve` the rows of its curves file; `metrics` of its training; `sentinel`
    its `events` and, per rule, `leads`, or None where nothing was looked at.
    """

    run: Document
    robustness: Document
    outcomes: Mapping[str, Tensor]
    curve: Rows
    metrics: Document
    sentinel: Document | None


def build(plan: Document, findings: Sequence[Finding], transfers: Mapping[str, Document]) -> Document:
    """The content of studies/NAME/results/SCALE.json (docs/studies/README.md).

    Args:
        plan: the study's question and settings, as `temper study` writes them.
        findings: of all finished runs, in the order of the arms.
        transfers: per seed the transfer section of a report in which all arms' models met.

    Errors: arms that were evaluated on other test images or under other attacks, an attack that was not run.
    """
    first = findings[0].robustness
    for finding in findings:
        choose(conditions(finding.robustness["models"]["best"]), plan["robust"], f"{_name(finding)}: robust")
        for key in ("dataset", "threat", "num_images", "attacks", "cascade"):
            if finding.robustness[key] != first[key]:
                raise InputError(f"{_name(finding)}: another {key} than {_name(findings[0])}, so no table of both")
    arms: dict[str, Document] = {}
    for finding in findings:
        run = finding.run
        arm = arms.setdefault(
            run["name"], {"arm": run["arm"], "variant": run["variant"], "section": run["section"], "seeds": {}}
        )
        arm["seeds"][str(run["seed"])] = _seed(finding, plan["robust"])
    for arm in arms.values():
        arm["over_seeds"] = over_seeds(list(arm["seeds"].values()))
    kept = ("study", "scale", "question", "claim", "role", "robust", "figure", "transfer")
    return {
        "schema": SCHEMA,
        **{key: plan[key] for key in kept},
        "confidence": CONFIDENCE,
        **{key: first[key] for key in ("dataset", "threat", "num_images", "attacks", "cascade")},
        "arms": arms,
        "pairs": pairs(plan, findings),
        "transfers": transfers,
        "provenance": {key: first["provenance"].get(key) for key in ("device", "python", "torch", "torchvision")},
    }


def _name(finding: Finding) -> str:
    return f"{finding.run['name']}-{finding.run['seed']}"


def _seed(finding: Finding, robust: str) -> Document:
    models, verdicts = finding.robustness["models"], finding.robustness["verdict"]
    curve = [_point(row) for row in finding.curve]
    checkpoints = {name: _measured(models[name]) for name in CHECKPOINTS}
    last, best = (checkpoints[name][robust]["value"] for name in ("last", "best"))
    return {
        **checkpoints,
        "verdict": {name: {key: verdicts[name][key] for key in ("status", "reasons")} for name in CHECKPOINTS},
        "grid": {name: models[name]["grid"] for name in CHECKPOINTS},
        "label_leak": {name: models[name]["label_leak"] for name in CHECKPOINTS},
        "epochs": {name: finding.metrics[name]["epoch"] for name in CHECKPOINTS},
        "collapsed": last < COLLAPSE * best,
        "collapse_epoch": collapse_epoch([point["robust_accuracy"] for point in curve]),
        "sentinel": finding.sentinel,
        "passes": finding.metrics["passes"],
        "num_parameters": finding.metrics["num_parameters"],
        "seconds": finding.run["seconds"],
        "code": finding.run["code"],
        "curve": curve,
    }


def _measured(model: Document) -> Document:
    rate = ("value", "low", "high", "count", "n")
    found = {name: one for name, one in conditions(model).items() if name != "w_robust"}
    return {name: {key: one[key] for key in rate if key in one} for name, one in found.items()}


def _point(row: Mapping[str, str]) -> Document:
    numbers = {key: shortened(float(row[key])) for key in ("clean_accuracy", "robust_accuracy")}
    return {"epoch": int(float(row["epoch"])), **numbers}


def collapse_epoch(accuracies: Sequence[float]) -> int | None:
    """The first place at which the accuracy is below half of the largest before it; None where there is none.

    Places before the first training epoch, and accuracies that never rose above chance, are not told apart here: give
    the accuracies from epoch 0 on.
    """
    best = 0.0
    for place, accuracy in enumerate(accuracies):
        if accuracy < COLLAPSE * best:
            return place
        # The untrained model's answers may be right by luck: nothing has been learned that could be lost.
        best = max(best, accuracy) if place else 0.0
    return None


def over_seeds(seeds: Sequence[Document]) -> Document:
    """Per checkpoint and condition the mean over the seeds, its interval, and n; one seed has neither spread nor
    interval."""
    return {
        checkpoint: {name: mean([seed[checkpoint][name]["value"] for seed in seeds]) for name in seeds[0][checkpoint]}
        for checkpoint in CHECKPOINTS
    }


def mean(values: Sequence[float]) -> Document:
    """The mean of values over n seeds with Student's 95 % interval of it, where there are two or more."""
    if len(values) < 2:
        return {"mean": shortened(values[0]), "n": 1}
    return {key: shortened(value) for key, value in asdict(spread(values)).items()}


def pairs(plan: Document, findings: Sequence[Finding]) -> list[Document]:
    """Per pair of arms, checkpoint and condition: B minus A, per seed on the same images, and over the seeds.

    The p values are McNemar's, exact; `p_corrected` is Holm's over all seeds and pairs of a checkpoint and condition.
    """
    by_name = {(finding.run["name"], finding.run["seed"]): finding for finding in findings}
    seeds = list(dict.fromkeys(finding.run["seed"] for finding in findings))
    rows = []
    for checkpoint in CHECKPOINTS:
        for condition in dict.fromkeys(("clean", plan["robust"])):
            family = []
            for a, b in plan["pairs"]:
                shared = [seed for seed in seeds if (a, seed) in by_name and (b, seed) in by_name]
                found = {
                    str(seed): _difference(by_name[a, seed], by_name[b, seed], checkpoint, condition) for seed in shared
                }
                if found:
                    family.append((a, b, found))
            rows += _corrected(family, checkpoint, condition)
    return rows


def _difference(a: Finding, b: Finding, checkpoint: str, condition: str) -> Paired:
    if not bool((a.outcomes["labels"] == b.outcomes["labels"]).all()):
        raise InputError(f"{_name(a)} and {_name(b)}: other test images, so nothing can be compared image by image")
    return paired(*(_outcome(one, checkpoint, condition) for one in (a, b)))


def _outcome(finding: Finding, checkpoint: str, condition: str) -> Tensor:
    if condition == "cascade":
        condition = f"cascade/{list(finding.robustness['cascade']['attacks'])[-1]}"
    return finding.outcomes[f"{checkpoint}/{condition}"]


def _corrected(
    family: Sequence[tuple[str, str, Mapping[str, Paired]]], checkpoint: str, condition: str
) -> list[Document]:
    corrected = iter(holm([one.p for _, _, found in family for one in found.values()]))
    rows = []
    for a, b, found in family:
        seeds = {seed: asdict(one) | {"p_corrected": next(corrected)} for seed, one in found.items()}
        values: dict[str, Any] = {seed: {k: _six(v) for k, v in one.items()} for seed, one in seeds.items()}
        total = mean([one.value for one in found.values()])
        rows.append(
            {"a": a, "b": b, "checkpoint": checkpoint, "condition": condition, "seeds": values, "over_seeds": total}
        )
    return rows


def _six(value: Any) -> Any:
    """Six digits, which small p values keep too."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
