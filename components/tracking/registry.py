"""Reads evaluations back from a tracker and promotes registered models. Gets MLflow's client, and so imports no MLflow.

A registered version belongs to the run that registered it, which read what a sibling run evaluated: both have the
pipeline's run as their parent. Where the evaluation was up to date and did not run again, the latest one of the same
model file is it.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from itertools import count, repeat
from pathlib import Path
from typing import Any, NamedTuple

from components.foundation.errors import InputError

FILES = ("evaluation.json", "outcomes.safetensors")
TRUSTED = "trusted"
# What an evaluation asks, as tags of a version: with other images or another threat model a number is another number.
QUESTION = ("norm", "epsilon", "test.sha256", "num_images")
# Cascades that a promotion believes: with attacks of one's own anything can be left standing.
NAMED = ("quick", "autoattack")
_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))")
_RUN = re.compile(r"(runs:/)?(?P<run>[0-9a-f]{32})")


class RecordedEvaluation(NamedTuple):
    """What a reference means: a title for people, the run it belongs to, the registered version if it is one."""

    title: str
    run: Any
    version: Any


class Bar(NamedTuple):
    """What a version has to pass: least lower bounds of its accuracies, and no loss against who has the alias now."""

    alias: str
    min_clean: float | None
    min_worst_case: float | None
    not_worse: bool


def resolve(client: Any, reference: str) -> RecordedEvaluation:
    """What a reference means. Errors: neither a run id nor a version or alias of a registered model."""
    if found := _RUN.fullmatch(reference):
        return RecordedEvaluation(f"run {found['run'][:8]}", client.get_run(found["run"]), None)
    found = _VERSION.fullmatch(reference)
    if not found:
        raise InputError(f"{reference}: want a run id (32 hex digits), models:/NAME/VERSION or models:/NAME@ALIAS")
    if found["alias"]:
        version = client.get_model_version_by_alias(found["name"], found["alias"])
    else:
        version = client.get_model_version(found["name"], found["version"])
    if not version.run_id:
        raise InputError(f"{reference}: registered without a run, so it has no evaluation")
    return RecordedEvaluation(f"{version.name} {version.version}", client.get_run(version.run_id), version)


def fetch(client: Any, source: RecordedEvaluation, folder: Path) -> str | None:
    """Downloads the evaluation of a source into a folder; returns the name in it of a registered version's model.

    Errors: no evaluation with that run or its pipeline, an evaluation of other models.
    """
    return next(_fetch(client, source, repeat(folder)))[1]


def _fetch(client: Any, source: RecordedEvaluation, folders: Iterator[Path]) -> Iterator[tuple[Path, str | None]]:
    """Downloads every evaluation of a source, each into the next folder, as `fetch` does the first."""
    digest = source.version.tags.get("sha256") if source.version else None
    found, others = False, dict[str, None]()
    for run, folder in zip(dict.fromkeys(_evaluations(client, source)), folders, strict=False):
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            client.download_artifacts(run, name, str(folder))
        models = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))["models"]
        # A pipeline may have evaluated models from outside as well.
        own = [name for name, card in models.items() if card["sha256"] == digest]
        if own or digest is None:
            found = True
            yield folder, own[0] if own else None
        others |= dict.fromkeys(models)
    if found:
        return
    if others:
        raise InputError(f"{source.title}: its pipeline evaluated {', '.join(others)}, none of which is this version")
    unsent = "it had none, or it is not sent yet: temper records send"
    raise InputError(f"{source.title}: its pipeline has no {' and '.join(FILES)} in MLflow ({unsent})")


def _evaluations(client: Any, source: RecordedEvaluation) -> Iterator[str]:
    """The runs that hold an evaluation: the run itself, its siblings and children, then any of the same model file."""
    own, tags, place = source.run.info.run_id, source.run.data.tags, [source.run.info.experiment_id]
    if _has_evaluation(client, own):
        yield own
    parent = tags.get("mlflow.parentRunId", own)
    newest = {"order_by": ["attributes.start_time DESC"]}
    family = client.search_runs(place, f"tags.`mlflow.parentRunId` = '{parent}'", **newest)
    yield from (run.info.run_id for run in family if _has_evaluation(client, run.info.run_id))
    for run in (source.run, *family):
        if digest := run.data.tags.get("upstream.student.sha256"):
            others = client.search_runs(place, f"tags.`upstream.student.sha256` = '{digest}'", **newest)
            yield from (run.info.run_id for run in others if _has_evaluation(client, run.info.run_id))


def _has_evaluation(client: Any, run: str) -> bool:
    return set(FILES) <= {file.path for file in client.list_artifacts(run)}


def version_of(client: Any, name: str, digest: str | None) -> Any:
    """The version that this model file has already, if it has one: a file that is evaluated again is no new version."""
    versions = client.search_model_versions(f"name = '{name}'")
    return next((version for version in versions if version.tags.get("sha256") == digest), None)


def updated(known: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a version that change when its model file has been evaluated again, with these tags.

    To the same question the lower worst case counts; an evaluation that was trusted stays so.
    """
    if any(key not in known or known[key] != tags.get(key) for key in QUESTION):
        return dict(tags)
    verdict = {key: value for key, value in tags.items() if key.startswith("verdict")}
    lower = float(tags["worst_case"]) <= float(known["worst_case"])
    better = tags["verdict"] == TRUSTED or known["verdict"] != TRUSTED
    numbers = {key: value for key, value in tags.items() if key not in verdict}
    return (numbers if lower else {}) | (verdict if better else {})


def promote(client: Any, source: RecordedEvaluation, bar: Bar) -> tuple[list[str], list[str]]:
    """Gives a version the alias if no rule objects, and notes on it what it passed; the failed rules, the passed ones.

    Errors: not a registered version.
    """
    version = source.version
    if version is None:
        raise InputError(f"{source.title}: want a registered version, models:/NAME/VERSION or models:/NAME@ALIAS")
    verdict = version.tags.get("verdict")
    said = f"verdict {verdict}" if verdict else "no verdict (not registered by the report stage?)"
    rules = [(said, verdict == TRUSTED)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            rules += _measured(client, source, bar, Path(folder))
        except InputError as error:
            rules.append((str(error), False))
    failed, passed = ([text for text, well in rules if well is wanted] for wanted in (False, True))
    if not failed:
        client.set_registered_model_alias(version.name, bar.alias, version.version)
        client.set_model_version_tag(version.name, version.version, f"promoted.{bar.alias}", "; ".join(passed))
    return failed, passed


def _measured(client: Any, source: RecordedEvaluation, bar: Bar, folder: Path) -> Iterator[tuple[str, bool]]:
    """The rules that ask for numbers: what the evaluations of a version say, and whether that passes.

    A model file may have been evaluated more than once. Of its evaluations with the same images and threat model the
    lowest number counts, image by image: a weaker attack later, or elsewhere, raises nothing.
    """
    # Only here, since it needs torch.
    from components.evaluation.verdict.rules import judge
    from components.reports.comparison import document as comparison
    from components.statistics.outcomes import share, worst

    every = list(_sides(client, source, folder))
    candidate = every[0]
    alike = [side for side in every if not comparison.other_question(candidate, side)]
    named = [side for side in alike if side.cascade.name in NAMED]
    cascades = ", ".join(dict.fromkeys(side.cascade.name for side in named or alike))
    yield f"cascade {cascades}" + ("" if named else f", want {' or '.join(NAMED)}"), bool(named)
    judged = [judge(evidence) for side in named if (evidence := side.evaluation.evidence.get(side.model))]
    if judged and all(verdict.status != TRUSTED for verdict in judged):
        # The rules may have become stricter since the version was registered.
        yield f"verdict {judged[0].status} by today's rules ({', '.join(judged[0].reasons)})", False
    clean = worst([side.outcomes[f"{side.model}/clean"] for side in alike])
    attacked = [outcome for side in alike for outcome in side.attacked.values()]
    worst_case = worst([clean, *attacked]) if attacked else None
    for name, outcome, least in (("clean", clean, bar.min_clean), ("worst case", worst_case, bar.min_worst_case)):
        if least is None:
            continue
        if outcome is None:
            yield f"{name} was not measured", False
        else:
            found = share(outcome, float)
            well = found.low >= least
            several = f", lowest of {len(alike)} evaluations" if len(alike) > 1 else ""
            shown = f"{name} at least {found.low:.1%} ({found.value:.1%}, n = {found.n}{several})"
            yield f"{shown}, {'wanted' if well else 'want'} {least:.1%}", well
    if bar.not_worse:
        text, is_worse = _against_present(client, source, bar.alias, candidate, folder / "present")
        yield text, not is_worse


def _sides(client: Any, source: RecordedEvaluation, folder: Path) -> Iterator[Any]:
    """Every evaluation of a version, loaded."""
    from components.reports.comparison import document as comparison

    # Tensors are read from their file when they are used, so each evaluation keeps a folder of its own.
    for place, model in _fetch(client, source, (folder / str(number) for number in count())):
        yield comparison.load(place, model, source.title)


def _against_present(
    client: Any, source: RecordedEvaluation, alias: str, candidate: Any, folder: Path
) -> tuple[str, bool]:
    """How a candidate compares with who has the alias now, and whether it is significantly worse."""
    from components.reports.comparison import document as comparison

    name = source.version.name
    present = client.get_registered_model(name).aliases.get(alias)
    if present is None or str(present) == str(source.version.version):
        return f"no other {alias} to compare with", False
    holder = resolve(client, f"models:/{name}/{present}")
    found = comparison.compare(comparison.load(folder, fetch(client, holder, folder), holder.title), candidate)
    said = []
    for key in ("worst_case", "clean"):
        if condition := found.conditions.get(key):
            difference = condition.difference
            names = f"{alias} {present}", f"version {source.version.version}"
            said.append(comparison.answer(key, difference, condition.detectable.paired, *names))
            if difference.value < 0 and difference.p < comparison.SIGNIFICANT:
                return said[-1], True
    return said[0], False
