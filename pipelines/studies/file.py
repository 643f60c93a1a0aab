"""What studies/NAME/study.yaml says: deltas of a preset as arms, seeds, sizes, the question. Imports no Prefect."""

import re
from pathlib import Path
from typing import Any, Literal, get_args

from components.foundation.params import read_yaml, strict, typed
from components.foundation.recipes import changed
from pipelines.parameters.presets import preset_values

STUDY = "study.yaml"
_NAME = re.compile(r"[A-Za-z0-9][\w.]*")

Role = Literal["clean_teacher", "robust_teacher", "student"]
ROLES: tuple[Role, ...] = get_args(Role)
Params = dict[str, Any]
Delta = dict[str, Any]


@strict
class Scale:
    """A size of the study: a file of presets/, a delta of it for all arms, and more for single arms."""

    preset: str
    set: Delta
    arms: dict[str, Delta]


@strict
class Study:
    """The keys of study.yaml.

    `arms` are deltas (`components.foundation.recipes`) on top of the scale's; the arms in `crossed` come once per
    variant, called ARM-VARIANT. `role` is the model that is measured, in the arms of `roles` another one, such as a
    teacher that students are held against. `robust` is the attack that decides, `pairs` the arms that are compared
    image by image (A, B: how B differs), `transfer` the checkpoint of every arm that all others' attacks are shown to,
    or null.
    """

    question: str
    claim: str
    role: Role
    roles: dict[str, Role]
    robust: str
    figure: Literal["curves", "capacity", "points", "plane"]
    transfer: Literal["best", "last"] | None
    seeds: list[int]
    scales: dict[str, Scale]
    variants: dict[str, Delta]
    crossed: list[str]
    arms: dict[str, Delta]
    pairs: list[tuple[str, str]]

    def __post_init__(self) -> None:
        for name in (*self.arms, *self.variants):
            if not _NAME.fullmatch(name):
                raise ValueError(f"got the name {name!r}, want letters, digits, '_' and '.'")
        for key, names, known in (
            ("crossed", self.crossed, self.arms),
            ("roles", self.roles, self.arms),
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
    return typed(Study, read_yaml(folder / STUDY), str(folder / STUDY))


def arm_params(root: Path, folder: Path, study: Study, scale: str, name: str) -> Params:
    """The parameters of one arm at one scale. Errors: no such preset, a key that is not there."""
    size, (arm, variant) = study.scales[scale], study.names()[name]
    where = f"{folder / STUDY}: scales.{scale}"
    params = preset_values(root, size.preset)
    for delta, part in (
        (size.set, f"{where}.set"),
        (study.arms[arm], f"{folder / STUDY}: arms.{arm}"),
        (study.variants.get(variant, {}), f"{folder / STUDY}: variants.{variant}"),
        (size.arms.get(name, {}), f"{where}.arms.{name}"),
    ):
        params = changed(params, delta, part)
    return params
