"""Exports a model: the files are written, checked and timed aside, and appear only if every check has passed."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from components.attacks.parts.attack import Attack
from components.data.normalization import Normalization
from components.deployment.check import Original, asked, compare
from components.deployment.contents import Agreement, Export, ModelFile
from components.deployment.formats import FORMATS, ONNX_PACKAGES, Format
from components.evaluation.document import ThreatModel
from components.evaluation.latency import SECONDS, measured
from components.evaluation.one_attack import TestSet
from components.foundation.provenance import versions
from components.foundation.storage import sha256
from components.models.parts.model_file import ModelCard
from components.statistics.documents import write_document
from components.threats.parts.threat import Threat

DOCUMENT = ".json"
Note = Callable[[str], None]


class Source(NamedTuple):
    """The model to export, on the CPU in evaluation mode; `file` is what it was called."""

    file: str
    sha256: str
    model: nn.Module
    card: ModelCard


class Trial(NamedTuple):
    """What original and export are compared on: images of `dataset` on the CPU, and attacks by name."""

    dataset: str
    test: TestSet
    threat: Threat
    attacks: Mapping[str, Attack]
    seed: int


class ExportFailed(Exception):
    """An export that does not do what the original does, with the reasons, a line each. No file is left."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


@contextmanager
def _aside(folders: set[Path]) -> Iterator[dict[Path, Path]]:
    """For each folder one inside it that is gone afterwards, and with it the folder itself where it stayed empty."""
    with ExitStack() as stack:
        inside = {}
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, folder)
            inside[folder] = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".export-", dir=folder)))
        yield inside


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def export(source: Source, files: Mapping[str, Path], trial: Trial, note: Note) -> dict[Path, Export]:
    """Writes the model as each of `files`, format to path, with a document PATH.json beside it.

    Returns path to document. Errors: `ExportFailed`.
    """
    source.model.requires_grad_(False)
    note(f"attacks on {source.file}: {', '.join(trial.attacks)} on {len(trial.test.labels)} images")
    original = asked(source.model, trial.test, trial.attacks, trial.threat, trial.seed)
    documents: dict[Path, Export] = {}
    with _aside({path.parent for path in files.values()}) as aside:
        for name, path in files.items():
            note(f"{path}: writing and checking")
            written = aside[path.parent] / path.name
            FORMATS[name].write(written, source.model, source.card)
            checks = _checked(FORMATS[name], written, original, path)
            documents[path] = _document(source, trial, name, (path, written), checks, original)
            write_document(written.with_name(path.name + DOCUMENT), documents[path])
        for path in files.values():
            for part in (path.name, path.name + DOCUMENT):
                os.replace(aside[path.parent] / part, path.with_name(part))
    return documents


def _checked(kind: Format, written: Path, original: Original, path: Path) -> dict[str, Agreement]:
    """By each program that runs such a file, how far it agrees. Error: `ExportFailed`, with what all of them found."""
    compared = {by: compare(opened(written), original, kind, by) for by, opened in kind.runners.items()}
    if reasons := [reason for one in compared.values() for reason in one.reasons]:
        raise ExportFailed([f"{path}: {reason}" for reason in reasons])
    return {by: one.agreement for by, one in compared.items() if one.agreement is not None}


def _document(
    source: Source,
    trial: Trial,
    name: str,
    files: tuple[Path, Path],
    checks: dict[str, Agreement],
    original: Original,
) -> Export:
    """The document of a file that is called `files[0]` and lies at `files[1]`."""
    card, kind, (path, written) = source.card, FORMATS[name], files
    timed = next(iter(kind.runners.values()))(written)
    packages = versions() | ({package: version(package) for package in ONNX_PACKAGES} if name == "onnx" else {})
    return Export(
        schema_="temper/export/1",
        format=name,
        export=ModelFile(file=str(path), sha256=sha256(written)),
        source=ModelFile(file=source.file, sha256=source.sha256),
        bytes=written.stat().st_size,
        num_parameters=sum(weights.numel() for weights in source.model.parameters()),
        architecture=dict(card.architecture),
        stage=card.stage,
        epoch=card.epoch,
        classes=list(card.classes),
        image_shape=card.image_shape,
        normalization=_plain(card.normalization),
        dataset=trial.dataset,
        threat=ThreatModel(**trial.threat.section),
        attacks={attack: repr(told) for attack, told in trial.attacks.items()},
        seed=trial.seed,
        tolerance=float(f"{kind.tolerance * original.largest:.3g}"),
        checks=checks,
        latency=measured(timed, card.image_shape, seconds=SECONDS),
        versions=packages,
    )


def _plain(normalization: Normalization) -> dict[str, Any]:
    """The fields as JSON holds them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(normalization).items()}
