"""What stands beside an exported model: the types, JSON Schema and descriptions of its document."""

from typing import Annotated, Any, Literal

from pydantic import Field

from components.evaluation import document as evaluated
from components.evaluation.latency import Latency
from components.statistics.documents import FORMAT, Document
from components.statistics.outcomes import Count, Number, NumImages, Rate

Logit = Annotated[float, Field(ge=0)]


class ModelFile(Document):
    """A file, and the hash by which it is known."""

    file: str
    """What it was called when it was written."""
    sha256: evaluated.Sha256


class Answers(Document):
    """What original and export answer to the same images."""

    n: NumImages
    same: Count
    """Images that both give the same class; of the worst case, images that both get right or both get wrong."""
    original: Rate
    """Accuracy of the original."""
    export: Rate
    """Accuracy of the export."""


class Agreement(Document):
    """How far the export, run by one program, agrees with the original."""

    largest_difference: Logit
    """Of any logit, on any image."""
    undecided: Count
    """Answers that differ because the original's two largest logits lie as close together as rounding can move them."""
    answers: dict[str, Answers]
    """`clean`, each attack on the original, and `worst_case`: right clean and under all of them."""
    pixels_outside: str
    """What becomes of images outside [0, 1]."""


class Export(Document):
    """An exported model, how it was checked against its original, and how fast it is (docs/deployment.md)."""

    schema_: Annotated[Literal["temper/export/1"], FORMAT]
    format: str
    """The suffix of the file: `safetensors`, `pt2` or `onnx`."""
    export: ModelFile
    source: ModelFile
    """The original."""
    bytes: Number
    """The size of the exported file."""
    num_parameters: evaluated.Parameters
    architecture: dict[str, Any]
    stage: str
    """What trained it."""
    epoch: Count
    classes: evaluated.Classes
    image_shape: tuple[Number, Number, Number]
    """Channels, height, width."""
    normalization: dict[str, Any]
    """What the model does first with pixels in [0, 1]; whoever uses it does not."""
    dataset: evaluated.Dataset
    threat: evaluated.ThreatModel
    attacks: evaluated.Described
    seed: evaluated.Seed
    tolerance: Logit
    """The largest difference of a logit that passes: the format's share of the largest logit, at least of 1."""
    checks: dict[str, Agreement]
    """By the program that ran the file."""
    latency: Latency
    """Of the first of these programs."""
    versions: dict[str, str]
    """Of the packages that wrote and ran the file."""
