"""Reads evaluations of registered models back from a tracker. Gets MLflow's client, and so imports no MLflow.

A registered version belongs to the run that registered it, which read what a sibling run evaluated: both have the
pipeline's run as their parent. Where the evaluation was up to date and did not run again, the latest one of the same
model file is it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from components.foundation.errors import InputError, choose

FILES = ("evaluation.json", "outcomes.safetensors")
# What an evaluation asks, as tags of a version: with other images or another threat model a number is another number.
QUESTION = ("norm", "epsilon", "test.sha256", "num_images")
# Tags of a version in which promotion notes what it decided, and the words for them.
GATE = {"promoted.": "Promoted to", "refused.": "Refused as"}
# Between what the gate said and the card, in a description.
CARD = "\n\n---\n\n"
# Cascades that a promotion believes, the weakest first: with attacks of one's own anything can be left standing.
NAMED = ("quick", "autoattack")
# The worst first.
_VERDICTS = ("broken", "suspect", "trusted")
_VERSION = re.compile(r"models:/(?P<name>[^/@']+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))")
_READ = re.compile(r"upstream\..+\.sha256")
_RUN = re.compile(r"(runs:/)?(?P<run>[0-9a-f]{32})")


class RecordedEvaluation(NamedTuple):
    """What a reference means: a title for people, the run it belongs to, the registered version if it is one."""

    title: str
    run: Any
    version: Any


def resolve(client: Any, reference: str) -> RecordedEvaluation:
    """What a reference means. Errors: neither a run id nor a version or alias of a registered model."""
    if found := _RUN.fullmatch(reference):
        return RecordedEvaluation(f"run {found['run'][:8]}", client.get_run(found["run"]), None)
    found = _VERSION.fullmatch(reference)
    if not found:
        raise InputError(f"{reference}: want a run id (32 hex digits), models:/NAME/VERSION or models:/NAME@ALIAS")
    version = _version(client, reference, found)
    if not version.run_id:
        raise InputError(f"{reference}: registered without a run, so it has no evaluation")
    return RecordedEvaluation(f"{version.name} {version.version}", client.get_run(version.run_id), version)


def _version(client: Any, reference: str, found: re.Match[str]) -> Any:
    """The version that a reference names, or who has the alias. Errors: no such model, version or alias."""
    named = f"name = '{found['name']}'"
    known = client.search_registered_models(named)
    if not known:
        raise InputError(f"{reference}: no registered model {found['name']!r}")
    if found["version"]:
        versions = {str(version.version): version for version in client.search_model_versions(named)}
        return choose(versions, found["version"], f"{reference}: version")
    number = choose(known[0].aliases, found["alias"], f"{reference}: alias")
    return client.get_model_version(found["name"], str(number))


def fetch(client: Any, source: RecordedEvaluation, folder: Path) -> str | None:
    """Downloads the evaluation of a source into a folder; returns the name in it of a registered version's model.

    Errors: no evaluation with that run or its pipeline, an evaluation of other models.
    """
    return next(evaluations(client, source, repeat(folder)))[1]


def evaluations(client: Any, source: RecordedEvaluation, folders: Iterator[Path]) -> Iterator[tuple[Path, str | None]]:
    """Downloads every evaluation of a source, each into the next folder, as `fetch` does the first."""
    digest = source.version.tags.get("sha256") if source.version else None
    found, others = False, dict[str, None]()
    for run, folder in zip(dict.fromkeys(_runs(client, source)), folders, strict=False):
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


def _runs(client: Any, source: RecordedEvaluation) -> Iterator[str]:
    """The runs that hold an evaluation: the run itself, its siblings and children, then any of the same model file."""
    own, tags, place = source.run.info.run_id, source.run.data.tags, [source.run.info.experiment_id]
    if _has_evaluation(client, own):
        yield own
    parent = tags.get("mlflow.parentRunId", own)
    family = list(_every(client, place, f"tags.`mlflow.parentRunId` = '{parent}'"))
    yield from (run.info.run_id for run in family if _has_evaluation(client, run.info.run_id))
    digests = {run.data.tags.get("upstream.student.sha256") for run in (source.run, *family)} - {None}
    # Under whatever name the model file was evaluated.
    for run in _every(client, place, "tags.`temper.stage` LIKE 'evaluate%'") if digests else ():
        read = {value for key, value in run.data.tags.items() if _READ.fullmatch(key)}
        if digests & read and _has_evaluation(client, run.info.run_id):
            yield run.info.run_id


def _every(client: Any, place: list[str], filtered: str) -> Iterator[Any]:
    """Every run that a filter finds, the newest first."""
    token = None
    while token != "":
        found = client.search_runs(place, filtered, order_by=["attributes.start_time DESC"], page_token=token)
        yield from found
        token = found.token or ""


def _has_evaluation(client: Any, run: str) -> bool:
    return set(FILES) <= {file.path for file in client.list_artifacts(run)}


def version_of(client: Any, name: str, digest: str | None, run: str = "") -> Any:
    """The version that this model file has already, if it has one: a file that is evaluated again is no new version.

    A file whose hash nobody told is known by the run that registered it.
    """
    versions = client.search_model_versions(f"name = '{name}'")
    if digest is None:
        return next((version for version in versions if version.run_id == run), None)
    return next((version for version in versions if version.tags.get("sha256") == digest), None)


def described(tags: Mapping[str, str], card: str) -> str:
    """A version's description: what the gate last said for each alias, by its tags, then the model's card."""
    said = [
        f"{words} {key.removeprefix(before)} ({text})"
        for before, words in GATE.items()
        for key, text in tags.items()
        if key.startswith(before)
    ]
    if (
        (decision := tags.get("decision"))
        and card.startswith(("GO:", "NO-GO:"))
        and not card.startswith(f"{decision}:")
    ):
        # Another evaluation of the same file decided, with a stronger cascade or other criteria.
        said.append(f"{decision}: decided by another evaluation of this file than the one below")
    return CARD.join(["  \n".join(said), card]) if said else card


def card_of(description: str | None) -> str:
    """The model's card in a version's description."""
    return (description or "").rpartition(CARD)[2]


def updated(known: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a version that change when its model file has been evaluated again, with these tags.

    The criteria that it was registered with stay; others are noted beside them, as `criteria.changed`. To the same
    question the lower worst case counts, and NO-GO stays until a stronger cascade says GO. The verdict is that of the
    stronger cascade, of equal ones the worse, and `broken` wherever it was found.
    """
    criteria = {"criteria", "criteria.changed"} if "criteria" in known else set()
    new = {key: value for key, value in tags.items() if key not in criteria}
    if criteria and (tags.get("criteria") != known["criteria"] or "criteria.changed" in known):
        new["criteria.changed"] = tags["criteria"]
    if any(key not in known or known[key] != tags.get(key) for key in QUESTION):
        return new
    judged = _judged_anew(known, tags)
    lower = float(tags["worst_case"]) <= float(known["worst_case"])
    # By the criteria that it was registered with: others decide nothing here.
    same, stronger = tags.get("criteria") == known.get("criteria"), _gain(known, tags) > 0
    decided = tags.get("decision") == "NO-GO" or (same and stronger and lower)
    counts = {"verdict": judged, "cascade": judged, "decision": decided, "criteria": True}
    return {key: value for key, value in new.items() if counts.get(key.partition(".")[0], lower)}


def _judged_anew(known: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    """Whether the verdict of a later evaluation replaces the known one."""
    gain = _gain(known, tags)
    before, now = (_VERDICTS.index(one["verdict"]) for one in (known, tags))
    return min(before, now) == now if not gain or 0 in (before, now) else gain > 0


def _gain(known: Mapping[str, str], tags: Mapping[str, str]) -> int:
    """How much stronger the cascade of a later evaluation is."""
    return strength(tags.get("cascade")) - strength(known.get("cascade"))


def strength(cascade: str | None) -> int:
    """The place of a cascade among the named ones, the weakest first; -1 for none and for attacks of one's own."""
    return NAMED.index(cascade) if cascade in NAMED else -1
