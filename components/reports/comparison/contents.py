"""What stands in a comparison: the types, JSON Schema and descriptions of its document, and what it reads of others."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from components.evaluation.document import Cascade, Described, ThreatModel
from components.statistics.documents import Document
from components.statistics.intervals import Paired
from components.statistics.outcomes import Count, Difference, Interval, Number, Rate, Share, six_digits


class ComparedModel(Document):
    """What a comparison reads of a model in evaluation.json."""

    model_config = ConfigDict(extra="ignore")

    sha256: str
    """The SHA-256 of the file, in hex."""
    checkpoint: str
    """`best` or `last`."""
    file: str | None = None
    """The weights."""
    architecture: dict[str, Any] | None = None
    """The architecture as in params.yaml."""
    num_parameters: Count | None = None
    """The number of weights."""
    epoch: Count | None = None
    """The epoch after which the weights were kept."""


class ComparedEvaluation(Document):
    """What a comparison reads of evaluation.json, also of the first format, which knew no cascade."""

    model_config = ConfigDict(extra="ignore")

    schema_: Literal["temper/evaluation/1", "temper/evaluation/2"]
    """The name of the format."""
    dataset: str
    """The data set."""
    threat: ThreatModel
    """What the attacker may change."""
    classes: list[str]
    """The names of the classes."""
    num_images: Number
    """The number of test images."""
    models: dict[str, ComparedModel]
    """The models by name."""
    attacks: Described
    """The attacks that ran on every image: name to settings."""
    cascade: Cascade = Field(default=Cascade(name="none", attacks={}))
    """The attacks that ran on the images still standing."""
    seed: int
    """The seed of the attacks' random starts."""
    evidence: dict[str, dict[str, Any]] = Field(default={})
    """Model to what its verdict is judged from."""
    provenance: dict[str, Any] = Field(default={})
    """Hashes of data and code."""


class PairedDifference(Interval):
    """Accuracy of B minus accuracy of A on the same images."""

    value: Difference
    """The difference; times 100 it is points."""
    low: Difference
    """The lower bound of its 95 % interval (Tango's)."""
    high: Difference
    """The upper bound."""
    p: Share
    """Of the exact, two-sided McNemar test."""
    only_a: Count
    """The number of images that A alone gets right."""
    only_b: Count
    """The number of images that B alone gets right."""
    n: Number
    """The number of images."""
    p_corrected: Share = 1.0
    """`p` corrected for the number of tests of its kind, after Holm."""


class Detectable(Document):
    """The smallest differences that would be found, as shares of 1."""

    paired: Share
    """On these images, with the share of images seen that one model alone gets right."""
    unpaired: Share
    """With two sets of other images, of this size each."""


class Condition(Document):
    """Both models under one condition."""

    answer: str
    """Whether B is better, by how much and how sure, in a sentence."""
    a: Rate
    """Accuracy of A."""
    b: Rate
    """Accuracy of B."""
    difference: PairedDifference
    """B minus A."""
    detectable: Detectable
    """What would be found."""


class ClassComparison(Document):
    """Both worst cases on one class."""

    class_: str
    """Its name."""
    a: Rate
    """Worst case of A."""
    b: Rate
    """Worst case of B."""
    difference: PairedDifference
    """B minus A, with p corrected for the number of classes."""


class ComparedSide(Document):
    """One of the two models."""

    title: str
    """Where its evaluation is from."""
    model: str
    """Its name there."""
    file: str | None
    """The weights; null where that is not known."""
    sha256: str
    """The SHA-256 of the file, in hex."""
    checkpoint: str
    """`best` or `last`."""
    architecture: dict[str, Any] | None
    """The architecture as in params.yaml; null where it is not known."""
    num_parameters: Count | None
    """The number of weights; null where it is not known."""
    epoch: Count | None
    """The epoch after which the weights were kept; null where it is not known."""
    verdict: str
    """The verdict on its evaluation, or `not judged`."""


class Comparison(Document):
    """Whether model B is more robust than model A, by how much and how sure (docs/compare.md)."""

    schema_: Literal["temper/comparison/1"]
    """The name of this format; a change that could break a reader raises its number."""
    answer: str
    """The answer in a sentence: in the worst case, or on clean images where no attack is shared."""
    remarks: list[str]
    """What a reader has to know before believing the answer."""
    dataset: str
    """The data set."""
    threat: ThreatModel
    """What the attacker may change."""
    classes: list[str]
    """The names of the classes."""
    num_images: Number
    """The number of test images."""
    confidence: Share
    """The level of the intervals."""
    power: Share
    """The share of repetitions in which a detectable difference would be found."""
    a: ComparedSide
    """Model A."""
    b: ComparedSide
    """Model B."""
    attacks: Described
    """The attacks that both met, with the same settings."""
    cascade: Cascade
    """The cascade that both met; its name is `none` where they did not."""
    left_out: dict[str, str]
    """Attack to the reason why it does not count."""
    conditions: dict[str, Condition]
    """`clean`, each shared attack, `cascade` and `worst_case` to the comparison under it."""
    per_class: list[ClassComparison]
    """Both worst cases by class; empty where no attack is shared."""


def paired_difference(found: Paired, p_corrected: float | None = None) -> PairedDifference:
    """The difference as a document holds it: to six digits, which small p values keep too."""
    value, low, high, p = map(six_digits, (found.value, found.low, found.high, found.p))
    difference = PairedDifference(
        value=value, low=low, high=high, p=p, only_a=found.only_a, only_b=found.only_b, n=found.n
    )
    return difference if p_corrected is None else difference.model_copy(update={"p_corrected": six_digits(p_corrected)})
