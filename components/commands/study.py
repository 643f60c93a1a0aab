"""Table and figure of a study's finished runs. It is not a stage of dvc.yaml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.foundation.lines import say
from components.foundation.params import typed
from components.foundation.provenance import fingerprint, git_commit
from components.foundation.storage import read_csv, read_json, write_text
from components.numerics.tensor_files import read_tensors
from components.reports.robustness.contents import Report
from components.reports.study.contents import LeadTime, SentinelEvent, SentinelRecord, Study, StudyPlan, StudyRun
from components.reports.study.document import RunFiles, build
from components.reports.study.figures import figure
from components.reports.study.tables import markdown, terminal
from components.statistics.documents import as_json, read_document, write_document
from components.tracking.journal import Journal
from components.training.sentinel.replay import lead_times
from components.training.sentinel.rules import Rules


def collect(described: Path, out: Path) -> None:
    """Writes SCALE.json, SCALE.md and SCALE.svg into the folder `out`, prints the table, and records all of it.

    `described` is a file that `temper study` writes: the question, and where the files of each run are.
    """
    plan = read_document(StudyPlan, described)
    findings = [read(run) for run in plan.runs]
    transfers = {seed: read_document(Report, Path(f, "robustness.json")).transfer for seed, f in plan.transfers.items()}
    document = build(plan, findings, transfers)
    files = {suffix: out / f"{plan.scale}.{suffix}" for suffix in ("json", "md", "svg")}
    write_document(files["json"], document)
    write_text(files["md"], markdown(document))
    write_text(files["svg"], figure(document))
    with Journal.open("study", inputs=fingerprint(as_json(plan))) as journal:
        journal.params({}, {key: getattr(plan, key) for key in ("study", "scale", "role", "robust")})
        journal.tags({"git.commit": git_commit()})
        journal.headline(numbers(document))
        for path in files.values():
            journal.artifact(path, "study", on_pipeline=True)
    say(f"\n{terminal(document)}\n\nwritten: {', '.join(map(str, files.values()))}")


def read(run: StudyRun) -> RunFiles:
    """The files of one run. Errors: a missing or broken one."""
    trained, evaluated, role = Path(run.trained), Path(run.evaluated), run.role
    return RunFiles(
        run,
        read_document(Report, evaluated / "robustness.json"),
        read_tensors(evaluated / "outcomes.safetensors")[0],
        read_csv(trained / "curves" / f"{role}.csv"),
        read_json(trained / "metrics" / f"{role}.json"),
        sentinel(trained / "curves" / f"{role}.sentinel.json", run.section),
    )


def sentinel(path: Path, section: Mapping[str, Any]) -> SentinelRecord | None:
    """What the overfitting sentinel did, and how early each rule was in the looks at the run as it stands.

    None where the training was not looked at. Errors: a missing or broken file.
    """
    if not section.get("sentinel"):
        return None
    seen = read_json(path)
    rules = typed(Rules, section["sentinel"]["rules"], "sentinel.rules")
    leads = lead_times([look for look in seen["looks"] if not look["dropped"]], rules)
    return SentinelRecord(
        events=[SentinelEvent(**{key: event[key] for key in SentinelEvent.model_fields}) for event in seen["events"]],
        leads={rule: LeadTime(**lead._asdict()) for rule, lead in leads.items()},
    )


def numbers(document: Study) -> dict[str, Any]:
    """Flat numbers for the tracker: `ARM.CHECKPOINT.CONDITION`, the mean over the seeds."""
    return {
        f"{name}.{checkpoint}.{condition}": found.mean
        for name, arm in document.arms.items()
        for checkpoint, conditions in arm.over_seeds.items()
        for condition, found in conditions.items()
    }
