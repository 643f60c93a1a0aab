"""What documents hold of the measures of teachers: their names, the types, JSON Schema and descriptions."""

from typing import Literal

from components.statistics.documents import Document
from components.statistics.outcomes import Count, Interval, NumImages, Share

OwnMeasure = Literal[
    "clean", "worst_case", "entropy_clean", "entropy_adversarial", "confident_clean", "confident_adversarial"
]
StudentMeasure = Literal["confident_student", "tas", "to_student", "to_teacher", "entropy_unlearnable"]
MeasureName = Literal[OwnMeasure, StudentMeasure]

ENTROPIES = ("entropy_clean", "entropy_adversarial", "entropy_unlearnable")
"""What is in nats. All others are shares of images."""


class Measured(Interval[float]):
    """A mean over `n` images: a share of them, or an entropy in nats."""

    n: NumImages


class RoleMeasured(Document):
    """Who teaches in a role, and what was measured of them."""

    teachers: list[str]
    """The teachers by name; where there are several, their probabilities are averaged."""
    measures: dict[MeasureName, Measured]


class Teaching(Document):
    """What a student's teachers are like, and how they and that student stand to each other, on validation images."""

    num_images: NumImages
    crafting: str
    """The attack that makes the adversarial images, with its settings."""
    cascade: dict[str, str]
    """The attacks after it, each on the images that are still right: name to settings."""
    confident: Share
    """An answer is confident where its probability is above this."""
    unlearnable: Count
    """The number of images that the student has wrong on its own adversarial version."""
    roles: dict[str, RoleMeasured]
