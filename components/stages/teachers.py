"""A student's teachers before training: who teaches in which role, how good each is, and in what arithmetic."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.data.splits import Splits
from components.distillation.parts.balance import Ceilings
from components.distillation.parts.teachers import InFloat32, together
from components.evaluation.advice.looks import logits_on
from components.evaluation.one_attack import TestSet, run_attack
from components.evaluation.outside.teacher_file import Taught, file_of, load_taught
from components.foundation.errors import InputError
from components.foundation.params import Params, Share, strict
from components.foundation.storage import sha256
from components.methods.parts.contract import needs
from components.numerics.compute import resolved, training_arithmetic
from components.numerics.confidence import confidently_wrong
from components.numerics.losses import answers
from components.numerics.random_numbers import derived
from components.stages.training_stage import DATA, Settings
from components.tracking.journal import Journal

OWN = {name: Path(f"models/{name}.safetensors") for name in ("clean_teacher", "robust_teacher")}
"""The teachers that stages of the pipeline train; roles have the same names."""
# What bfloat16 may do to a teacher: move a probability by so much at most, and leave this share of answers as they are.
MOST_MOVED, LEAST_AGREED = 0.1, 0.99
COMPARED = 256


@strict
class Roles:
    """Who teaches in each role: names of `fetch_teachers`, `clean_teacher` and `robust_teacher`, the pipeline's own.

    Where several teach in one role, their probabilities are averaged. A role that the method does not ask for is left
    out: nobody in it is loaded, measured or required.
    """

    clean_teacher: tuple[str, ...]  # Teaches about clean images; must be accurate.
    robust_teacher: tuple[str, ...]  # Teaches about attacked images, and its probabilities are robust labels.


@strict
class Required:
    """The least a role must reach on the validation split before it may teach; null: a weak one is warned of."""

    clean_accuracy: Share  # Least accuracy without attack.
    robust_accuracy: Share  # Least accuracy under the validation attack.
    confident_errors: Share | None = None
    """Largest share of images, attacked so, that the robust teacher gives to a wrong class with more probability than
    to all others together; null: any."""


LEAST = {"clean_teacher": "clean_accuracy", "robust_teacher": "robust_accuracy"}
"""Each role, the clean one first, and the key of `required` that holds for it."""


def read_roles(params: Params, stage: str, method: Any) -> dict[str, tuple[str, ...]]:
    """Who teaches in each role that the method asks for. Errors: nobody, a name that is not there, one twice."""
    roles, known = params.typed(Roles, stage, "teachers"), (*OWN, *params.section("fetch_teachers"))
    found: dict[str, tuple[str, ...]] = {}
    for role in LEAST:
        names, where = getattr(roles, role), f"{params.path}: {stage}.teachers.{role}"
        for place, name in enumerate(names):
            if name not in known:
                raise InputError(f"{where}.{place}: no teacher {name!r} (allowed: {', '.join(known)}; fetch_teachers)")
            if name in names[:place]:
                raise InputError(f"{where}.{place}: got {name} twice")
        if role in needs(method):
            if not names:
                raise InputError(f"{where}: got no teacher, but the method asks for one (want [{role}])")
            found[role] = names
    return found


class Measured(NamedTuple):
    """A role, who teaches in it, under what it was measured in words, the shares of validation images that it had
    right, and wrong with confidence, and the images [N, C, H, W] that it was shown.
    """

    role: str
    names: tuple[str, ...]
    kind: str
    right: float
    confidently_wrong: float = 0.0
    images: Tensor = torch.empty(0)

    @property
    def label(self) -> str:
        """The role, and who teaches in it where that is not the pipeline's own teacher alone."""
        return self.role if self.names == (self.role,) else f"{self.role} ({', '.join(self.names)})"

    @property
    def file(self) -> str:
        """What to blame: a file, where it is one."""
        return str(path_of(self.names[0])) if len(self.names) == 1 else self.label


def path_of(name: str) -> Path:
    """The file of a teacher."""
    return OWN.get(name) or file_of(name)


def load(roles: Mapping[str, Sequence[str]], splits: Splits, device: torch.device) -> dict[str, Taught]:
    """Every teacher in any role by its name, once. Errors: no file; made for other classes or images."""
    names = dict.fromkeys(name for role in roles.values() for name in role)
    return {name: load_taught(path_of(name), splits, device) for name in names}


def chosen(
    roles: Mapping[str, tuple[str, ...]],
    teachers: Mapping[str, Taught],
    splits: Splits,
    settings: Settings,
    required: Required | None,
    journal: Journal,
) -> dict[str, Any]:
    """What a method can be built from: the network of each role, once it is known to be good enough, and `ceilings`.

    Errors: a role that falls short.
    """
    networks = {role: {name: teachers[name].network for name in names} for role, names in roles.items()}
    found = list(measured(networks, splits, settings, journal))
    require_teachers(found, splits, required, journal, references(teachers))
    for role in (role for role in LEAST if role not in roles):
        journal.note(f"{role}: the method asks for none, so nobody is loaded or measured for it")
    precision, size = settings.section.recipe.precision, settings.section.recipe.at_a_time
    for one in found:
        shown = TestSet(one.images[:COMPARED], splits.validation.labels[:COMPARED].to(one.images.device), size)
        for name, network in networks[one.role].items():
            networks[one.role][name] = in_arithmetic(name, network, shown, precision, journal)
    reached = {one.role: one.right for one in found}
    ceilings = Ceilings(robust=reached.get("robust_teacher", 1.0), clean=reached.get("clean_teacher", 1.0))
    return {role: together(list(members.values())) for role, members in networks.items()} | {"ceilings": ceilings}


def measured(
    networks: Mapping[str, Mapping[str, nn.Module]], splits: Splits, settings: Settings, journal: Journal
) -> Iterator[Measured]:
    """The clean role without an attack, the robust one under the validation attack, on the validation split.

    Where several teach, each one's own measure is noted.
    """
    attacks = {"clean_teacher": None, "robust_teacher": settings.section.validation_attack}
    for role, members in networks.items():
        attack, names = attacks[role], tuple(members)
        kind = "clean accuracy" if attack is None else f"accuracy under {attack}"
        each = {(name,): network for name, network in members.items()} if len(members) > 1 else {}
        for group, network in [*each.items(), (names, together(list(members.values())))]:
            device = next(network.parameters()).device
            test = TestSet(*splits.validation.on(device), settings.section.recipe.at_a_time)
            outcome = run_attack(network, test, attack, settings.threat, derived(settings.seed, "teachers"))
            logits = logits_on(network, outcome.images_adv, test)
            errors = confidently_wrong(logits, test.labels.cpu()).float().mean().item()
            right = outcome.right.float().mean().item()
            if group != names:
                journal.note(f"{role}: {group[0]} alone: {kind} {right:.1%} on {len(test.labels)} validation images")
            else:
                yield Measured(role, names, kind, right, errors, outcome.images_adv)


def require_teachers(
    found: Sequence[Measured],
    splits: Splits,
    required: Required | None,
    journal: Journal,
    files: Mapping[str, object] = OWN,
) -> None:
    """Notes what each role reached, and refuses one that falls short of what is required.

    Where nothing is, a warning says which teacher is no better than the same answer for every image. `files` are what
    an evaluation of the teachers alone would be told.
    """
    held_out, counts = splits.validation, splits.validation.counts(len(splits.classes))
    for one in found:
        wanted = getattr(required, LEAST[one.role]) if required else max(counts) / len(held_out)
        told = f"(required {wanted:.1%})" if required else "(nothing is required)"
        journal.note(f"{one.label}: {one.kind} {one.right:.1%} on {len(held_out)} validation images {told}")
        if required is None and one.right <= wanted:
            common = splits.classes[counts.index(max(counts))]
            journal.note(f"warning: the {one.label} is no better than to answer {common!r} always ({wanted:.1%} right)")
        elif one.right < wanted:
            journal.note(f"a report on the teachers alone: {report_on(files)}")
            raise InputError(
                f"{one.file}: {one.kind} is {one.right:.1%} on the validation split, want at least {wanted:.1%} "
                f"(params.yaml: distill_student.required), so it must not teach"
            )
        if one.role == "robust_teacher":
            require_doubt(one, len(held_out), required, journal)


def require_doubt(robust: Measured, n: int, required: Required | None, journal: Journal) -> None:
    """Refuses a robust teacher that is confidently wrong too often, where that is asked for."""
    if required is None or (most := required.confident_errors) is None:
        return
    errors = robust.confidently_wrong
    journal.note(f"{robust.label}: confidently wrong on {errors:.1%} of {n} attacked images (at most {most:.1%})")
    if errors > most:
        journal.note(f"which teacher to take instead: temper advise {robust.file} OTHER...")
        raise InputError(
            f"{robust.file}: confidently wrong on {errors:.1%} of attacked validation images, want at "
            f"most {most:.1%} (params.yaml: distill_student.required.confident_errors), so it must not teach"
        )


def references(teachers: Mapping[str, Taught]) -> dict[str, str]:
    """What `temper evaluate` can be told of each teacher: its file, of a program the one that it was read from."""
    return {name: one.source or str(path_of(name)) for name, one in teachers.items()}


def report_on(files: Mapping[str, object]) -> str:
    """The command that evaluates and reports the teachers where no student is trained."""
    models = " ".join(f"--model {name}={path}" for name, path in files.items())
    return f"temper evaluate {models} --data {DATA} --params params.yaml --out evaluation/teachers"


def in_arithmetic(name: str, network: nn.Module, shown: TestSet, precision: Any, journal: Journal) -> nn.Module:
    """The network itself, or within `InFloat32` where the precision of training moves its answers too far.

    `shown` are images on which both are compared. Nothing is said or done where training is in float32.
    """
    device = shown.images.device
    if resolved(precision, device) == "float32":
        return network
    exact = logits_on(network, shown.images, shown)
    try:
        with training_arithmetic(device, precision):
            fast = logits_on(network, shown.images, shown)
    except InputError as error:  # a program from outside, whose operators may insist on one type
        journal.note(f"{name}: computes in float32, since bfloat16 fails: {error}")
        return InFloat32(network)
    moved = float((exact.softmax(1) - fast.softmax(1)).abs().max())
    agreed = float((answers(exact) == answers(fast)).float().mean())
    # NaN is in no bound.
    good = moved <= MOST_MOVED and agreed >= LEAST_AGREED
    journal.note(
        f"{name}: bfloat16 moves its probabilities by {moved:.3f} at most and leaves {agreed:.1%} of "
        f"{len(exact)} answers (bounds: {MOST_MOVED}, {LEAST_AGREED:.0%}), so it computes in "
        f"{'bfloat16' if good else 'float32'}"
    )
    return network if good else InFloat32(network)


def upstream(names: Collection[str]) -> dict[str, str]:
    """The SHA-256 of each teacher's file."""
    return {name: sha256(path_of(name)) for name in names}
