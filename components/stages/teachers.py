"""A student's teachers before training: who teaches in which role, and how good each is."""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.data.splits import Splits
from components.distillation.parts.balance import Ceilings
from components.distillation.parts.teachers import together
from components.evaluation.advice.looks import logits_on
from components.evaluation.one_attack import TestSet, run_attack
from components.evaluation.outside.program_files import PROGRAM
from components.evaluation.outside.teacher_file import Taught, file_of, load_taught
from components.foundation.errors import InputError
from components.foundation.params import Params, Share, strict
from components.foundation.storage import sha256
from components.methods.parts.contract import Tutoring, needs
from components.numerics.confidence import confidently_wrong
from components.numerics.random_numbers import derived
from components.stages.arithmetic import in_arithmetic, use_of
from components.stages.training_stage import DATA, Settings
from components.threats.parts.threat import Threat
from components.tracking.journal import Journal

OWN = {name: Path(f"models/{name}.safetensors") for name in ("clean_teacher", "robust_teacher")}
"""The teachers that stages of the pipeline train; roles have the same names."""
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


class Demands(NamedTuple):
    """What is required of teachers, if anything, and the file that says so."""

    required: Required | None
    path: str

    def key(self, name: str) -> str:
        """Where a requirement stands."""
        return f"{self.path}: distill_student.required.{name}"


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
    told = params.section("fetch_teachers")
    programs = [name for name, one in told.items() if str(one.get("file")).endswith(PROGRAM)]
    require_trainable(method, found, programs, f"{params.path}: {stage}")
    return found


def require_trainable(method: Any, roles: Mapping[str, Sequence[str]], programs: Collection[str], where: str) -> None:
    """Refuses programs, which have no training mode, for networks that the method goes on training in that mode."""
    goes_on = method.goes_on if isinstance(method, Tutoring) else None
    if goes_on is None:
        return
    for place, name in enumerate(roles[goes_on.role]):
        if name in programs:
            raise InputError(
                f"{where}.teachers.{goes_on.role}.{place}: {name} is a program, which has no training mode, and the "
                f"method trains it further in that mode (want another teacher, or method.{goes_on.instead})"
            )


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
    demands: Demands,
    journal: Journal,
) -> dict[str, Any]:
    """What a method can be built from: the network of each role, once it is known to be good enough, and `ceilings`.

    Errors: a role that falls short.
    """
    networks = {role: {name: teachers[name].network for name in names} for role, names in roles.items()}
    found = list(measured(networks, splits, settings, journal))
    require_teachers(found, splits, demands, settings.threat, journal, references(teachers))
    for role in (role for role in LEAST if role not in roles):
        journal.note(f"{role}: the method asks for none, so nobody is loaded or measured for it")
    precision, size = settings.section.recipe.precision, settings.section.recipe.at_a_time
    for one in found:
        shown = TestSet(one.images[:COMPARED], splits.validation.labels[:COMPARED].to(one.images.device), size)
        use = use_of(one.role, settings)
        for name, network in networks[one.role].items():
            networks[one.role][name] = in_arithmetic(name, network, shown, precision, use, journal)
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
    demands: Demands,
    threat: Threat,
    journal: Journal,
    files: Mapping[str, object] = OWN,
) -> None:
    """Notes what each role reached, and refuses one that falls short of what is required.

    Where nothing is, a warning says which teacher is no better than the same answer for every image. `files` are what
    an evaluation of the teachers alone would be told.
    """
    required = demands.required
    held_out, counts = splits.validation, splits.validation.counts(len(splits.classes))
    for one in found:
        wanted = getattr(required, LEAST[one.role]) if required else max(counts) / len(held_out)
        told = f"(required {wanted:.1%})" if required else "(nothing is required)"
        journal.note(f"{one.label}: {one.kind} {one.right:.1%} on {len(held_out)} validation images {told}")
        if required is None and one.right <= wanted:
            common = splits.classes[counts.index(max(counts))]
            journal.note(f"warning: the {one.label} is no better than to answer {common!r} always ({wanted:.1%} right)")
        elif one.right < wanted:
            journal.note(f"a report on the teachers alone: {report_on(files, demands.path)}")
            raise InputError(
                f"{one.file}: {one.kind} is {one.right:.1%} on the validation split, want at least {wanted:.1%} "
                f"({demands.key(LEAST[one.role])}), so it must not teach"
            )
        if one.role == "robust_teacher":
            require_doubt(one, len(held_out), demands, advice_on(files, threat), journal)


def require_doubt(robust: Measured, n: int, demands: Demands, advice: str, journal: Journal) -> None:
    """Refuses a robust teacher that is confidently wrong too often, where that is asked for; `advice` is a command."""
    if demands.required is None or (most := demands.required.confident_errors) is None:
        return
    errors = robust.confidently_wrong
    journal.note(f"{robust.label}: confidently wrong on {errors:.1%} of {n} attacked images (at most {most:.1%})")
    if errors > most:
        if advice:
            journal.note(f"which teacher to take instead, also of others, added as NAME=FILE: {advice}")
        raise InputError(
            f"{robust.file}: confidently wrong on {errors:.1%} of attacked validation images, want at "
            f"most {most:.1%} ({demands.key('confident_errors')}), so it must not teach"
        )


def references(teachers: Mapping[str, Taught]) -> dict[str, str]:
    """What `temper evaluate` can be told of each teacher: its file, of a program the one that it was read from."""
    return {name: one.source or str(path_of(name)) for name, one in teachers.items()}


def report_on(files: Mapping[str, object], path: str) -> str:
    """The command that evaluates and reports the teachers where no student is trained."""
    models = [word for name, file in files.items() for word in ("--model", f"{name}={file}")]
    begins = shlex.join(["temper", "evaluate", *models])
    return f"{begins} --data {DATA} --params {shlex.quote(path)} --out evaluation/teachers"


def advice_on(files: Mapping[str, object], threat: Threat) -> str:
    """The command that compares the teachers, of which it takes no program; without any other nothing."""
    networks = [f"{name}={file}" for name, file in files.items() if not str(file).endswith(PROGRAM)]
    told = ("--threat", f"{threat.norm.name}:{threat.epsilon}", "--data", str(DATA))
    return shlex.join(["temper", "advise", *networks, *told]) if networks else ""


def upstream(names: Collection[str]) -> dict[str, str]:
    """The SHA-256 of each teacher's file."""
    return {name: sha256(path_of(name)) for name in names}
