"""The tables of a study, as Markdown and for a terminal: the arms, what happened to them, the paired differences."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from components.reports.study.document import CHECKPOINTS
from components.reports.wording import ABSENT, cascade_title, epsilon_text, grey_text, norm_text, percent, points, title
from components.statistics.outcomes import Document

Grid = list[list[str]]


def markdown(document: Document) -> str:
    """The whole result as Markdown; the first table is the answer."""
    parts = [f"# {document['study']}, {document['scale']}", document["question"].strip(), heading(document)]
    parts += [_markdown_grid(arms(document)), notes(document), "## Course", _markdown_grid(course(document))]
    if leads(document)[1:]:
        parts += ["## Lead times", _markdown_grid(leads(document)), LEADS]
    if differences(document)[1:]:
        parts += ["## Paired differences", _markdown_grid(differences(document)), PAIRED]
    if leaks(document)[1:]:
        parts += ["## Label leaking", _markdown_grid(leaks(document)), LEAK]
    for attack in document["transfers"] and next(iter(document["transfers"].values()))["accuracy"]:
        parts += [f"## Transfer, {title(attack)}", _markdown_grid(transfer(document, attack)), TRANSFER]
    return "\n\n".join(parts) + "\n"


def terminal(document: Document) -> str:
    """The first table, aligned."""
    grid = arms(document)
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in grid]
    return "\n".join([heading(document), "", lines[0], "─" * max(map(len, lines)), *lines[1:], "", notes(document)])


PAIRED = (
    "Points of accuracy, B minus A, on the same images: the mean over the seeds ± half of its 95 % interval, then each "
    "seed with its p (exact McNemar; Holm-corrected over all seeds and pairs of the same checkpoint and condition)."
)
LEADS = (
    "Epochs between a rule's first alarm and the first moment at which the run has collapsed by definition (FGSM "
    "accuracy far above PGD accuracy, which is below a share of its best), per collapsed run: positive is early. All "
    "arms that were watched, all seeds; where training was rolled back, the run as it stands."
)
LEAK = (
    "Last checkpoint: accuracy under FGSM with the true label minus clean accuracy, in points, per epsilon: the mean "
    "over the seeds, then each seed. Above 0, attacked images are recognised better than clean ones."
)
TRANSFER = "Accuracy in % of the model in the column on images attacked for the model in the row, mean over the seeds."


def heading(document: Document) -> str:
    """What was attacked, and how."""
    threat = document["threat"]
    budget = f"{norm_text(threat['norm'])} ε = {epsilon_text(threat['epsilon'])}"
    images = f"{document['dataset']}, {document['num_images']} test images"
    return f"{images}, {budget}, {document['role'].replace('_', ' ')}"


def notes(document: Document) -> str:
    """How to read the first table."""
    return (
        "In % right: the mean over the seeds ± half of its 95 % interval (Student's), then each seed's value. "
        "Verdict: how many of the seeds' evaluations it was."
    )


def arms(document: Document) -> Grid:
    """One row per arm and checkpoint: every condition over the seeds, and the verdicts."""
    first = next(iter(document["arms"].values()))["over_seeds"]["best"]
    heads = [cascade_title(document) if name == "cascade" else title(name) for name in first]
    rows = [["arm", "checkpoint", "seeds", *heads, "verdict"]]
    for name, arm in document["arms"].items():
        seeds = list(arm["seeds"].values())
        for checkpoint in CHECKPOINTS:
            found = arm["over_seeds"][checkpoint]
            cells = [_cell(found[key], [seed[checkpoint][key]["value"] for seed in seeds]) for key in first]
            verdicts = [seed["verdict"][checkpoint]["status"] for seed in seeds]
            rows.append([name, checkpoint, str(len(seeds)), *cells, _counted(verdicts)])
    return rows


def course(document: Document) -> Grid:
    """One row per arm: which epochs were kept, whether and when it collapsed, what it cost, what the sentinel said."""
    rows = [["arm", "best epoch", "collapsed", "collapse at epoch", "sentinel", "passes, millions", "parameters", "s"]]
    for name, arm in document["arms"].items():
        seeds = list(arm["seeds"].values())
        rows.append(
            [
                name,
                _each(str(seed["epochs"]["best"]) for seed in seeds),
                f"{sum(seed['collapsed'] for seed in seeds)} of {len(seeds)}",
                _each(ABSENT if (at := seed["collapse_epoch"]) is None else str(at) for seed in seeds),
                _each(what_alarms_did(seed["sentinel"]) for seed in seeds),
                _each(f"{sum(seed['passes'].values()) / 1e6:.3g}" for seed in seeds),
                f"{seeds[0]['num_parameters']:,}",
                _each(f"{seed['seconds']:.0f}" for seed in seeds),
            ]
        )
    return rows


def differences(document: Document) -> Grid:
    """One row per pair, checkpoint and condition."""
    rows = [["A", "B", "checkpoint", "condition", "B − A", "each seed"]]
    for pair in document["pairs"]:
        each = ", ".join(
            f"{points(one['value'])} (p {_p(one['p_corrected'])}, n {one['n']})" for one in pair["seeds"].values()
        )
        total = pair["over_seeds"]
        half = f" ±{percent((total['high'] - total['low']) / 2)}" if "low" in total else ""
        words = [pair["checkpoint"], title(pair["condition"])]
        rows.append([pair["a"], pair["b"], *words, points(total["mean"]) + half, each])
    return rows


def leaks(document: Document) -> Grid:
    """One row per arm: what FGSM with the true label tells the last checkpoint, at each epsilon of the grid."""
    measured = {
        name: [seed["label_leak"]["last"] for seed in arm["seeds"].values()] for name, arm in document["arms"].items()
    }
    epsilons = [grey_text(row["epsilon"]) for row in next(iter(measured.values()))[0]]
    rows = [["arm", *(f"ε = {epsilon}" for epsilon in epsilons)]]
    for name, seeds in measured.items():
        cells = []
        for at in zip(*seeds, strict=True):
            values = [row["leak"]["value"] for row in at]
            cells.append(f"{points(sum(values) / len(values))} ({', '.join(map(points, values))})")
        rows.append([name, *cells])
    return rows if epsilons else rows[:1]


def transfer(document: Document, attack: str) -> Grid:
    """Source by target: the mean over the seeds of the target's accuracy on what was made for the source."""
    found = [one["accuracy"][attack] for one in document["transfers"].values()]
    names = list(found[0])
    rows = [["made for", *names]]
    for source in names:
        means = [sum(one[source][target]["value"] for one in found) / len(found) for target in names]
        rows.append([source, *map(percent, means)])
    return rows


def _cell(found: Document, values: Sequence[float]) -> str:
    if found["n"] == 1:
        return percent(found["mean"])
    each = ", ".join(map(percent, values))
    return f"{percent(found['mean'])} ±{percent((found['high'] - found['low']) / 2)} ({each})"


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


def _each(texts: object) -> str:
    return ", ".join(texts)  # pyright: ignore[reportArgumentType, reportCallIssue]


def what_alarms_did(found: Document | None) -> str:
    """What the sentinel's alarms led to, in order: `note 3.5; roll back 7`; `note 3.5–9 (6)` for many of one kind."""
    done = []
    for action, events in groupby((found or {"events": []})["events"], itemgetter("action")):
        epochs = [f"{event['epoch']:g}" for event in events]
        when = [f"{epochs[0]}–{epochs[-1]} ({len(epochs)})"] if len(epochs) > 2 else epochs
        done += [f"{action.replace('_', ' ')} {one}" for one in when]
    return "; ".join(done) or ABSENT


def leads(document: Document) -> Grid:
    """One row per rule of the sentinel: how early it was in the runs that collapsed, false alarms in the others."""
    rows = [["rule", "collapsed runs", "lead in epochs", "missed", "other runs", "with a false alarm"]]
    seeds = [seed for arm in document["arms"].values() for seed in arm["seeds"].values()]
    watched = [seed["sentinel"]["leads"] for seed in seeds if seed["sentinel"]]
    # The definition's own lead is nought where a run collapsed, and absent where it did not.
    collapsed = [run for run in watched if run["catastrophic"]["lead"] is not None]
    others = [run for run in watched if run["catastrophic"]["lead"] is None]
    for rule in watched[0] if watched else ():
        early = sorted((run[rule]["lead"] for run in collapsed if run[rule]["lead"] is not None), reverse=True)
        false = sum(run[rule]["false_alarms"] > 0 for run in others)
        told = _each(f"{lead:+g}".replace("-", "−") for lead in early) or ABSENT
        counts = [str(len(collapsed) - len(early)), str(len(others)), str(false)]
        rows.append([title(rule), str(len(collapsed)), told, *counts])
    return rows


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _markdown_grid(grid: Grid) -> str:
    head, *rows = grid
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, [":---"] * len(head), *rows))
