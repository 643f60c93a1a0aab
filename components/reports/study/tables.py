"""The tables of a study, as Markdown and for a terminal: the arms, what happened to them, the paired differences."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from components.reports import grids
from components.reports.frames import frame
from components.reports.study.contents import LeadTime, SeedMean, SentinelRecord, Study
from components.reports.study.document import CHECKPOINTS, mean
from components.reports.wording import ABSENT, condition_title, grey_text, setting_text, title
from components.statistics.number_text import p_value, percent, points


def markdown(document: Study) -> str:
    """The whole result as Markdown; the first table is the answer."""
    parts = [f"# {document.study}, {document.scale}", document.question.strip(), heading(document)]
    parts += [grids.markdown(arms(document)), notes(document), "## Course", grids.markdown(course(document))]
    for name, grid, words in (
        ("Accuracy and robustness in one number", trade_offs(document), TRADE_OFFS),
        ("Paired differences in W-Robust", trade_off_differences(document), TRADE_OFF_PAIRS),
        ("Lead times", leads(document), lead_words(document)),
        ("Paired differences", differences(document), PAIRED),
        ("Label leaking", leaks(document), LEAK),
    ):
        parts += [f"## {name}", grids.markdown(grid), words] if grid[1:] else []
    for attack in next((found.accuracy for found in document.transfers.values()), {}):
        parts += [f"## Transfer, {title(attack)}", grids.markdown(transfer(document, attack)), TRANSFER]
    return "\n\n".join(parts) + "\n"


def terminal(document: Study) -> str:
    """The first table, aligned."""
    return "\n".join([heading(document), "", grids.ruled(arms(document)), "", notes(document)])


PAIRED = (
    "Points of accuracy, B minus A, on the same images: the mean over the seeds ± half of its 95 % interval, then each "
    "seed with its p (exact McNemar; Holm-corrected over all seeds and pairs of the same checkpoint and condition)."
)
TRADE_OFFS = (
    "Of clean accuracy c and accuracy r under the deciding condition: W-Robust (c + r) / 2 (Zhao et al., arXiv "
    "2306.16170) and NRR 2cr / (c + r), the mean over the seeds ± half of its 95 % interval, then each seed. Either "
    "can rise while r falls: look at both accuracies first."
)
TRADE_OFF_PAIRS = (
    "Points of W-Robust, B minus A: the mean over the seeds ± half of its 95 % interval, then each seed with the 95 % "
    "interval of the mean over the same images."
)
DEFINITIONS = {
    "collapse": "PGD accuracy below a share of its best",
    "catastrophic": "FGSM accuracy far above PGD accuracy, which is below a share of its best",
}
LEADS = (
    "Epochs between a rule's first alarm and the first moment at which the run has collapsed by definition ({}), per "
    "collapsed run: positive is early. All arms that were watched, all seeds; where training was rolled back, the run "
    "as it stands."
)
LEAK = (
    "Last checkpoint: accuracy under FGSM with the true label minus clean accuracy, in points, per epsilon: the mean "
    "over the seeds, then each seed. Above 0, attacked images are recognised better than clean ones."
)
TRANSFER = "Accuracy in % of the model in the column on images attacked for the model in the row, mean over the seeds."


def heading(document: Study) -> str:
    """What was attacked, and how."""
    where = setting_text(document.dataset, document.num_images, document.threat)
    return f"{where}, {document.role.replace('_', ' ')}"


def notes(document: Study) -> str:
    """How to read the first table."""
    return (
        "In % right: the mean over the seeds ± half of its 95 % interval (Student's), then each seed's value. "
        "Verdict: how many of the seeds' evaluations it was."
    )


def arms(document: Study) -> list[list[str]]:
    """One row per arm and checkpoint: every condition over the seeds, and the verdicts."""
    first = next(iter(document.arms.values())).over_seeds["best"]
    heads = [condition_title(name, document.cascade) for name in first]
    rows = [["arm", "checkpoint", "seeds", *heads, "verdict"]]
    for name, arm in document.arms.items():
        seeds = list(arm.seeds.values())
        for checkpoint in CHECKPOINTS:
            found = arm.over_seeds[checkpoint]
            cells = [_cell(found[key], [seed.at(checkpoint)[key].value for seed in seeds]) for key in first]
            verdicts = Counter(seed.verdict[checkpoint].status for seed in seeds)
            verdict = ", ".join(f"{count} {status}" for status, count in verdicts.items())
            rows.append([name, checkpoint, str(len(seeds)), *cells, verdict])
    return rows


def trade_offs(document: Study) -> list[list[str]]:
    """One row per arm and checkpoint of a study of students: W-Robust and NRR."""
    rows = [["arm", "checkpoint", "W-Robust", "NRR"]]
    if document.role != "student":
        return rows
    for name, arm in document.arms.items():
        for checkpoint in CHECKPOINTS:
            found = [seed.at(checkpoint) for seed in arm.seeds.values()]
            pairs = [(one["clean"].value, one[document.robust].value) for one in found]
            cells = ([rate(c, r) for c, r in pairs] for rate in (w_robust, nrr))
            rows.append([name, checkpoint, *(_cell(mean(values), values) for values in cells)])
    return rows


def w_robust(clean: float, robust: float) -> float:
    """The mean of both accuracies."""
    return (clean + robust) / 2


def nrr(clean: float, robust: float) -> float:
    """The harmonic mean of both accuracies; 0 where both are."""
    return 2 * clean * robust / (clean + robust) if clean + robust else 0.0


def course(document: Study) -> list[list[str]]:
    """One row per arm: which epochs were kept, whether and when it collapsed, what it cost, what the sentinel said."""
    rows = [["arm", "best epoch", "collapsed", "collapse at epoch", "sentinel", "passes, millions", "parameters", "s"]]
    for name, arm in document.arms.items():
        seeds = list(arm.seeds.values())
        rows.append(
            [
                name,
                ", ".join(str(seed.epochs["best"]) for seed in seeds),
                f"{sum(seed.collapsed for seed in seeds)} of {len(seeds)}",
                ", ".join(ABSENT if seed.collapse_epoch is None else str(seed.collapse_epoch) for seed in seeds),
                ", ".join(what_alarms_did(seed.sentinel) for seed in seeds),
                ", ".join(f"{(seed.passes.forward + seed.passes.backward) / 1e6:.3g}" for seed in seeds),
                f"{seeds[0].num_parameters:,}",
                ", ".join(f"{seed.seconds:.0f}" for seed in seeds),
            ]
        )
    return rows


def differences(document: Study) -> list[list[str]]:
    """One row per pair, checkpoint and condition."""
    rows = [["A", "B", "checkpoint", "condition", "B − A", "each seed"]]
    for pair in document.pairs:
        found = pair.seeds.values()
        each = ", ".join(f"{points(one.value)} (p {p_value(one.p_corrected, exact=False)}, n {one.n})" for one in found)
        words = [pair.checkpoint, title(pair.condition), points(pair.over_seeds.mean) + _half(pair.over_seeds)]
        rows.append([pair.a, pair.b, *words, each])
    return rows


def trade_off_differences(document: Study) -> list[list[str]]:
    """One row per pair and checkpoint of a study of students: B minus A in W-Robust."""
    rows = [["A", "B", "checkpoint", "B − A", "each seed"]]
    for pair in document.trade_offs:
        each = ", ".join(
            f"{points(one.value)} ({points(one.low)} to {points(one.high)}, n {one.n})" for one in pair.seeds.values()
        )
        total = points(pair.over_seeds.mean) + _half(pair.over_seeds)
        rows.append([pair.a, pair.b, pair.checkpoint, total, each])
    return rows


def leaks(document: Study) -> list[list[str]]:
    """One row per arm: what FGSM with the true label tells the last checkpoint, at each epsilon of the grid."""
    found = [
        {"arm": name, "epsilon": row.epsilon, "value": row.leak.value}
        for name, arm in document.arms.items()
        for seed in arm.seeds.values()
        for row in seed.label_leak["last"]
    ]
    if not found:
        return [["arm"]]
    values = frame(found).groupby(["arm", "epsilon"], sort=False)["value"].agg(list).unstack(sort=False)
    rows = [["arm", *(f"ε = {grey_text(epsilon)}" for epsilon in values.columns)]]
    for arm, row in values.iterrows():
        rows.append([str(arm), *(f"{points(sum(v) / len(v))} ({', '.join(map(points, v))})" for v in row)])
    return rows


def transfer(document: Study, attack: str) -> list[list[str]]:
    """Source by target: the mean over the seeds of the target's accuracy on what was made for the source."""
    found = [
        {"source": source, "target": target, "value": rate.value}
        for one in document.transfers.values()
        for source, row in one.accuracy[attack].items()
        for target, rate in row.items()
    ]
    means = frame(found).groupby(["source", "target"], sort=False)["value"].mean().unstack(sort=False)
    return [["made for", *means.columns], *([str(source), *map(percent, row)] for source, row in means.iterrows())]


def _cell(found: SeedMean, values: Sequence[float]) -> str:
    return f"{percent(found.mean)}{_half(found)}" + (f" ({', '.join(map(percent, values))})" if found.n > 1 else "")


def _half(found: SeedMean) -> str:
    """Half the interval of a mean, where there is one."""
    return "" if found.low is None or found.high is None else f" ±{percent((found.high - found.low) / 2)}"


def what_alarms_did(found: SentinelRecord | None) -> str:
    """What the sentinel's alarms led to, in order: `note 3.5; roll back 7`; `note 3.5–9 (6)` for many of one kind."""
    done: list[str] = []
    for action, events in groupby(found.events if found else [], attrgetter("action")):
        epochs = [f"{event.epoch:g}" for event in events]
        when = [f"{epochs[0]}–{epochs[-1]} ({len(epochs)})"] if len(epochs) > 2 else epochs
        done += [f"{action.replace('_', ' ')} {one}" for one in when]
    return "; ".join(done) or ABSENT


def _definition(rules: Collection[str]) -> str:
    """The rule that leads are counted to: records from before there was `collapse` have `catastrophic`."""
    return "collapse" if "collapse" in rules else "catastrophic"


def _watched(document: Study) -> list[Mapping[str, LeadTime]]:
    """The leads of every run that was watched."""
    return [seed.sentinel.leads for arm in document.arms.values() for seed in arm.seeds.values() if seed.sentinel]


def lead_words(document: Study) -> str:
    """What lead times mean, by the definitions that these runs were counted to."""
    used = dict.fromkeys(_definition(run) for run in _watched(document))
    return LEADS.format("; or ".join(DEFINITIONS[name] for name in used))


def leads(document: Study) -> list[list[str]]:
    """One row per rule of the sentinel: how early it was in the runs that collapsed, false alarms in the others."""
    head = ["rule", "collapsed runs", "lead in epochs", "missed", "other runs", "with a false alarm"]
    watched = _watched(document)
    # The definition's own lead is 0 where a run collapsed, and absent where it did not.
    found = [
        {"rule": rule, **one.pick("lead", "false_alarms"), "collapsed": run[_definition(run)].lead is not None}
        for run in watched
        for rule, one in run.items()
    ]
    rows = [head]
    for rule, runs in frame(found).groupby("rule", sort=False) if found else ():
        collapsed, others = runs[runs["collapsed"]], runs[~runs["collapsed"]]
        early = collapsed["lead"].dropna().sort_values(ascending=False)
        told = ", ".join(f"{lead:+g}".replace("-", "−") for lead in early) or ABSENT
        counts = [len(collapsed) - len(early), len(others), int((others["false_alarms"] > 0).sum())]
        rows.append([title(str(rule)), str(len(collapsed)), told, *map(str, counts)])
    return rows
