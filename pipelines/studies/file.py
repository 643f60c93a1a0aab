"""What studies/NAME/study.yaml says: changes of a preset as arms, seeds, sizes, the question. Imports no Prefect."""

import copy
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from components.foundation.errors import InputError
from pipelines.parameters.presets import preset_text

STRICT = ConfigDict(extra="forbid", strict=True)
STUDY = "study.yaml"
UNKNOWN = "unexpected_keyword_argument"
_NAME = re.compile(r"[A-Za-z0-9][\w.]*")

Params = dict[str, Any]
Changes = dict[str, Any]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Scale:
    """A size of the study: a file of presets/, dotted keys changed in it for all arms, and more for single arms."""

    preset: str
    set: Changes
    arms: dict[str, Changes]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Study:
    """The keys of study.yaml.

    `arms` are dotted keys with their values, on top of the scale's; the arms in `crossed` come once per variant, called
    ARM-VARIANT. `role` is the model that is measured, `robust` the attack that decides, `pairs` the arms that are
    compared image by image (A, B: how B differs), `transfer` the checkpoint of every arm that all others' attacks are
    shown to, or null.
    """

    question: str
    claim: str
    role: Literal["clean_teacher", "robust_teacher", "student"]
    robust: str
    figure: Literal["curves", "capacity", "points"]
    transfer: Literal["best", "last"] | None
    seeds: list[int]
    scales: dict[str, Scale]
    variants: dict[str, Changes]
    crossed: list[str]
    arms: dict[str, Changes]
    pairs: list[tuple[str, str]]

    def __post_init__(self) -> None:
        for name in (*self.arms, *self.variants):
            if not _NAME.fullmatch(name):
                raise ValueError(f"got the name {name!r}, want letters, digits, '_' and '.'")
        for key, names, known in (
            ("crossed", self.crossed, self.arms),
            ("pairs", [name for pair in self.pairs for name in pair], self.names()),
            *((f"scales.{name}.arms", scale.arms, self.names()) for name, scale in self.scales.items()),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"got {name!r} in {key}, want one of {', '.join(known)}")

    def names(self) -> dict[str, tuple[str, str]]:
        """The arms, crossed ones once per variant: name -> arm and variant (empty where it is not crossed)."""
        found = {}
        for arm in self.arms:
            crossed = self.variants if arm in self.crossed else {"": {}}
            found |= {f"{arm}-{variant}" if variant else arm: (arm, variant) for variant in crossed}
        return found


def read_study(folder: Path) -> Study:
    """The study of a folder. Errors: no such file, or the first mistake in it, in one line."""
    values = read_yaml(folder / STUDY)
    try:
        # Through JSON, since only there does strict mode take a mapping for a dataclass and a list for a tuple.
        return TypeAdapter(Study).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        # A misspelt key is also a missing one: name the misspelling.
        first = min(error.errors(include_url=False), key=lambda one: one["type"] != UNKNOWN)
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == UNKNOWN:
            kind = Study if len(first["loc"]) == 1 else Scale
            message = f"unknown key (allowed: {', '.join(field.name for field in fields(kind))})"
        raise InputError(f"{folder / STUDY}: {where + ': ' if where else ''}{message}") from None


def arm_params(root: Path, folder: Path, study: Study, scale: str, name: str) -> Params:
    """The parameters of one arm at one scale. Errors: no such preset, a key that is not there."""
    size, (arm, variant) = study.scales[scale], study.names()[name]
    where = f"{folder / STUDY}: scales.{scale}"
    params = changed(yaml.safe_load(preset_text(root, size.preset)), size.set, f"{where}.set")
    for changes, part in (
        (study.arms[arm], f"{folder / STUDY}: arms.{arm}"),
        (study.variants.get(variant, {}), f"{folder / STUDY}: variants.{variant}"),
        (size.arms.get(name, {}), f"{where}.arms.{name}"),
    ):
        params = changed(params, changes, part)
    return params


def changed(params: Params, changes: Changes, where: str) -> Params:
    """`params` with each dotted key set, in order. Error: a key that is not there, with those that are."""
    params = copy.deepcopy(params)
    for dotted, value in changes.items():
        *above, last = dotted.split(".")
        section: Any = params
        for depth, part in enumerate([*above, last]):
            if not isinstance(section, dict) or part not in section:
                allowed = ", ".join(section) if isinstance(section, dict) else "none, it is a single value"
                inside = ".".join(above[:depth]) or "the preset"
                raise InputError(f"{where}: {dotted}: no key {part!r} in {inside} (allowed: {allowed})")
            if depth < len(above):
                section = section[part]
        section[last] = copy.deepcopy(value)
    return params


def read_yaml(path: Path) -> Any:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: want a mapping, got {type(values).__name__}")
    return values
