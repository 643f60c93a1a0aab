"""The options of `temper advise`, and what they stand for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.commands import evaluate_options
from components.commands.evaluate_options import MOST_IMAGES, EvaluateOptions
from components.data.splits import read_splits
from components.evaluation.advice.looks import NUM_IMAGES
from components.evaluation.outside.models import PROGRAM, Foreign, OutsideImages, read_images
from components.foundation.errors import InputError
from components.foundation.params import Params, typed
from components.numerics.compute import Compute
from components.numerics.confidence import CONFIDENT
from components.numerics.tensor_files import read_tensors
from components.stages.training_stage import DATA
from components.threats import NORMS
from components.threats.parts.threat import Threat, read_threat

PARAMS = Path("params.yaml")


@dataclass(frozen=True, kw_only=True)
class AdviseOptions:
    """What an advice is asked for; `temper advise --help` says what each means."""

    teacher: Sequence[str]
    student: Sequence[str] = ()
    data: str = str(DATA)
    count: int = NUM_IMAGES
    threat: str | None = None
    confident: float = CONFIDENT
    calibration: Path | None = None
    batch_size: int = 250
    seed: int = 0
    out: Path | None = None
    architecture: Sequence[str] = ()
    normalization: Sequence[str] = ()
    device: str = "auto"
    threads: int | None = None


def named(given: Sequence[str], option: str) -> dict[str, str]:
    """The networks `NAME=REF`, or `REF`, which is called as its file is: name to reference, in order.

    Errors: a name of other characters, one twice, a program.
    """
    networks: dict[str, str] = {}
    for text in given:
        name, equals, reference = text.partition("=")
        if not equals:
            name, reference = Path(text).name.removesuffix(".safetensors"), text
        if not (reference and re.fullmatch(r"[\w.-]+", name)):
            raise InputError(f"{option}: got {text!r}, want FILE or NAME=REF, NAME of letters, digits, '.', '_', '-'")
        if name in networks:
            raise InputError(f"{option}: two networks called {name!r}, want NAME=REF for one of them")
        if reference.endswith(PROGRAM):
            # `temper evaluate` runs programs in a process that knows no secrets; there is no such process here.
            raise InputError(f"{option}: {reference}: a program, want the weights as .safetensors (see --architecture)")
        networks[name] = reference
    return networks


def require_possible(given: AdviseOptions) -> None:
    """Returns if numbers are ones that can be meant, and every network has a name of its own."""
    for option, value in (("--count", given.count), ("--batch-size", given.batch_size)):
        if not 1 <= value <= MOST_IMAGES:
            raise InputError(f"{option}: got {value}, want 1 to {MOST_IMAGES}")
    if not 0 < given.confident < 1:
        raise InputError(f"--confident: got {given.confident:g}, want a probability between 0 and 1")
    if both := set(named(given.teacher, "TEACHER")) & set(named(given.student, "--student")):
        raise InputError(f"--student: {min(both)!r} is a teacher's name too, want NAME=REF")
    if given.out is not None:
        evaluate_options.require_possible(EvaluateOptions(model=(), data="", out=given.out))


def threat_of(given: AdviseOptions) -> Threat:
    """The threat model that was named, else that of params.yaml. Error: neither is there."""
    if given.threat is not None:
        return evaluate_options.threats_of([given.threat])[0]
    if not PARAMS.exists():
        raise InputError("--threat: missing, say what the attacker may change, such as linf:8/255")
    return read_threat(NORMS, Params.read(PARAMS).get("threat"), f"{PARAMS}: threat")


def compute_of(given: AdviseOptions) -> Compute:
    """Where networks run; numbers do not depend on how many images go through at a time."""
    fields = {"device": given.device, "threads": given.threads or "auto", "deterministic": True}
    return typed(Compute, fields, "--threads")


def foreign_of(given: AdviseOptions, networks: dict[str, str]) -> dict[str, Foreign]:
    """Per network what the command line says of its state dict."""
    models = [f"{name}={reference}" for name, reference in networks.items()]
    said = EvaluateOptions(
        model=models, data=given.data, architecture=given.architecture, normalization=given.normalization
    )
    return evaluate_options.foreign_of(said)


def validation_images(data: str) -> OutsideImages:
    """The validation split of a data file of the pipeline, or all images of another file; the test split of none.

    Errors: no file, as a data set's name is none: nobody knows which of its images no teacher was trained on.
    """
    path = Path(data)
    if path.suffix != ".safetensors":
        raise InputError(
            f"--data: got {data!r}, want {DATA}, whose validation split is used, or a .safetensors file of images and "
            "labels that no teacher was trained on, and that are not the test split"
        )
    tensors, metadata = read_tensors(path)
    if "validation.images" in tensors and isinstance(metadata, dict) and "normalization" in metadata:
        splits = read_splits(path)
        return OutsideImages(splits.dataset, splits.classes, splits.validation, None)
    return read_images(path)._replace(held_out=None)
