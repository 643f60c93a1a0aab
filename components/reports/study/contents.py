"""What stands in a study's results, and in the plan they are made from: types, JSON Schema and descriptions."""

from typing import Annotated, Any, Literal

from pydantic import Field

from components.evaluation import document as evaluated
from components.evaluation.verdict.rules import ShortVerdict
from components.reports.comparison.contents import PairedDifference
from components.reports.robustness.contents import Leak, Transfer
from components.statistics.documents import FORMAT, Document
from components.statistics.outcomes import (
    Confidence,
    Count,
    Difference,
    Interval,
    Number,
    NumImages,
    Rate,
    RateAt,
    Share,
)

FigureName = Literal["curves", "capacity", "points", "plane"]
ArmName = Annotated[str, Field(description="The arm without its variant.")]
Variant = Annotated[str, Field(description="What it is combined with; empty for nothing.")]
Section = Annotated[dict[str, Any], Field(description="The section of its training stage.")]
Seconds = Annotated[float, Field(description="The time of its training, in seconds.")]
Code = Annotated[str, Field(description="What the code of its training is told apart by.")]


class StudyQuestion(Document):
    """What is asked, what is expected, of what, and what is drawn."""

    study: str
    scale: str
    """The size it ran at."""
    question: str
    claim: str
    role: str
    """The model that is trained and measured."""
    robust: str
    """The condition that decides."""
    figure: FigureName
    transfer: evaluated.CheckpointName | None
    """The checkpoints that met what was made for the other arms; null for none."""


class StudyRun(Document):
    """One arm with one seed, as the plan has it."""

    name: str
    """The arm with its variant."""
    arm: ArmName
    variant: Variant
    role: str
    """The model that is trained and measured."""
    seed: int
    """The seed of everything."""
    trained: str
    """The folder of its training."""
    evaluated: str
    """The folder of its evaluation."""
    seconds: Seconds
    code: Code
    section: Section


class StudyPlan(StudyQuestion):
    """What table and figure are made from, as `temper study` writes it."""

    pairs: list[list[str]]
    """Arms A and B to compare."""
    runs: list[StudyRun]
    """The finished runs, in the order of the arms."""
    transfers: dict[str, str]
    """Seed to the folder of an evaluation in which all arms met."""


class SeedMean(Document):
    """The mean of a share over `n` seeds with Student's 95 % interval of it; of one seed there is the mean alone."""

    mean: float
    deviation: float | None = None
    """The sample standard deviation."""
    low: float | None = None
    high: float | None = None
    n: Number


class SentinelEvent(Document):
    """An alarm of the overfitting sentinel, or its end: when, by which rules, and what was done."""

    epoch: int | float
    rules: list[str]
    action: str
    line: str
    """All of it in words."""


class LeadTime(Document):
    """How early a rule was in a run."""

    first: int | float | None
    """The epoch of its first alarm; null for none."""
    lead: int | float | None
    """Epochs between that and the collapse, positive if early; null without one of the two."""
    false_alarms: Count
    """The number of its alarms in a run that did not collapse."""


class SentinelRecord(Document):
    """What the overfitting sentinel did in a run."""

    events: list[SentinelEvent]
    leads: dict[str, LeadTime]
    """Rule to how early it was."""


class CurvePoint(Document):
    """Validation accuracy after an epoch; epoch 0 is the untrained model."""

    epoch: Count
    clean_accuracy: Share
    """Accuracy on held-out training images."""
    robust_accuracy: Share
    """The same under the validation attack."""
    balance: dict[str, float] = Field(default_factory=dict)
    """Of a student with a balance between two teachers: temperatures and weights of both sides."""


class SeedResult(Document):
    """One arm with one seed."""

    best: dict[str, Rate]
    """Condition to accuracy of the selected epoch."""
    last: dict[str, Rate]
    """Condition to accuracy of the last epoch."""
    verdict: dict[evaluated.CheckpointName, ShortVerdict]
    """Checkpoint to the verdict on its evaluation."""
    grid: dict[evaluated.CheckpointName, dict[str, list[RateAt]]]
    """Checkpoint to attack of the grid to accuracy by size."""
    label_leak: dict[evaluated.CheckpointName, list[Leak]]
    epochs: dict[evaluated.CheckpointName, Count]
    """Checkpoint to its epoch."""
    collapsed: bool
    """Whether the last epoch's accuracy under the deciding attack is below half of the selected one's."""
    collapse_epoch: Count | None
    """The first epoch at which validation accuracy under attack is below half of its best before; null for none."""
    sentinel: SentinelRecord | None
    """What the overfitting sentinel did; null where nothing was watched."""
    passes: evaluated.Passes
    num_parameters: evaluated.Parameters
    seconds: Seconds
    code: Code
    curve: list[CurvePoint]
    """Validation accuracy by epoch."""

    def at(self, checkpoint: evaluated.CheckpointName) -> dict[str, Rate]:
        """Condition to accuracy of a checkpoint."""
        return self.best if checkpoint == "best" else self.last


class ArmResult(Document):
    """One arm with all its seeds."""

    arm: ArmName
    variant: Variant
    section: Section
    seeds: dict[str, SeedResult]
    """Seed to its result."""
    over_seeds: dict[evaluated.CheckpointName, dict[str, SeedMean]]
    """Checkpoint to condition to the mean over the seeds."""


class PairResult(Document):
    """Two arms under one condition."""

    a: str
    b: str
    checkpoint: evaluated.CheckpointName
    condition: str
    """`clean`, or the deciding attack."""
    seeds: dict[str, PairedDifference]
    """Seed to B minus A on the same images; p corrected over seeds and pairs of this checkpoint and condition."""
    over_seeds: SeedMean


class TradeOff(Interval[Difference]):
    """W-Robust of B minus that of A over `n` images; the interval is the normal one of a mean of paired differences."""

    n: NumImages


class TradeOffPair(Document):
    """Two arms in W-Robust, the mean of clean accuracy and accuracy under the deciding condition."""

    a: str
    b: str
    checkpoint: evaluated.CheckpointName
    seeds: dict[str, TradeOff]
    """Seed to the difference on the same images."""
    over_seeds: SeedMean


class _StudySchema(Document):
    schema_: Annotated[Literal["temper/study/1"], FORMAT]


class Study(StudyQuestion, _StudySchema):
    """What a study found: every arm with every seed, means over the seeds, and paired differences between arms."""

    confidence: Confidence
    dataset: evaluated.Dataset
    threat: evaluated.ThreatModel
    num_images: NumImages
    attacks: evaluated.Attacks
    cascade: evaluated.Cascade
    arms: dict[str, ArmResult]
    """Arm with its variant to its results."""
    pairs: list[PairResult]
    trade_offs: list[TradeOffPair] = Field(default_factory=list)
    """The same pairs in W-Robust, in a study of students."""
    transfers: dict[str, Transfer]
    """Seed to what attacks made for one arm do to another."""
    provenance: dict[str, Any]
    """The device, and versions of the packages."""
