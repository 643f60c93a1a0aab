"""What stands in a comparison: the types, JSON Schema and descriptions of its document."""

from typing import Annotated, Literal

from components.evaluation import document as evaluated
from components.statistics.documents import FORMAT, Document
from components.statistics.intervals import Paired
from components.statistics.outcomes import Confidence, Count, Difference, Interval, NumImages, Rate, Share, six_digits


class PairedDifference(Interval[Difference]):
    """Accuracy of B minus accuracy of A on the same images; its interval is Tango's."""

    p: Share
    """Of the exact, two-sided McNemar test."""
    only_a: Count
    """The number of images that A alone gets right."""
    only_b: Count
    """The number of images that B alone gets right."""
    n: NumImages
    p_corrected: Share = 1.0
    """`p` corrected for the number of tests of its kind, after Holm."""


class Detectable(Document):
    """The smallest differences that would be found, as shares of 1."""

    paired: Share
    """On these images, with the share of images seen that one model alone gets right."""
    unpaired: Share
    """With two sets of other images, of this size each."""


class Condition(Document):
    """Accuracy of both models under one condition."""

    answer: str
    """Whether B is better, by how much and how sure, in a sentence."""
    a: Rate
    b: Rate
    difference: PairedDifference
    detectable: Detectable


class ClassComparison(Document):
    """Both worst cases on one class; in their difference, p is corrected for the number of classes."""

    class_: str
    a: Rate
    b: Rate
    difference: PairedDifference


class ComparedSide(Document):
    """One of the two models."""

    title: str
    """Where its evaluation is from."""
    model: str
    file: str
    """The weights."""
    sha256: evaluated.Sha256
    checkpoint: evaluated.CheckpointName
    architecture: evaluated.Architecture
    num_parameters: evaluated.Parameters
    epoch: evaluated.KeptEpoch
    verdict: str
    """The verdict on its evaluation, or `not judged`."""


class Comparison(Document):
    """Whether model B is more robust than model A, by how much and how sure (docs/compare.md)."""

    schema_: Annotated[Literal["temper/comparison/1"], FORMAT]
    answer: str
    """The answer in a sentence: in the worst case, or on clean images where no attack is shared."""
    remarks: list[str]
    """What a reader has to know before believing the answer."""
    dataset: evaluated.Dataset
    threat: evaluated.ThreatModel
    classes: evaluated.Classes
    num_images: NumImages
    confidence: Confidence
    power: Share
    """The share of repetitions in which a detectable difference would be found."""
    a: ComparedSide
    b: ComparedSide
    attacks: evaluated.Described
    """The attacks that both met, with the same settings."""
    cascade: evaluated.Cascade
    """The cascade that both met; its name is `none` where they did not."""
    left_out: dict[str, str]
    """Attack to the reason why it does not count."""
    conditions: dict[str, Condition]
    """`clean`, each shared attack, `cascade` and `worst_case` to the comparison under it."""
    per_class: list[ClassComparison]
    """Both worst cases by class; empty where no attack is shared."""


def paired_difference(found: Paired, **corrected: float) -> PairedDifference:
    """The difference, with `p_corrected` if there is one, as a document holds it: to six digits, of small p, too."""
    numbers = found._asdict() | corrected
    rounded = {key: six_digits(number) if isinstance(number, float) else number for key, number in numbers.items()}
    return PairedDifference.model_validate(rounded)
