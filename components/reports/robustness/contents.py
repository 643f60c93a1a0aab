"""What stands in reports/robustness.json: the types, JSON Schema and descriptions of the report's document."""

from typing import Annotated, Any, Literal

from pydantic import Field

from components.evaluation import document as evaluated
from components.evaluation.advice.document import Teaching
from components.evaluation.criteria import Condition, Decision
from components.evaluation.verdict.rules import Verdict
from components.statistics.class_balance import BalancedRate
from components.statistics.documents import FORMAT, Document
from components.statistics.outcomes import (
    AtEpsilon,
    Confidence,
    Count,
    Difference,
    Hardest,
    Interval,
    MeanRate,
    NumImages,
    Rate,
    RateAt,
    Share,
)

Rates = dict[str, dict[str, Rate]]
"""Source to target to a rate."""
Clean = Annotated[Rate, Field(description="Accuracy without an attack.")]
Robust = Annotated[Rate | None, Field(description="Right clean and under every (shared) attack; null without one.")]


class _Attack(Document):
    attack: str


class CascadeStep(Rate, _Attack):
    """What still stands after this attack of the cascade and all before it."""


class WorstCase(Rate):
    """The share of images that are right clean and under every attack."""

    attacks: list[str]
    """The attacks it is the worst of, image by image."""
    cascade: evaluated.CascadeName | None
    """The cascade that counts too; null where none ran."""


class _Versus(Document):
    versus: str
    """The condition that is subtracted."""


class Change(Interval[Difference], _Versus):
    """Accuracy under FGSM with the true label minus accuracy under `versus`, on the same images."""

    n: NumImages


class Leak(AtEpsilon):
    """What FGSM with the true label tells a model, at one size."""

    leak: Change
    """Against clean images: above 0, the attack tells the model the answer."""
    gap: Change | None
    """Against the lowest of the other one-step attacks; null where none ran."""
    mask: Change | None
    """Against the lowest of the iterative attacks: a large one is gradient masking; null where none ran."""


class ClassRates(Document):
    """One class of the test images."""

    class_: str
    clean: Clean
    worst_case: Robust


class ModelReport(evaluated.ModelFacts):
    """What became of one model."""

    clean: Clean
    attacks: dict[str, Rate]
    """Attack to accuracy under it, on every image."""
    cascade: list[CascadeStep]
    """What stands after each attack of the cascade, in order; empty for a last checkpoint."""
    cascade_curve: list[RateAt]
    """What stands after the whole cascade by size, rising; empty where it ran at one size only."""
    worst_case: WorstCase | None
    """Right clean and under every attack, image by image; null without attacks."""
    balanced_worst_case: BalancedRate | None = Field(default=None)
    """The same with every class counted alike; null without attacks."""
    w_robust: dict[str, MeanRate]
    """Attack, and `worst_case`, to the mean of that accuracy and clean accuracy."""
    per_class: list[ClassRates]
    """The classes that have test images."""
    curve: list[RateAt]
    """Accuracy as the attack of the ε curve grows."""
    grid: dict[str, list[RateAt]]
    """Attack of the grid to accuracy under it by size."""
    label_leak: list[Leak]
    cost: dict[str, evaluated.Passes]
    """Task to its passes over the whole test split."""
    training_cost: evaluated.Passes | None
    """The passes of its training; null where they are not known."""


class AgainstTeacher(Interval[Difference]):
    """Accuracy of the model that the report is about minus a teacher's, on the same images."""

    teacher: str
    """The teacher: that of the criteria, or else the best one."""
    p: Share
    """Of the exact, two-sided McNemar test."""
    n: NumImages


class Transfer(Document):
    """What attacks made for one model do to another."""

    attacks: evaluated.Described
    accuracy: dict[str, Rates]
    """Attack to source to target: the target's accuracy on what was made for the source."""
    fooling: dict[str, dict[str, dict[str, Rate | None]]]
    """The same of the share of images fooling the source that fool the target too; null where none fool the source."""


class SizedModel(Document):
    """A model among others of its architecture."""

    model: str
    width: dict[str, Any]
    """The fields of the architecture that set its size."""
    num_parameters: evaluated.Parameters
    clean: Clean
    worst_case: Robust


class Capacity(Document):
    """An architecture of which several sizes were evaluated."""

    architecture: str
    models: list[SizedModel]
    """Its models by number of parameters, rising."""


class CheckpointRates(Document):
    """One of two checkpoints, under the attacks that both were given."""

    epoch: evaluated.KeptEpoch
    clean: Clean
    worst_case: Robust


class BestVersusLast(Document):
    """Both checkpoints of one training, the selected epoch and the last one."""

    attacks: list[str]
    """The attacks that both were given."""
    best: CheckpointRates
    last: CheckpointRates


class Training(Document):
    """How a model was trained."""

    file: str
    """Its curves file."""
    sha256: evaluated.Sha256
    epochs: Count
    """The number of rows of that file, one per epoch."""
    alarms: list[str] = Field(default=[])
    """What the overfitting sentinel said and did, in order."""


class Report(Document):
    """The robustness of the models of one evaluation, and whether it can be believed (docs/report-schema.md)."""

    schema_: Annotated[Literal["temper/robustness/2"], FORMAT]
    decision: Decision | None = Field(default=None)
    """Whether the model may go live; null where no criteria were written down."""
    against: dict[Condition, AgainstTeacher] = Field(default={})
    """`clean` and `worst_case` to what the model has gained or lost against its teachers."""
    verdict: dict[str, Verdict]
    """Selected model to the verdict on its evidence; a model without evidence is not judged."""
    dataset: evaluated.Dataset
    threat: evaluated.ThreatModel
    classes: evaluated.Classes
    num_images: NumImages
    precision: evaluated.Precision
    seed: evaluated.Seed
    adversarial: evaluated.Adversarial
    attacks: evaluated.Attacks
    cascade: evaluated.Cascade
    confidence: Confidence
    models: dict[str, ModelReport]
    """The models by name; `student_last` is the last checkpoint of `student`."""
    curve: evaluated.Curve
    grid: evaluated.AttackGrid
    transfer: Transfer
    capacity: list[Capacity]
    hardest: Hardest | None
    """The images that survive the fewest attacks; null where nothing was attacked."""
    best_versus_last: dict[str, BestVersusLast]
    training: dict[str, Training]
    teachers: Teaching | None = Field(default=None)
    """What the student's teachers are like, on validation images; absent where no student was distilled."""
    data: dict[str, Any]
    """The content of metrics/data.json, or what is known of the images."""
    params: dict[str, Any]
    """Every parameter of the run."""
    provenance: evaluated.Provenance
