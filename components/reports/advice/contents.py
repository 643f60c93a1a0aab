"""What stands in an advice on teachers: the types, JSON Schema and descriptions of its document."""

from typing import Annotated, Literal

from pydantic import Field

from components.evaluation import document as evaluated
from components.evaluation.advice.document import Measured, MeasureName
from components.statistics.documents import FORMAT, Document
from components.statistics.outcomes import Confidence, Count, Epsilon, Interval, Number, NumImages, Rate, Share


class AgainstFirst(Interval[float]):
    """The mean of this teacher minus that of the first one on the same images, by the paired bootstrap."""

    n: NumImages


class Network(Document):
    """A network: where it is from and what it is."""

    file: str
    """The weights: a path, or the reference that was handed over."""
    sha256: evaluated.Sha256
    architecture: evaluated.Architecture
    num_parameters: evaluated.Parameters
    epoch: evaluated.KeptEpoch


class TeacherAdvice(Network):
    """What was measured of a teacher, and where it stands."""

    place: Number
    """Its place among the teachers, 1 for the best."""
    place_low: Number
    """The best place by worst-case accuracy alone, at the 95 % level."""
    place_high: Number
    """The worst such place."""
    group: Number
    """Teachers of one group cannot be told apart by worst-case accuracy."""
    robust: bool
    """Whether its worst case is better, at the 95 % level, than one answer for every image."""
    measures: dict[MeasureName, Measured]
    against_first: dict[MeasureName, AgainstFirst]
    """Measure to the difference from the teacher in the first place."""


class StudentSeen(Network):
    """A student, or a checkpoint of one, and how it fares."""

    clean: Rate
    """Accuracy without an attack."""
    attacked: Rate
    """Accuracy on its own attacked images."""


class Slope(Interval[float]):
    """By how much the students' worst-case accuracy moves with a measure of their teachers."""


class Calibration(Document):
    """What teachers' measures said of the students that they made, as `benchmarks/teacher_advice.py` finds it."""

    schema_: Annotated[Literal["temper/advice-calibration/1"], FORMAT]
    dataset: evaluated.Dataset
    norm: str
    """The norm of the threat model."""
    epsilon: Epsilon
    method: str
    """The distillation by which the students were made."""
    student: str
    """The students' architecture."""
    confident: Share
    """What an answer's probability was above where it counted as confident."""
    num_teachers: Number
    """The number of teachers, each with the student that it made."""
    slopes: dict[MeasureName, Slope]
    """Measure to its slope in a linear fit with all of these; the interval is a bootstrap's over teachers."""


class _AdviceSchema(Document):
    schema_: Annotated[Literal["temper/advice/1"], FORMAT]


class Advice(_AdviceSchema):
    """Which of several teachers to learn from: what was measured on images that train none of them."""

    confidence: Confidence
    sentences: list[str]
    """The advice in words."""
    dataset: evaluated.Dataset
    num_images: NumImages
    classes: evaluated.Classes
    images_sha256: evaluated.Sha256
    threat: evaluated.ThreatModel
    seed: evaluated.Seed
    crafting: str
    """The attack that makes the adversarial images, with its settings."""
    cascade: evaluated.Described
    """The attacks after it, each on the images that are still right."""
    confident: Share
    """An answer is confident where its probability is above this."""
    decides: MeasureName
    """What decides between teachers of one group; fewer is better."""
    order: list[str]
    """The teachers, the best first."""
    teachers: dict[str, TeacherAdvice]
    students: dict[str, StudentSeen] = Field(default={})
    """The first one is attacked and meets the teachers' images; all show which images are unlearnable."""
    unlearnable: Count | None = Field(default=None)
    """The number of images that no student had right under attack; null without a student."""
    calibration: Calibration | None = Field(default=None)
    provenance: evaluated.Provenance
