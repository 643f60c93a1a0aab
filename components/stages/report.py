"""Stage report: the evaluation and the curves become robustness.json, one page, DVC metrics and plots, and a table."""

import json
import math
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from components.data.pixels import to_pixels
from components.evaluation import latency
from components.evaluation.criteria import Criteria
from components.evaluation.document import Evaluation
from components.evaluation.latency import read_times
from components.evaluation.results import read_evaluation, read_gallery
from components.evaluation.verdict.rules import judge
from components.foundation.arguments import take_none
from components.foundation.errors import InputError
from components.foundation.params import Params, Whole, strict, typed
from components.foundation.process import WORK
from components.foundation.storage import (
    read_csv,
    read_json,
    read_mapping,
    reading,
    replacing,
    sha256,
    write_csv,
    write_json,
    write_text,
)
from components.reports.robustness.brief import model_card, run_numbers, run_tags, run_text, run_title
from components.reports.robustness.contents import Report, Training
from components.reports.robustness.dated import write_dated
from components.reports.robustness.document import best_models, build, headline, reasons, status, subject
from components.reports.robustness.page import figure_files, page, speed
from components.stages import CRITERIA, STAGES, run
from components.statistics.documents import write_document
from components.statistics.outcomes import Outcomes, Rate
from components.tracking.journal import Journal

DOCUMENT, PAGE = "reports/robustness.json", "reports/robustness.html"
EVALUATED = Path("evaluation")
STUDENT = "models/student.safetensors"
DATA = "data/normalized.safetensors"
ABOUT = """\
Image classifiers that Temper hardened: each version is a student, with its measured accuracy as its description.
The tag of an alias, such as champion, says which version `temper promote` let through, and with which numbers.
A version's tag `promoted.ALIAS` or `refused.ALIAS` says why. An alias that was given by hand has none.
"""
TRAINED = ("clean_teacher", "robust_teacher", "student")


@strict
class ReportSection:
    """The section `report` of params.yaml."""

    gallery_images: Whole  # Images that the report shows.


def read(params: Params) -> tuple[ReportSection, Criteria]:
    """The stage's section and the criteria of the decision, checked. Error: criteria about no model of the pipeline."""
    section, criteria = params.typed(ReportSection, "report"), params.typed(Criteria, CRITERIA)
    others = {f"not_worse_than.{key}": getattr(criteria.not_worse_than, key) for key in ("clean", "worst_case")}
    for key, name in {"model": criteria.model, **others}.items():
        if name is not None and name not in TRAINED:
            raise InputError(f"{CRITERIA}.{key}: got {name!r}, want one of {', '.join(TRAINED)}")
        if key != "model" and name == criteria.model:
            raise InputError(f"{CRITERIA}.{key}: got {name!r}, which is the model that is decided on")
    return section, criteria


def main(params: Params, journal: Journal) -> None:
    """Writes every file of the report, says the result, journals decision and headline and registers the student."""
    section, criteria = read(params)
    curves = {name: read_curve(f"curves/{name}.csv") for name in TRAINED}
    evaluation, outcomes = read_evaluation(EVALUATED)
    tensors, metadata = read_gallery(EVALUATED, evaluation)
    _require_student(evaluation)
    document = _document(params, criteria, curves, evaluation, outcomes)
    html, numbers = page(document, curves, tensors, metadata, section.gallery_images), headline(document)
    write_document(DOCUMENT, document)
    write_json("metrics/report.json", numbers)
    write_csv("plots/epsilon.csv", epsilon_rows(document))
    write_csv("plots/transfer.csv", transfer_rows(document))
    write_text(PAGE, html)
    costs = stage_costs()
    write_json("reports/costs.json", costs)
    seconds = {stage: costs[stage]["seconds"] for stage in STAGES if stage in costs}
    times = read_times(WORK / latency.FILE, {name: model.sha256 for name, model in document.models.items()})
    device = document.provenance.get("device", "")
    dated = write_dated(Path(PAGE), journal.pipeline, device, seconds, speed(document, times))
    journal.headline(run_numbers(document))
    journal.tags(decision_tags(document))
    for path in (DOCUMENT, dated):
        journal.artifact(path, "report", on_pipeline=True)
    for name, svg in figure_files(document, curves).items():
        write_text(WORK / "figures" / name, svg)
        journal.artifact(WORK / "figures" / name, "figures")
    journal_summary(document, dated, tuple(tensors["images"].shape[1:]), journal)
    register_student(document, criteria, numbers, tensors["images"], journal)
    # Whoever starts the stages prints the table once, at the end.
    journal.note(f"{run_title(document)} (table: temper report)")


def decision_tags(document: Report) -> dict[str, str]:
    """The decision with the criteria that are not met; the verdict on the report's subject and on every other model."""
    me, decision = subject(document), document.decision
    unmet = [criterion.name for criterion in decision.unmet] if decision else []
    answer = {"decision": decision.answer, "decision.unmet": "; ".join(unmet) or "none"} if decision else {}
    each = {f"verdict.{name}": status(document, name) for name in best_models(document)}
    return answer | {
        "verdict": status(document, me),
        "verdict.reasons": ", ".join(reasons(document, me)) or "none",
        **each,
    }


def journal_summary(document: Report, page: Path, image_shape: tuple[int, ...], journal: Journal) -> None:
    """Records what one reads first of a run with a report: its name and description, its data set, links, columns."""
    digest = document.provenance.get("test.sha256", "")
    counts = {"test": document.num_images}
    journal.dataset(document.dataset, digest, str(DATA), image_shape, document.classes, counts, evaluated=True)
    journal.summary(run_title(document), run_text(document), f"report/{page.name}", run_tags(document))


def register_student(
    document: Report, criteria: Criteria, numbers: dict[str, float | int], images: Tensor, journal: Journal
) -> None:
    """Hands the student to the tracker's registry, with headline numbers, verdict and the hashes it comes from.

    The criteria go with it, and the decision where it is on the student: promotion judges by what was written then.
    """
    example = WORK / "student_example.npy"
    with replacing(example) as partial, partial.open("wb") as file:
        np.save(file, to_pixels(images[:2]).contiguous().numpy())
    student = document.models["student"]
    own = {k.removeprefix("student."): v for k, v in numbers.items() if k.startswith("student.")}
    verdict = {
        "verdict": status(document, "student"),
        "verdict.reasons": ", ".join(reasons(document, "student")) or "none",
    }
    decision = {k: v for k, v in decision_tags(document).items() if k.startswith("decision")}
    decided = decision if criteria.model == "student" else {}
    hashes = {"sha256": student.sha256, **{f"upstream.{k}": v for k, v in student.upstream.items()}}
    asked = {
        "norm": document.threat.norm,
        "epsilon": document.threat.epsilon,
        "num_images": str(document.num_images),
        "test.sha256": document.provenance.get("test.sha256", ""),
        "criteria": json.dumps(asdict(criteria)),
        "cascade": document.cascade.name,
    }
    # In the order in which the registry shows them.
    first = {key: own[key] for key in ("worst_case", "clean") if key in own}
    tags = {**decided, **verdict, **first, **own, **asked, **hashes}
    shape, card = tuple(images.shape[1:]), model_card(document, "student")
    journal.model(STUDENT, "temper-student", shape, len(document.classes), example, tags, card=card, about=ABOUT)
    journal.upstream({"student": student.sha256} | student.upstream)


def _require_student(evaluation: Evaluation) -> None:
    """Refuses a model file that is not the one evaluated: it would be registered with another's numbers."""
    evaluated = evaluation.models.get("student")
    if evaluated is None:
        raise InputError(f"{EVALUATED / 'evaluation.json'}: models: no student")
    # Where it is missing, it is not registered either.
    if Path(STUDENT).exists() and evaluated.sha256 != sha256(STUDENT):
        raise InputError(f"{STUDENT}: not the file that was evaluated (its SHA-256 is another)")


def _document(
    params: Params, criteria: Criteria, curves: dict[str, list[dict[str, str]]], evaluation: Evaluation, found: Outcomes
) -> Report:
    training = {}
    for name, rows in curves.items():
        file = f"curves/{name}.csv"
        training[name] = Training(file=file, sha256=sha256(file), epochs=len(rows), alarms=alarms(name))
    # All parameters, for whoever reads the page: dvc.yaml declares every section for this stage.
    return build(evaluation, found, training, read_mapping("metrics/data.json"), judge, params.values, criteria)


def read_curve(path: str) -> list[dict[str, str]]:
    """The rows of a curves file: the epochs in order, every other value a number or empty. Errors: anything else."""
    rows = read_csv(path)
    with reading(path, "not the curve of a training"):
        epochs = [int(row["epoch"]) for row in rows]
        if not rows or epochs != sorted(set(epochs)):
            raise ValueError("want epochs, each once and in order")
        for row in rows:
            for key, value in row.items():
                if value and not math.isfinite(float(value)):
                    raise ValueError(f"{key} of epoch {row['epoch']} is {value}")
    return rows


def stage_costs() -> dict[str, dict[str, float]]:
    """What each stage cost the last time it ran; without what cannot be read, which is only left out of a page."""
    costs = {}
    for path in sorted((WORK / "costs").glob("*.json")):
        with suppress(InputError):
            cost = typed(dict[str, float], read_json(path), str(path))
            costs |= {path.stem: cost} if "seconds" in cost else {}
    return costs


def alarms(name: str) -> list[str]:
    """What the overfitting sentinel said while a model was trained, in order."""
    path = f"curves/{name}.sentinel.json"
    events = typed(list[dict[str, Any]], read_mapping(path).get("events"), f"{path}: events")
    lines = [typed(str, event.get("line"), f"{path}: events.{place}.line") for place, event in enumerate(events)]
    return [line.removeprefix("sentinel: ") for line in lines]


def _bounds(found: Rate) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}


def epsilon_rows(document: Report) -> list[dict[str, Any]]:
    """The ε curves as rows for `dvc plots`: model, epsilon as a number, accuracy and its interval."""
    return [
        {"model": name, "epsilon": float(Fraction(point.epsilon)), **_bounds(point)}
        for name in best_models(document)
        for point in document.models[name].curve
    ]


def transfer_rows(document: Report) -> list[dict[str, Any]]:
    """The transfer matrices as rows for `dvc plots`: attack, source, target, accuracy and its interval."""
    return [
        {"attack": attack, "source": source, "target": target, **_bounds(found)}
        for attack, matrix in document.transfer.accuracy.items()
        for source, row in matrix.items()
        for target, found in row.items()
    ]


if __name__ == "__main__":
    take_none("report", __doc__)
    run("report", main)
