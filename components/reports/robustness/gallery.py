"""The gallery: images, perturbations and adversarial images as data URIs, with what every model answered."""

import base64
import struct
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from components.reports.robustness.contents import Report
from components.reports.robustness.document import best_models
from components.reports.wording import grey_text
from components.statistics.outcomes import HardImage

# Smaller images are shown enlarged with their pixels as squares.
SMALL = 64


def gallery(tensors: Mapping[str, Tensor], metadata: dict[str, Any], document: Report, limit: int) -> dict[str, Any]:
    """What the page shows of the first `limit` images.

    Args:
        tensors: `images` uint8 [K, C, H, W] and `adversarial/<model>` float [K, C, H, W] in [0, 1].
        metadata: indices and labels [K], the attack, per model the answers to the clean and adversarial images, and,
            where the images have some, the names of their files.
        document: the robustness document, for the class names.
        limit: how many images to show at most.
    Without a tensor `images` there are no samples.
    """
    if "images" not in tensors:
        return {"samples": []}
    images = tensors["images"][:limit].float() / 255
    models = [name for name in metadata["adversarial"] if f"adversarial/{name}" in tensors]
    changes = {name: tensors[f"adversarial/{name}"][:limit].float() - images for name in models}
    # One scale for the whole gallery, so that perturbations compare; the largest change reaches black or white.
    largest = max((float(change.abs().max()) for change in changes.values() if change.numel()), default=0.0) or 1.0
    amplified, classes = 0.5 / largest, document.classes

    def answered(name: str, index: int) -> dict[str, Any]:
        answers = {kind: metadata[kind][name][index] for kind in ("clean", "adversarial")}
        return {
            "name": name,
            "perturbation": data_uri(0.5 + changes[name][index] * amplified),
            "adversarial": data_uri(images[index] + changes[name][index]),
            **{f"{kind}_answer": _named(answer, classes) for kind, answer in answers.items()},
            **{f"{kind}_right": answer == metadata["labels"][index] for kind, answer in answers.items()},
        }

    samples = [
        {
            "index": metadata["indices"][index],
            "file": _file(metadata, index),
            "label": classes[metadata["labels"][index]],
            "image": data_uri(image),
            "models": [answered(name, index) for name in models],
        }
        for index, image in enumerate(images)
    ]
    return {
        "attack": metadata["attack"],
        "amplified": amplified,
        "largest": largest,
        "small": images.shape[-1] < SMALL,
        "samples": samples,
    }


def hard_images(document: Report, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table of the hardest images: place, class, what every model makes of it, and its picture.

    The picture and the clean answers are those of the gallery's file, as far as the image is in it.
    """
    hardest, models = document.hardest, best_models(document)
    if hardest is None:
        return []
    at = {index: place for place, index in enumerate(metadata.get("indices", ()))}
    answers = {
        index: {name: _named(given[place], document.classes) for name, given in metadata["clean"].items()}
        for index, place in at.items()
    }
    return [
        {
            "index": image.index,
            "file": _file(metadata, at[image.index]) if image.index in at else None,
            "class_": image.class_,
            "picture": data_uri(tensors["images"][at[image.index]].float() / 255) if image.index in at else None,
            "fates": [_fate(name, image, document.threat.epsilon, answers.get(image.index, {})) for name in models],
        }
        for image in hardest.images
    ]


def _fate(name: str, image: HardImage, threat: str, answers: Mapping[str, str]) -> dict[str, Any]:
    """What a model makes of an image: `stands`, `falls at 13/255`, or what it answers without an attack."""
    if name not in image.clean:
        said = f" (“{answers[name]}”)" if name in answers else ""
        return {"good": False, "text": f"wrong unattacked{said}"}
    if name in image.worst_case:
        return {"good": True, "text": "stands"}
    falls = min(image.falls_at.get(name, threat), threat, key=Fraction)
    return {"good": None, "text": f"falls at {grey_text(falls)}"}


def _file(metadata: Mapping[str, Any], place: int) -> str | None:
    """The name of the file of the gallery's image there, if it has one."""
    return metadata["files"][place] if "files" in metadata else None


def _named(answer: int, classes: list[str]) -> str:
    # Below 0: the model's logits were not numbers.
    return classes[answer] if answer >= 0 else "no answer"


def data_uri(image: Tensor) -> str:
    """A [C, H, W] image in [0, 1] as a PNG in a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def png(image: Tensor) -> bytes:
    """A [C, H, W] image in [0, 1] as PNG bytes: grey for one channel, the first three as colours else."""
    kept = image[:1] if image.shape[0] < 3 else image[:3]
    pixels = (kept.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    height, width, channels = pixels.shape
    # Bit depth 8, colour type grey or RGB; every row starts with filter 0.
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows, 9)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
