"""Reads what an evaluation wrote: its document, and the files that the document names by their hashes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.evaluation.document import DOCUMENT, GALLERY, OUTCOMES, Evaluation
from components.foundation.errors import InputError
from components.foundation.params import strict, typed
from components.foundation.storage import sha256
from components.numerics.tensor_files import read_tensors
from components.statistics.documents import read_document
from components.statistics.outcomes import Outcomes


@strict
class GalleryText:
    """What gallery.safetensors says beside its tensors."""

    indices: list[int]
    labels: list[int]
    attack: str
    clean: dict[str, list[int]]
    adversarial: dict[str, list[int]]
    files: list[str] | None = None


def read_evaluation(folder: Path | str) -> tuple[Evaluation, Outcomes]:
    """The document of the evaluation in a folder, and its outcomes.

    Errors: missing, broken or foreign files; outcomes that are not this evaluation's.
    """
    document, path = Path(folder, DOCUMENT), Path(folder, OUTCOMES)
    evaluation = read_document(Evaluation, document)
    outcomes, _ = read_tensors(path)
    _require_outcomes(evaluation, outcomes, path)
    _require_hash(evaluation, path)
    return evaluation, outcomes


def read_gallery(folder: Path | str, evaluation: Evaluation) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The images of the gallery with each model's adversarial version, and what was answered to them.

    Errors: a missing, broken or foreign file; one that is not this evaluation's.
    """
    path = Path(folder, GALLERY)
    tensors, metadata = read_tensors(path)
    told = typed(GalleryText, metadata, f"{path}: metadata")
    _require_gallery(tensors, told, evaluation, path)
    _require_hash(evaluation, path)
    return tensors, metadata


def _require_hash(evaluation: Evaluation, path: Path) -> None:
    # Documents of earlier versions name none.
    wanted = evaluation.files.get(path.name)
    if wanted is not None and wanted != sha256(path):
        raise InputError(f"{path}: not the file that {DOCUMENT} was written with (its SHA-256 is another)")


def _require_outcomes(evaluation: Evaluation, outcomes: Outcomes, path: Path) -> None:
    n = evaluation.num_images
    if "labels" not in outcomes:
        raise InputError(f"{path}: no tensor 'labels', which every evaluation has")
    for name, outcome in outcomes.items():
        kind, highest = (torch.int64, len(evaluation.classes) - 1) if name == "labels" else (torch.uint8, 1)
        if outcome.dtype != kind or outcome.shape != (n,):
            found = f"{str(outcome.dtype).removeprefix('torch.')} {list(outcome.shape)}"
            raise InputError(f"{path}: {name} is {found}, want {str(kind).removeprefix('torch.')} [{n}]")
        if int(outcome.min()) < 0 or int(outcome.max()) > highest:
            raise InputError(f"{path}: {name} has values outside 0 to {highest}")


def _require_gallery(tensors: Mapping[str, Tensor], told: GalleryText, evaluation: Evaluation, path: Path) -> None:
    images, count, classes = tensors.get("images"), len(told.indices), len(evaluation.classes)
    # Floats where the images that were attacked are.
    fits = images is not None and (images.dtype == torch.uint8 or images.is_floating_point())
    if images is None or not fits or images.ndim != 4 or len(images) != count:
        raise InputError(f"{path}: no images [{count}, C, H, W], as many as its metadata tells of")
    if told.files is not None and len(told.files) != count:
        raise InputError(f"{path}: metadata: files: want {count} names")
    for name, answers in {"labels": told.labels, **told.clean, **told.adversarial}.items():
        if len(answers) != count or any(not -1 <= answer < classes for answer in answers):
            raise InputError(f"{path}: metadata: {name}: want {count} places of the {classes} classes")
    if any(not 0 <= index < evaluation.num_images for index in told.indices) or min(told.labels, default=0) < 0:
        raise InputError(f"{path}: metadata: indices: want places among the {evaluation.num_images} test images")
    if told.clean.keys() != told.adversarial.keys():
        raise InputError(f"{path}: metadata: clean and adversarial are answers of different models")
    for name in told.adversarial:
        adversarial = tensors.get(f"adversarial/{name}")
        if adversarial is None or not adversarial.is_floating_point() or adversarial.shape != images.shape:
            raise InputError(f"{path}: no tensor adversarial/{name} of the shape {list(images.shape)}")
