"""Whether a registered version may have an alias: by the criteria that it was registered with, and never by fewer.

They were written down before the result was known. Criteria that are written afterwards count only where somebody says
so, and what let the version through is noted on it. Options add to them.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from components.foundation.errors import InputError
from components.foundation.params import typed
from components.tracking.registry import (
    NAMED,
    QUESTION,
    RecordedEvaluation,
    card_of,
    described,
    evaluations,
    resolve,
    strength,
)

# These need torch, so functions import them.
if TYPE_CHECKING:
    from components.evaluation.criteria import Criteria, Criterion
    from components.reports.comparison.document import Side

TRUSTED, BROKEN, NOT_JUDGED = "trusted", "broken", "not judged"

Rules = Iterator[tuple[str, bool]]


class Bar(NamedTuple):
    """The alias to give, and what is asked for beside the criteria: least lower bounds, no loss against its holder.

    `changed_criteria`: judge by the criteria that were written last, not by those that were written first.
    """

    alias: str
    min_clean: float | None = None
    min_worst_case: float | None = None
    min_weakest_class: float | None = None
    not_worse: bool = False
    changed_criteria: bool = False


def promote(client: Any, source: RecordedEvaluation, bar: Bar) -> tuple[list[str], list[str]]:
    """Gives a version the alias if no rule objects, and notes on it what it passed; the failed rules, the passed ones.

    Errors: not a registered version.
    """
    version = source.version
    if version is None:
        raise InputError(f"{source.title}: want a registered version, models:/NAME/VERSION or models:/NAME@ALIAS")
    rules: list[tuple[str, bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            rules += _judged(client, source, bar, Path(folder))
        except InputError as error:
            rules.append((str(error), False))
    failed, passed = ([text for text, well in rules if well is wanted] for wanted in (False, True))
    _note(client, version, bar.alias, failed, passed)
    return failed, passed


def _note(client: Any, version: Any, alias: str, failed: list[str], passed: list[str]) -> None:
    """Gives the alias, if nothing failed, and says on the registry's pages what was decided and why."""
    name, number = version.name, version.version
    if not failed:
        client.set_registered_model_alias(name, alias, number)
        client.set_registered_model_tag(name, alias, f"version {number}: {_figures(version)}")
        client.delete_model_version_tag(name, number, f"refused.{alias}")
    key, text = (f"refused.{alias}", failed) if failed else (f"promoted.{alias}", passed)
    client.set_model_version_tag(name, number, key, "; ".join(text))
    tags = client.get_model_version(name, number).tags
    client.update_model_version(name, number, described(tags, card_of(version.description)))


def _figures(version: Any) -> str:
    """A version's decision and numbers in a few words: `GO, worst case 68.2 %, clean 99.4 %, n = 359`."""
    shown = {"worst_case": "worst case", "clean": "clean"}
    found = [version.tags["decision"]] if "decision" in version.tags else []
    found += [f"{words} {100 * float(version.tags[key]):.1f} %" for key, words in shown.items() if key in version.tags]
    return ", ".join([*found, f"n = {version.tags['num_images']}"] if "num_images" in version.tags else found)


def criteria_of(version: Any, bar: Bar) -> "Criteria":
    """The criteria that a version was registered with, made no easier by the bar. Errors: it was with none."""
    from components.evaluation.criteria import Criteria

    if "criteria" not in version.tags:
        raise InputError("no criteria are recorded with it (run the stage report again: dvc repro -f -s report)")
    text = version.tags["criteria.changed" if _changed(version) and bar.changed_criteria else "criteria"]
    written = typed(Criteria, json.loads(text), f"{version.name} {version.version}: criteria")
    floors = {
        name: max((floor for floor in (getattr(written, name), asked) if floor is not None), default=None)
        for name, asked in (
            ("clean", bar.min_clean),
            ("worst_case", bar.min_worst_case),
            ("weakest_class", bar.min_weakest_class),
        )
    }
    return replace(written, **floors, champion=written.champion or bar.not_worse)


def _judged(client: Any, source: RecordedEvaluation, bar: Bar, folder: Path) -> Rules:
    """Every rule: what it found out, and whether that passes."""
    from components.evaluation.criteria import decide

    sides = _asked(source.version, list(_sides(client, source, folder / "own")))
    criteria, named = criteria_of(source.version, bar), _named(sides)
    yield f"asked: {_question(sides[0])}", True
    if _changed(source.version):
        yield _CHANGED[bar.changed_criteria], True
    ran = ", ".join(dict.fromkeys(side.cascade.name for side in named or sides))
    yield f"cascade {ran}" + ("" if named else f", want {' or '.join(NAMED)}"), bool(named)
    if source.version.name != f"temper-{criteria.model}":
        yield f"the criteria are about {criteria.model}, which this is not", False
    decision = decide(
        # Under whatever name the version was evaluated.
        replace(criteria, model=sides[0].model),
        _verdict(source.version, sides),
        _outcomes(sides),
        sides[0].evaluation.classes,
    )
    several = f" (lowest of {len(sides)} evaluations)" if len(sides) > 1 else ""
    yield from (_told(criterion, several) for criterion in decision.criteria)
    if criteria.champion:
        yield from _against_holder(client, source, bar.alias, sides, criteria.not_worse_than.margin, folder)


def _told(criterion: "Criterion", several: str = "") -> tuple[str, bool]:
    from components.evaluation.criteria import MEASUREMENT, NOT_MEASURED

    if criterion.name == MEASUREMENT or criterion.measured == NOT_MEASURED:
        several = ""
    return f"{criterion.name}: {criterion.measured}{several}, wanted {criterion.wanted}", criterion.met


def _sides(client: Any, source: RecordedEvaluation, folder: Path) -> Iterator["Side"]:
    """Every evaluation of a version, loaded."""
    from components.reports.comparison import document as comparison

    # Tensors are read from their file when they are used, so each evaluation keeps a folder of its own.
    for place, model in evaluations(client, source, (folder / str(number) for number in count())):
        yield comparison.load(place, model, source.title)


def _changed(version: Any) -> bool:
    """Whether a report was made with other criteria after the version was registered."""
    return version.tags.get("criteria.changed", version.tags.get("criteria")) != version.tags.get("criteria")


_CHANGED = {
    False: "criteria: those it was registered with (others were written afterwards: --changed-criteria)",
    True: "criteria: written after it was registered",
}


def _asked(version: Any, sides: list["Side"]) -> list["Side"]:
    """The evaluations that ask what the version's tags say: of the same images and threat model the lowest counts.

    Error: none of them does, so what is known of the version is not what would be judged.
    """
    from components.reports.comparison.document import other_question

    wanted = {key: version.tags.get(key, "") for key in QUESTION}
    first = next((side for side in sides if _tags_of(side) == wanted), None)
    if first is None:
        told = f"{wanted['norm']} {wanted['epsilon']} on {wanted['num_images']} test images"
        raise InputError(f"its numbers are under {told}, and none of its evaluations in MLflow asks that")
    return [first, *(side for side in sides if side is not first and not other_question(first, side))]


def _tags_of(side: "Side") -> dict[str, str]:
    one = side.evaluation
    values = (one.threat.norm, one.threat.epsilon, one.provenance.get("test.sha256", ""), str(one.num_images))
    return dict(zip(QUESTION, values, strict=True))


def _question(side: "Side") -> str:
    from components.reports.wording import setting_text

    return setting_text(side.evaluation.dataset, side.evaluation.num_images, side.evaluation.threat)


def _named(sides: Sequence["Side"]) -> list["Side"]:
    return [side for side in sides if side.cascade.name in NAMED]


def _verdict(version: Any, sides: Sequence["Side"]) -> str:
    """The verdict that the version was registered with, unless today's rules say worse of one of its evaluations.

    Where a stronger cascade was run, what a weaker one could not be sure of no longer counts. `broken` always does.
    """
    from components.evaluation.verdict.rules import judge

    if (verdict := version.tags.get("verdict", NOT_JUDGED)) != TRUSTED:
        return verdict
    strongest = max(strength(side.cascade.name) for side in sides)
    for side in sides:
        counts, evidence = strength(side.cascade.name) == strongest, side.evaluation.evidence.get(side.model)
        today = judge(evidence) if evidence else None
        if today is None and counts:
            return NOT_JUDGED
        if today and (today.status == BROKEN or (counts and today.status != TRUSTED)):
            return f"{today.status} by today's rules ({', '.join(today.reasons)})"
    return TRUSTED


def _outcomes(sides: Sequence["Side"]) -> dict[str, Any]:
    """The outcomes that criteria ask for, of a model and of those that the first evaluation holds beside it.

    Of each model file the lowest of all evaluations counts, image by image: a weaker attack later, or elsewhere, raises
    nothing.
    """
    first = sides[0]
    names = [name for name, facts in first.evaluation.models.items() if facts.checkpoint == "best"]
    found = {"labels": first.labels}
    for name in names:
        digest = first.evaluation.models[name].sha256
        found |= {f"{name}/{condition}": one for condition, one in _lowest(sides, digest).items()}
    return found


def _lowest(sides: Sequence["Side"], digest: str) -> dict[str, Any]:
    """`clean` and, if it was attacked, `worst_case` of a model file: right in every evaluation, image by image."""
    from components.statistics.outcomes import worst

    own = [
        side._replace(model=name)
        for side in sides
        for name, facts in side.evaluation.models.items()
        if facts.sha256 == digest and facts.checkpoint == "best"
    ]
    clean = worst([side.outcomes[f"{side.model}/clean"] for side in own])
    attacked = [outcome for side in own for outcome in side.attacked.values()]
    return {"clean": clean} | ({"worst_case": worst([clean, *attacked])} if attacked else {})


def _against_holder(
    client: Any, source: RecordedEvaluation, alias: str, sides: Sequence["Side"], margin: float | None, folder: Path
) -> Rules:
    """That a version is not worse than who has the alias now, each with its lowest numbers."""
    from components.evaluation.criteria import NAMES, not_worse
    from components.reports.comparison.document import other_question

    name, number = source.version.name, str(source.version.version)
    present = client.get_registered_model(name).aliases.get(alias)
    if present is None or str(present) == number:
        yield f"no other {alias} to compare with", True
        return
    title = f"{alias} {present}"
    every = list(_sides(client, resolve(client, f"models:/{name}/{present}"), folder / "present"))
    holders = [side for side in every if not other_question(sides[0], side)]
    if not holders:
        problems = "; ".join(other_question(sides[0], every[0]))
        yield f"{title} cannot be compared with: {problems}", False
        return
    # Whoever met more attacks looks worse: the holder must not have met a cascade that the candidate was spared.
    spared = {side.cascade.name for side in _named(holders)} - {side.cascade.name for side in _named(sides)}
    if spared or not _named(holders):
        missing = ", ".join(sorted(spared)) or "no named cascade"
        yield f"{title} cannot be compared with: another cascade ({title} met {missing})", False
        return
    theirs, own = _lowest(holders, holders[0].facts.sha256), _lowest(sides, sides[0].facts.sha256)
    for condition in NAMES:
        yield _told(not_worse(condition, title, theirs.get(condition), own.get(condition), margin))
