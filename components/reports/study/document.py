"""What a study found: every arm with every seed, means over the seeds, and paired differences between arms."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

from components.evaluation.document import CheckpointName
from components.foundation.errors import InputError, choose
from components.reports.comparison.contents import paired_difference
from components.reports.frames import frame
from components.reports.robustness.contents import Report, Transfer
from components.reports.robustness.document import conditions, rates
from components.reports.study import contents
from components.statistics.intervals import CONFIDENCE, Paired, holm, mean_difference, paired, spread
from components.statistics.outcomes import Outcomes, Rate, shortened

CHECKPOINTS: tuple[CheckpointName, ...] = ("best", "last")
# A model has collapsed when it ends below this share of its best accuracy under attack.
COLLAPSE = 0.5
# What all reports of a study have in common.
ALIKE = ("dataset", "threat", "num_images", "attacks", "cascade")

# Columns of a student's curve.
BALANCE = [f"{quantity}_{side}" for quantity in ("temperature", "weight") for side in ("robust", "clean")]

Rows = Sequence[Mapping[str, str]]


class RunFiles(NamedTuple):
    """One arm with one seed, as its files have it.

    `run` is what the plan says of it; `robustness` the report of its evaluation, whose models are `best` and `last`;
    `outcomes` the tensors [n] behind it; `curve` the rows of its curves file; `metrics` of its training; `sentinel`
    what the overfitting sentinel did, or None where nothing was looked at.
    """

    run: contents.StudyRun
    robustness: Report
    outcomes: Outcomes
    curve: Rows
    metrics: Mapping[str, Any]
    sentinel: contents.SentinelRecord | None

    @property
    def name(self) -> str:
        """Arm and seed."""
        return f"{self.run.name}-{self.run.seed}"


def build(plan: contents.StudyPlan, findings: Sequence[RunFiles], transfers: Mapping[str, Transfer]) -> contents.Study:
    """The content of studies/NAME/results/SCALE.json (docs/studies/README.md).

    Args:
        plan: the study's question and settings, as `temper study` writes them.
        findings: of all finished runs, in the order of the arms.
        transfers: per seed the transfer section of a report in which all arms' models met.

    Errors: arms that were evaluated on other test images or under other attacks, an attack that was not run.
    """
    first = findings[0].robustness
    for finding in findings:
        choose(conditions(finding.robustness.models["best"]), plan.robust, f"{finding.name}: robust")
        for key in ALIKE:
            if getattr(finding.robustness, key) != getattr(first, key):
                raise InputError(f"{finding.name}: another {key} than {findings[0].name}, so no table of both")
    return contents.Study(
        schema_="temper/study/1",
        **plan.pick(*contents.StudyQuestion.model_fields),
        confidence=CONFIDENCE,
        **first.pick(*ALIKE),
        arms=_arms(plan, findings),
        pairs=pairs(plan, findings),
        trade_offs=list(trade_offs(plan, findings)) if plan.role == "student" else [],
        transfers=dict(transfers),
        provenance={key: first.provenance.get(key) for key in ("device", "python", "torch", "torchvision")},
    )


def _arms(plan: contents.StudyPlan, findings: Sequence[RunFiles]) -> dict[str, contents.ArmResult]:
    arms = {}
    for name in dict.fromkeys(finding.run.name for finding in findings):
        own = [finding for finding in findings if finding.run.name == name]
        seeds = {str(finding.run.seed): _seed(finding, plan.robust) for finding in own}
        about = own[0].run.pick("arm", "variant", "section")
        arms[name] = contents.ArmResult(**about, seeds=seeds, over_seeds=over_seeds(list(seeds.values())))
    return arms


def _seed(finding: RunFiles, robust: str) -> contents.SeedResult:
    models, metrics = finding.robustness.models, finding.metrics
    curve = [_point(row) for row in finding.curve]
    best, last = (rates(models[name]) for name in CHECKPOINTS)
    return contents.SeedResult(
        best=best,
        last=last,
        verdict={name: finding.robustness.verdict[name] for name in CHECKPOINTS},
        grid={name: models[name].grid for name in CHECKPOINTS},
        label_leak={name: models[name].label_leak for name in CHECKPOINTS},
        epochs={name: metrics[name]["epoch"] for name in CHECKPOINTS},
        collapsed=last[robust].value < COLLAPSE * best[robust].value,
        collapse_epoch=collapse_epoch([point.robust_accuracy for point in curve]),
        sentinel=finding.sentinel,
        passes=metrics["passes"],
        num_parameters=metrics["num_parameters"],
        **finding.run.pick("seconds", "code"),
        curve=curve,
    )


def _point(row: Mapping[str, str]) -> contents.CurvePoint:
    clean, robust = (shortened(float(row[key])) for key in ("clean_accuracy", "robust_accuracy"))
    balance = {name: shortened(float(row[name])) for name in BALANCE if row.get(name)}
    return contents.CurvePoint(
        epoch=int(float(row["epoch"])), clean_accuracy=clean, robust_accuracy=robust, balance=balance
    )


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


def over_seeds(seeds: Sequence[contents.SeedResult]) -> dict[CheckpointName, dict[str, contents.SeedMean]]:
    """Per checkpoint and condition the mean over the seeds, its interval, and n; one seed has neither spread nor
    interval."""
    return {checkpoint: _means(seed.at(checkpoint) for seed in seeds) for checkpoint in CHECKPOINTS}


def _means(seeds: Iterator[Mapping[str, Rate]]) -> dict[str, contents.SeedMean]:
    rows = [{"condition": name, "value": found.value} for seed in seeds for name, found in seed.items()]
    groups = frame(rows).groupby("condition", sort=False)["value"]
    return {str(name): mean(values.tolist()) for name, values in groups}


def mean(values: Sequence[float]) -> contents.SeedMean:
    """The mean of values over n seeds with Student's 95 % interval of it, where there are two or more."""
    if len(values) < 2:
        return contents.SeedMean(mean=shortened(values[0]), n=1)
    found = {key: shortened(number) for key, number in spread(values)._asdict().items()}
    return contents.SeedMean.model_validate(found)


def pairs(plan: contents.StudyPlan, findings: Sequence[RunFiles]) -> list[contents.PairResult]:
    """Per pair of arms, checkpoint and condition: B minus A, per seed on the same images, and over the seeds.

    The p values are McNemar's, exact; `p_corrected` is Holm's over all seeds and pairs of a checkpoint and condition.
    """
    rows = list(_differences(plan, findings))
    if not rows:
        return []
    table = frame(rows)
    family = table.groupby(["checkpoint", "condition"], sort=False)["p"]
    table["p_corrected"] = family.transform(lambda ps: type(ps)(holm(ps.tolist()), index=ps.index))
    return [
        contents.PairResult(
            a=a,
            b=b,
            checkpoint=checkpoint,
            condition=condition,
            seeds={row.seed: paired_difference(row.found, p_corrected=row.p_corrected) for row in own.itertuples()},
            over_seeds=mean([found.value for found in own["found"]]),
        )
        for (checkpoint, condition, a, b), own in table.groupby(["checkpoint", "condition", "a", "b"], sort=False)
    ]


def _differences(plan: contents.StudyPlan, findings: Sequence[RunFiles]) -> Iterator[dict[str, Any]]:
    """One row per checkpoint, condition, pair of arms and seed that both have."""
    for checkpoint, condition in product(CHECKPOINTS, dict.fromkeys(("clean", plan.robust))):
        for (a, b), both in _compared(plan, findings).items():
            for seed, (one, other) in both.items():
                found = _difference(one, other, checkpoint, condition)
                row = {"checkpoint": checkpoint, "condition": condition, "a": a, "b": b, "seed": seed}
                yield row | {"found": found, "p": found.p}


def _compared(
    plan: contents.StudyPlan, findings: Sequence[RunFiles]
) -> dict[tuple[str, str], dict[str, tuple[RunFiles, RunFiles]]]:
    """The pairs of arms to the seeds that both have."""
    by_name = {(finding.run.name, finding.run.seed): finding for finding in findings}
    seeds = list(dict.fromkeys(finding.run.seed for finding in findings))
    found = {
        (a, b): {str(s): (by_name[a, s], by_name[b, s]) for s in seeds if (a, s) in by_name and (b, s) in by_name}
        for a, b in plan.pairs
    }
    return {pair: both for pair, both in found.items() if both}


def trade_offs(plan: contents.StudyPlan, findings: Sequence[RunFiles]) -> Iterator[contents.TradeOffPair]:
    """Per pair of arms and checkpoint: W-Robust of B minus that of A, per seed on the same images, and over the seeds.

    An image counts a half where it is right clean, and a half where it is right under the deciding condition.
    """
    for checkpoint, ((a, b), both) in product(CHECKPOINTS, _compared(plan, findings).items()):
        seeds = {seed: _trade_off(*files, checkpoint, plan.robust) for seed, files in both.items()}
        over_seeds = mean([one.value for one in seeds.values()])
        yield contents.TradeOffPair(a=a, b=b, checkpoint=checkpoint, seeds=seeds, over_seeds=over_seeds)


def _trade_off(a: RunFiles, b: RunFiles, checkpoint: str, robust: str) -> contents.TradeOff:
    _same_images(a, b)
    clean, attacked = ([_outcome(one, checkpoint, name).double() for one in (a, b)] for name in ("clean", robust))
    found = mean_difference(*((c + r) / 2 for c, r in zip(clean, attacked, strict=True)))
    value, low, high = map(shortened, found)
    return contents.TradeOff(value=value, low=low, high=high, n=len(a.outcomes["labels"]))


def _difference(a: RunFiles, b: RunFiles, checkpoint: str, condition: str) -> Paired:
    _same_images(a, b)
    return paired(*(_outcome(one, checkpoint, condition) for one in (a, b)))


def _same_images(a: RunFiles, b: RunFiles) -> None:
    if not bool((a.outcomes["labels"] == b.outcomes["labels"]).all()):
        raise InputError(f"{a.name} and {b.name}: other test images, so nothing can be compared image by image")


def _outcome(finding: RunFiles, checkpoint: str, condition: str) -> Tensor:
    if condition == "cascade":
        condition = f"cascade/{list(finding.robustness.cascade.attacks)[-1]}"
    return finding.outcomes[f"{checkpoint}/{condition}"]
