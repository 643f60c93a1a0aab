"""Stage fetch_teachers: teachers from outside, checked and measured, in one form that the student's stage reads."""

import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field

from components.attacks.pgd import Pgd
from components.data.normalization import normalization_of
from components.data.splits import Splits, read_splits
from components.evaluation.one_attack import TestSet, run_attack
from components.evaluation.outside.fitness import require_class_order, require_pixels_in_unit_range
from components.evaluation.outside.models import (
    OF_KEYS,
    PROGRAM,
    Foreign,
    Outside,
    OutsideImages,
    load_outside,
    local_file,
)
from components.evaluation.outside.program_files import read_program
from components.evaluation.outside.teacher_file import TEACHERS, file_of, save_program
from components.foundation.arguments import take_none
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.params import Params, member, strict
from components.foundation.provenance import code_of, members_of
from components.foundation.storage import sha256, write_json
from components.models import MODELS
from components.models.parts.first_layer import Layer, numbers_of
from components.models.parts.model_file import ModelCard, save_model
from components.numerics.compute import Compute
from components.numerics.random_numbers import derived
from components.stages import run
from components.statistics.intervals import interval
from components.threats import NORMS
from components.threats.parts.threat import Threat, read_threat
from components.tracking.journal import Journal

STAGE, STUDENT = "fetch_teachers", "distill_student"
DATA = Path("data/normalized.safetensors")
METRICS = "metrics/teachers.json"
INDEX = TEACHERS / "index.json"
# Names that models of the pipeline have already.
TAKEN = ("clean_teacher", "robust_teacher", "student")
BATCH_SIZE = 128

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@strict
class FromFile:
    """A teacher in a file on this machine."""

    name: Literal["file"]  # Where it is: `file` on this machine, or `registry`, with the tracker.
    file: str  # A model of this project, a state dict (.safetensors), or a torch.export program (.pt2).
    sha256: Digest | None = None  # Of the file, in hex; another file is refused. A program needs it.
    architecture: dict[str, Any] | None = None  # Of a state dict: a model's name, with that member's fields.
    normalization: Layer = None  # Of a state dict that holds none: what its pixels go through first.


@strict
class FromRegistry:
    """A teacher that MLflow keeps: a registered version, or a file of a run."""

    name: Literal["registry"]  # Where it is: `file` on this machine, or `registry`, with the tracker.
    model: str  # `models:/NAME/VERSION`, or `runs:/ID/PATH`.
    sha256: Digest | None = None  # Of the file, in hex; another file is refused. A program needs it.
    architecture: dict[str, Any] | None = None  # Of a state dict: a model's name, with that member's fields.
    normalization: Layer = None  # Of a state dict that holds none: what its pixels go through first.


Origin = Annotated[FromFile | FromRegistry, Field(discriminator="name")]


class FetchedSettings(NamedTuple):
    """The teachers by name, and what their accuracies are measured with."""

    teachers: dict[str, FromFile | FromRegistry]
    attack: Pgd
    threat: Threat
    compute: Compute
    seed: int


def read(params: Params) -> FetchedSettings:
    """The stage's settings, all checked as far as that needs no file."""
    threat = read_threat(NORMS, params.get("threat"), f"{params.path}: threat")
    attack = params.typed(Pgd, STUDENT, "validation_attack", epsilon=threat.epsilon)
    teachers = params.typed(dict[str, Origin], STAGE)
    for name, origin in teachers.items():
        where = f"{params.path}: {STAGE}.{name}"
        if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,99}", name, re.ASCII) or name in TAKEN:
            raise InputError(f"{where}: want a name of letters, digits, '_' and '-', and none of {', '.join(TAKEN)}")
        if isinstance(origin, FromRegistry) and not re.fullmatch(
            r"models:/[^/@]+/\d+|runs:/[0-9a-f]{32}/.+", origin.model
        ):
            # An alias moves, and no one would notice.
            raise InputError(f"{where}.model: got {origin.model!r}, want models:/NAME/VERSION or runs:/ID/PATH")
        if origin.architecture is not None:
            member(MODELS, origin.architecture, f"{where}.architecture")
    return FetchedSettings(teachers, attack, threat, params.typed(Compute, "compute"), params.seed)


def main(params: Params, journal: Journal) -> None:
    """Writes models/teachers/ and metrics/teachers.json."""
    settings, index, metrics = read(params), dict[str, Any](), dict[str, Any]()
    if settings.teachers:
        device, splits = settings.compute.prepare(), read_splits(DATA)
        for name, origin in settings.teachers.items():
            where = f"{params.path}: {STAGE}.{name}"
            index[name], metrics[name] = fetch(name, origin, where, settings, splits, device, journal)
        journal.upstream({"normalized": sha256(DATA)} | {name: entry["sha256"] for name, entry in index.items()})
        journal.produced({name: sha256(file_of(name)) for name in index})
    for path in set(TEACHERS.glob("*.safetensors")) - {file_of(name) for name in index}:
        path.unlink()
    write_json(INDEX, index)
    write_json(METRICS, metrics)


def fetch(
    name: str,
    origin: FromFile | FromRegistry,
    where: str,
    settings: FetchedSettings,
    splits: Splits,
    device: torch.device,
    journal: Journal,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes a teacher's file; what the index and the metrics say of it. Errors: whatever makes it no teacher here."""
    reference = origin.file if isinstance(origin, FromFile) else origin.model
    images = OutsideImages(splits.dataset, splits.classes, splits.validation, None)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = local_file(_expanded(reference) if isinstance(origin, FromFile) else reference, Path(folder))
            digest = _required_digest(path, reference, origin)
            outside = load_outside(name, reference, path, images, _foreign(origin), device)
            found = _measured(name, outside, where, settings, splits, journal)
            code = _write(name, path, reference, outside, splits)
    except InputError as error:
        text = one_line(error)
        raise InputError(text if text.startswith(where) else f"{where}: {text}") from None
    journal.note(f"{name}: {reference}, sha256 {digest}")
    if origin.sha256 is None and isinstance(origin, FromFile):
        journal.note(f"warning: DVC does not watch {reference}: say its sha256, as above, in {STAGE}.{name}.sha256")
    return {"source": reference, "sha256": digest, "code": code}, found


def _expanded(file: str) -> str:
    return str(Path(file).expanduser())


def _required_digest(path: Path, reference: str, origin: FromFile | FromRegistry) -> str:
    """The SHA-256 of a file. Errors: another one than the origin states; a program of which it states none."""
    digest = sha256(path)
    if origin.sha256 is None and path.suffix == PROGRAM:
        # Its operators run in the processes of training, which know what their environment knows.
        raise InputError(f"sha256: missing, a program is run only if it is the one that you mean ({digest})")
    if origin.sha256 not in (None, digest):
        raise InputError(f"sha256: {reference} has {digest}, want {origin.sha256}")
    return digest


def _foreign(origin: FromFile | FromRegistry) -> Foreign:
    return Foreign(origin.architecture, numbers_of(origin.normalization), OF_KEYS)


def _measured(
    name: str, outside: Outside, where: str, settings: FetchedSettings, splits: Splits, journal: Journal
) -> dict[str, Any]:
    """Clean and robust accuracy on validation images. Errors: a network that means something else by its answers."""
    model, labels = outside.model, splits.validation.labels
    device = next(iter([*model.parameters(), *model.buffers()])).device
    test = TestSet(*splits.validation.on(device), BATCH_SIZE)
    seed = derived(settings.seed, "teachers")
    clean = run_attack(model, test, None, settings.threat, seed)
    # A file that names classes is known to mean them, and its normalisation is its own.
    if not outside.classes:
        require_pixels_in_unit_range(model, test, splits, where)
        require_class_order(clean.predicted, labels, splits.classes, where)
    attacked = run_attack(model, test, settings.attack, settings.threat, seed)
    found, n = dict[str, Any](), len(labels)
    for key, outcome in (("clean_accuracy", clean), ("robust_accuracy", attacked)):
        low, high = interval(right := int(outcome.right.sum()), n)
        found[key] = {"value": right / n, "low": low, "high": high}
    said = [f"{one['value']:.1%} ({one['low']:.1%} to {one['high']:.1%})" for one in found.values()]
    journal.note(f"{name}: clean accuracy {said[0]}, under {settings.attack} {said[1]}, on {n} validation images")
    return found | {"n": n}


def _write(name: str, path: Path, reference: str, outside: Outside, splits: Splits) -> dict[str, str]:
    """Writes the teacher's file, and returns the code that its network is made of, file to hash.

    `distill_student` depends on the folder, and so on that code, whichever of the models it is.
    """
    if path.suffix == PROGRAM:
        save_program(file_of(name), read_program(path), reference, splits)
        return {}
    architecture, network = outside.facts["architecture"], outside.model
    card = ModelCard(
        architecture=architecture,
        classes=splits.classes,
        image_shape=splits.image_shape,
        normalization=normalization_of(network, splits.normalization),
        stage=STAGE,
        epoch=outside.facts["epoch"] or 0,
        upstream={name: outside.facts["sha256"]},
    )
    save_model(file_of(name), network.state_dict(), card)
    built = member(MODELS, architecture, reference)
    library = getattr(built, "library", None)
    return code_of(members_of(built)) | ({} if library is None else {f"version of {library}": version(library)})


if __name__ == "__main__":
    take_none(STAGE, __doc__)
    run(STAGE, main)
