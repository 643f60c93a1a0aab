"""Exports a model for those who run it, and checks the files against the original."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from components.attacks import ATTACKS
from components.attacks.parts.attack import Attack
from components.commands.evaluate import images_of
from components.commands.evaluate_options import MOST_IMAGES, threats_of
from components.deployment.export import ExportFailed, Source, Trial, export
from components.deployment.formats import FORMATS, missing_packages, require_available
from components.deployment.text import table
from components.evaluation.one_attack import TestSet
from components.evaluation.outside.models import OutsideImages, local_file
from components.foundation.errors import InputError, choose
from components.foundation.lines import say
from components.foundation.memory import within_memory
from components.foundation.params import Params, Ratio, member
from components.foundation.process import as_process
from components.foundation.storage import sha256
from components.models.parts.model_file import load_model
from components.numerics.compute import MOST_THREADS
from components.threats import NORMS
from components.threats.parts.threat import Threat, read_threat

PARAMS = Path("params.yaml")
CHECK_FAILED = 1
# A small attack, twice: what stands under one loss may fall under the other.
STEPS, BATCH_SIZE = 10, 128
LOSSES = {"pgd": "cross_entropy", "pgd_margin": "margin"}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What an export is asked for; `temper export --help` says what each means."""

    model: str
    to: Path
    format: Sequence[str] = ()
    data: str = "data/normalized.safetensors"
    threat: str | None = None
    images: int = 500
    seed: int = 0
    threads: int = 1


def main(given: ExportOptions) -> None:
    """Writes the files and prints what was checked. Where a check fails, the exit status is 1 and no file is left."""
    for option, value, most in (("--images", given.images, MOST_IMAGES), ("--threads", given.threads, MOST_THREADS)):
        if not 1 <= value <= most:
            raise InputError(f"{option}: got {value}, want 1 to {most}")
    threat = _threat(given)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder, within_memory("say --images, fewer than now"):
        path = local_file(given.model, Path(folder))
        files = _files(given, Path(given.model).stem if path == Path(given.model) else path.stem)
        if any(file.exists() and file.samefile(path) for file in files.values()):
            raise InputError(f"--to: got {given.to}, where the export would replace the model itself")
        source = _source(given.model, path)
        images = images_of(given.data)
        _require_fit(source, images, given)
        trial = Trial(images.name, _test(images, given), threat, _attacks(threat), given.seed)
        try:
            documents = export(source, files, trial, say)
        except ExportFailed as failed:
            for reason in failed.reasons:
                say(f"failed: {reason}")
            say("no file was written")
            raise SystemExit(CHECK_FAILED) from None
    say(f"\n{table(documents)}")


def _files(given: ExportOptions, stem: str) -> dict[str, Path]:
    """Format to file; `--to` is a file, by its suffix, or a folder. Errors: no such format, another than `--format`."""
    suffix = given.to.suffix.removeprefix(".")
    if suffix in FORMATS and not given.to.is_dir():
        if given.format and list(given.format) != [suffix]:
            raise InputError(f"--format: got {', '.join(given.format)} for {given.to}, want a folder to write it into")
        require_available(suffix, str(given.to))
        return {suffix: given.to}
    if suffix and not given.to.is_dir():
        raise InputError(f"--to: got {given.to}, want a folder, or a file ending in {', '.join(map(repr, FORMATS))}")
    for name in given.format:
        choose(FORMATS, name, "--format")
        require_available(name, "--format onnx")
    available = [name for name in FORMATS if not missing_packages(name)]
    if not given.format and len(available) < len(FORMATS):
        say("onnx is left out: its packages are not installed (pip install '.[onnx]')")
    return {name: given.to / f"{stem}.{name}" for name in given.format or available}


def _source(reference: str, path: Path) -> Source:
    if path.suffix != ".safetensors":
        raise InputError(f"{reference}: want a model file of ours, .safetensors (it holds what the export is made of)")
    model, card = load_model(path)
    return Source(reference, sha256(path), model, card)


def _require_fit(source: Source, images: OutsideImages, given: ExportOptions) -> None:
    """Refuses images that the model was not made for."""
    card = source.card
    if card.image_shape != images.shape or (images.classes and card.classes != images.classes):
        raise InputError(
            f"--data {given.data}: {images.num_classes} classes of {list(images.shape)} images, but {source.file} was "
            f"made for {len(card.classes)} of {list(card.image_shape)}"
        )


def _test(images: OutsideImages, given: ExportOptions) -> TestSet:
    chosen = images.limited(given.images, 0, given.seed).test
    return TestSet(*chosen.on(torch.device("cpu")), BATCH_SIZE)


def _attacks(threat: Threat) -> dict[str, Attack]:
    fields = {"name": "pgd", "steps": STEPS, "step_size": str(Ratio(threat.epsilon / 4)), "start": "uniform"}
    return {
        name: member(ATTACKS, fields | {"loss": loss, "restarts": 1}, "export", threat.epsilon)
        for name, loss in LOSSES.items()
    }


def _threat(given: ExportOptions) -> Threat:
    """That of `--threat`, else that of params.yaml."""
    if given.threat is not None:
        return threats_of([given.threat])[0]
    if not PARAMS.exists():
        raise InputError(f"--threat: missing, and no {PARAMS} is here; say what an attacker may change: linf:8/255")
    return read_threat(NORMS, Params.read().get("threat"), f"{PARAMS}: threat")


def run(given: ExportOptions) -> None:
    """The export as this process: a mistake ends it with exit status 2, a failed check with 1."""
    with as_process():
        main(given)
