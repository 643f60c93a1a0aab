"""What params.yaml may hold, written out: docs/parameters.md for people, a JSON Schema for editors."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from components.attacks import ATTACKS
from components.datasets import DATASETS
from components.distillation import DISTILLATIONS
from components.evaluation.cascades import NAMES as CASCADES
from components.evaluation.criteria import Criteria
from components.evaluation.suite import EvaluationSection
from components.foundation.params import MAX_SEED
from components.methods import METHODS
from components.models import MODELS
from components.ntk.probe import ProbeSchedule
from components.numerics.compute import Compute
from components.numerics.parallel import Parallel
from components.optimizers import OPTIMIZERS
from components.reports import grids
from components.schedules import SCHEDULES
from components.stages import CRITERIA, SHARED, fetch_data, fetch_teachers, normalize_data, report, teachers
from components.stages.training_stage import TrainingSection
from components.threats import NORMS
from components.threats.parts.threat import ThreatSection
from components.wrappers.igdm import Igdm
from pipelines.parameters.early import REFERENCE
from pipelines.parameters.presets import preset_values, presets
from temper.keys import DEFINED, Key, object_of, of_class, of_type, text_of

ROOT = Path(__file__).parents[1]
BASE = "digits"
# Values of a key that the page shows, and the mark of a key that a recipe does not have.
MOST, ABSENT = 5, object()
FAMILIES: dict[str, Mapping[str, Any]] = {
    "models": MODELS,
    "methods": METHODS,
    "distillations": DISTILLATIONS,
    "schedules": SCHEDULES,
    "optimizers": OPTIMIZERS,
    "attacks": ATTACKS,
    "datasets": DATASETS,
}
# Members whose fields name members.
WRAPPED = {"eot": {"attack": ("attacks", False)}}
TRAINING = ("train_clean_teacher", "train_robust_teacher", "distill_student")
WARM_START = "Whether training starts from the clean teacher's weights, which must be of the same architecture."
IGDM = "The student's gradient by the pixels follows that of its robust teacher (IGDM); null: not so."
HEAD = """\
# Parameters

Every key of `params.yaml`. This page is generated from the code: `temper params schema > docs/parameters.md`.
An editor completes and checks `params.yaml` by `pipelines/parameters/params.schema.json` (in VS Code with the YAML
extension: `"yaml.schemas": {"pipelines/parameters/params.schema.json": "params.yaml"}`).

**Range** is what the type of a key accepts; checks of several keys together come on top. **Recipes** are values in
`presets/`, that of `digits` first. A fraction is a number or `8/255`. A key is required unless it says "optional".
No number is above 2^32.

A **length** is a fraction too, or a multiple of `threat.epsilon`: `epsilon`, `epsilon/4`, `2*epsilon`, `5/4*epsilon`,
in general `[FACTOR*]epsilon[/DIVISOR]`. It is computed exactly. So epsilon stands once in a recipe, and step sizes,
the curve's and the tables' radii follow `--set threat.epsilon=…`.
"""


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """The complete recipes of presets/ by name, the default first."""
    names = sorted(presets(ROOT), key=lambda name: (name != BASE, name))
    return {name: preset_values(ROOT, name) for name in names}


def sections() -> dict[str, Key]:
    """The top-level keys of params.yaml."""
    training = {"model": ("models", False), "schedule": ("schedules", False)}
    method, taught = {"method": ("methods", False)}, {"method": ("distillations", False)}
    found = {
        "seed": Key(
            "integer",
            {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
            meaning="The seed of all random numbers.",
            allowed=f"at least 0, at most {MAX_SEED}",
        )
    }
    for name, kind in (("compute", Compute), ("parallel", Parallel), ("threat", ThreatSection), ("ntk", ProbeSchedule)):
        found[name] = _section(kind)
    threat, names = found["threat"], list(NORMS)
    norm = replace(threat.children["norm"], words=", ".join(names), schema={"enum": names})
    found["threat"] = replace(threat, children=threat.children | {"norm": norm})
    found["fetch_data"] = _section(fetch_data.FetchSection, {"dataset": ("datasets", False)})
    found["normalize_data"] = _section(normalize_data.NormalizeSection)
    found["fetch_teachers"] = _teachers()
    own = {
        TRAINING[0]: {},
        TRAINING[1]: {"warm_start": replace(of_type(bool), meaning=WARM_START)},
        TRAINING[2]: {
            "teachers": replace(of_type(teachers.Roles), meaning=text_of(teachers.Roles)),
            "required": replace(of_type(teachers.Required | None), meaning=text_of(teachers.Required)),
            "igdm": replace(of_type(Igdm | None), meaning=IGDM),
        },
    }
    for name in TRAINING:
        section = _section(TrainingSection, training | (taught if name == TRAINING[2] else method))
        recipe = section.children["recipe"]
        optimizer = replace(recipe.children["optimizer"], words="one of the optimizers", family="optimizers")
        recipe = replace(recipe, children=recipe.children | {"optimizer": optimizer})
        children = own[name] | section.children | {"recipe": recipe}
        found[name] = replace(section, children=children)
    attacks = {"attacks": ("attacks", True), "cascade": ("attacks", True)}
    evaluation = _section(EvaluationSection, attacks)
    grid = evaluation.children["grid"]
    inner = {"attacks": replace(grid.children["attacks"], words="named attacks", family="attacks", many=True)}
    cascade = replace(evaluation.children["cascade"], words=f"{', '.join(CASCADES)}, or named attacks")
    children = {"grid": replace(grid, children=grid.children | inner), "cascade": cascade}
    found["evaluate_attacks"] = replace(evaluation, children=evaluation.children | children)
    found[CRITERIA] = _section(Criteria)
    found["report"] = _section(report.ReportSection)
    return found


def _teachers() -> Key:
    """Teachers by names of one's own, which the schema cannot list."""
    named = of_type(dict[str, fetch_teachers.Origin])
    one = replace(of_type(fetch_teachers.Origin), required=False, meaning="A teacher, by a name of your own.")
    meaning = "Teachers from outside, by name; none by default (see teachers.md)."
    return replace(named, words="named teachers", meaning=meaning, children={"NAME": one})


def _section(kind: type, families: Mapping[str, tuple[str, bool]] | None = None) -> Key:
    return Key("mapping", {}, text_of(kind), children=of_class(kind, families))


def members(family: str) -> dict[str, Key]:
    """The members of a family, each with its keys."""
    return {name: _section(kind, WRAPPED.get(name)) for name, kind in FAMILIES[family].items()}


def json_schema() -> str:
    """A JSON Schema of params.yaml, by which an editor completes and checks."""
    definitions = {
        family: {"oneOf": [_member_schema(name, key) for name, key in members(family).items()]} for family in FAMILIES
    }
    top = {name: replace(key, schema=_schema(key)) for name, key in sections().items()}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "params.yaml of Temper"}
    whole = head | object_of(top) | {"$defs": DEFINED | definitions}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _member_schema(name: str, key: Key) -> dict[str, Any]:
    named = Key("text", {"const": name}, key.meaning)
    return object_of({"name": named, **{n: replace(k, schema=_schema(k)) for n, k in key.children.items()}})


def _schema(key: Key) -> dict[str, Any]:
    one = {"$ref": f"{REFERENCE}{key.family}"}
    if key.many:
        many = {"type": "object", "additionalProperties": one}
        return many if key.words.startswith("named") else {"anyOf": [{"enum": list(CASCADES)}, many]}
    if key.family:
        return one
    if key.words == "mapping" and key.children:
        return object_of({name: replace(child, schema=_schema(child)) for name, child in key.children.items()})
    return key.schema


def markdown() -> str:
    """docs/parameters.md."""
    tops, blocks = sections(), [HEAD]
    values = recipes()
    general = {name: key for name, key in tops.items() if not key.children or name in SHARED}
    blocks += ["## General\n", *_table(general, values, [""])]
    for name, key in tops.items():
        if name not in general and name not in TRAINING:
            blocks += [f"## {name}\n", f"{key.meaning}\n", *_table(key.children, values, [name])]
    merged = {name: child for top in TRAINING for name, child in tops[top].children.items()}
    method = replace(merged["method"], words="one of the methods (of the distillations for the student)")
    blocks += [f"## {', '.join(TRAINING)}\n", f"{tops[TRAINING[0]].meaning}\n"]
    blocks += _table(merged | {"method": method}, values, TRAINING)
    for family in FAMILIES:
        blocks += [f"## {family.capitalize()}\n"]
        for name, key in members(family).items():
            blocks += [f"### {family}: {name}\n", f"{key.meaning}\n"]
            blocks += _table(key.children, {}, []) if key.children else []
    return "\n".join(blocks).rstrip() + "\n"


def _table(children: Mapping[str, Key], values: Mapping[str, Any], above: Sequence[str]) -> list[str]:
    """Rows of all keys below, and what the recipes have there, under any of the sections `above`."""
    grid = [["key", "type", "range", *(["recipes"] if above else []), "meaning"]]
    for path, key in _flat(children):
        cells = [f"`{path}`", key.words + ("" if key.required else ", optional"), key.allowed]
        if above:
            cells.append(_seen(path, values, above))
        grid.append([*cells, " ".join(key.meaning.split("\n\n")[0].split())])
    return [grids.markdown(grid), ""]


def _flat(children: Mapping[str, Key], above: str = "") -> Iterator[tuple[str, Key]]:
    for name, key in children.items():
        yield above + name, key
        yield from _flat(key.children, f"{above}{name}.")


def _seen(path: str, values: Mapping[str, Any], above: Sequence[str]) -> str:
    """The different values of a key in the recipes; of mappings nothing, since their keys have rows of their own."""
    found: list[str] = []
    for recipe in values.values():
        for section in above:
            value: Any = recipe
            for part in [*filter(None, [section]), *path.split(".")]:
                value = value.get(part, ABSENT) if isinstance(value, dict) else ABSENT
            if value is not ABSENT and not isinstance(value, dict):
                shown = json.dumps(value) if isinstance(value, list | bool | type(None)) else str(value)
                found += [] if shown in found else [shown]
    more = ", …" if len(found) > MOST else ""
    return ", ".join(f"`{one}`" for one in found[:MOST]) + more
