"""What stands in a study's results, and in the plan they are made from: types, JSON Schema and descriptions."""

from typing import Any, Literal

from components.evaluation.document import Cascade, Described, Passes, ThreatModel
from components.reports.comparison.contents import PairedDifference
from components.reports.robustness.contents import Leak, Transfer
from components.statistics.documents import Document
from components.statistics.outcomes import Count, Number, Rate, RateAt, Share

Checkpoint = Literal["best", "last"]
FigureName = Literal["curves", "capacity", "points"]


class StudyRun(Document):
    """One arm with one seed, as the plan has it."""

    name: str
    """The arm with its variant."""
    arm: str
    """The arm."""
    variant: str
    """What it is combined with; empty for nothing."""
    seed: int
    """The seed of everything."""
    trained: str
    """The folder of its training."""
    evaluated: str
    """The folder of its evaluation."""
    seconds: float
    """The time of its training, in seconds."""
    code: str
    """What the code of its training is told apart by."""
    section: dict[str, Any]
    """The section of its training stage."""


class StudyPlan(Document):
    """What table and figure are made from, as `temper study` writes it."""

    study: str
    """The name of the study."""
    scale: str
    """The size it ran at."""
    question: str
    """What it asks."""
    claim: str
    """What is expected."""
    role: str
    """The model that is trained and measured."""
    robust: str
    """The condition that decides."""
    figure: FigureName
    """What is drawn."""
    transfer: Checkpoint | None
    """The checkpoints that met what was made for the other arms; null for none."""
    pairs: list[list[str]]
    """Arms A and B to compare."""
    runs: list[StudyRun]
    """The finished runs, in the order of the arms."""
    transfers: dict[str, str]
    """Seed to the folder of an evaluation in which all arms met."""


class SeedMean(Document):
    """The mean of a share over seeds."""

    mean: float
    """The mean."""
    deviation: float | None = None
    """The sample standard deviation; absent for one seed."""
    low: float | None = None
    """The lower bound of Student's 95 % interval of the mean; absent for one seed."""
    high: float | None = None
    """The upper bound; absent for one seed."""
    n: Number
    """The number of seeds."""


class ShortVerdict(Document):
    """A verdict without its checks."""

    status: Literal["trusted", "suspect", "broken"]
    """Whether the numbers can be believed."""
    reasons: list[str]
    """The rules because of which they are not trusted."""


class SentinelEvent(Document):
    """An alarm of the overfitting sentinel, or its end."""

    epoch: int | float
    """When, in epochs."""
    rules: list[str]
    """The rules that gave it."""
    action: str
    """What was done."""
    line: str
    """The same in words."""


class LeadTime(Document):
    """How early a rule was in a run."""

    first: int | float | None
    """The epoch of its first alarm; null for none."""
    lead: int | float | None
    """Epochs between that and the collapse, positive if early; null without one of the two."""
    false_alarms: Count
    """The number of its alarms in a run that did not collapse."""


class Sentinel(Document):
    """What the overfitting sentinel did in a run."""

    events: list[SentinelEvent]
    """Its alarms in order."""
    leads: dict[str, LeadTime]
    """Rule to how early it was."""


class CurvePoint(Document):
    """Validation accuracy after an epoch."""

    epoch: Count
    """The epoch; 0 is the untrained model."""
    clean_accuracy: Share
    """Accuracy on held-out training images."""
    robust_accuracy: Share
    """The same under the validation attack."""


class SeedResult(Document):
    """One arm with one seed."""

    best: dict[str, Rate]
    """Condition to accuracy of the selected epoch."""
    last: dict[str, Rate]
    """Condition to accuracy of the last epoch."""
    verdict: dict[Checkpoint, ShortVerdict]
    """Checkpoint to the verdict on its evaluation."""
    grid: dict[Checkpoint, dict[str, list[RateAt]]]
    """Checkpoint to attack of the grid to accuracy by size."""
    label_leak: dict[Checkpoint, list[Leak]]
    """Checkpoint to what FGSM with the true label tells it, by size."""
    epochs: dict[Checkpoint, Count]
    """Checkpoint to its epoch."""
    collapsed: bool
    """Whether the last epoch's accuracy under the deciding attack is below half of the selected one's."""
    collapse_epoch: Count | None
    """The first epoch at which validation accuracy under attack is below half of its best before; null for none."""
    sentinel: Sentinel | None
    """What the overfitting sentinel did; null where nothing was watched."""
    passes: Passes
    """Passes of single images in training."""
    num_parameters: Count
    """The number of weights."""
    seconds: float
    """The time of the training, in seconds."""
    code: str
    """What the code of the training is told apart by."""
    curve: list[CurvePoint]
    """Validation accuracy by epoch."""

    def at(self, checkpoint: Checkpoint) -> dict[str, Rate]:
        """Condition to accuracy of a checkpoint."""
        return self.best if checkpoint == "best" else self.last


class Arm(Document):
    """One arm with all its seeds."""

    arm: str
    """The arm without its variant."""
    variant: str
    """What it is combined with; empty for nothing."""
    section: dict[str, Any]
    """The section of its training stage."""
    seeds: dict[str, SeedResult]
    """Seed to its result."""
    over_seeds: dict[Checkpoint, dict[str, SeedMean]]
    """Checkpoint to condition to the mean over the seeds."""


class Pair(Document):
    """Two arms under one condition."""

    a: str
    """Arm A."""
    b: str
    """Arm B."""
    checkpoint: Checkpoint
    """Which checkpoint of both."""
    condition: str
    """`clean`, or the deciding attack."""
    seeds: dict[str, PairedDifference]
    """Seed to B minus A on the same images; p corrected over seeds and pairs of this checkpoint and condition."""
    over_seeds: SeedMean
    """The mean of the differences over the seeds."""


class Study(Document):
    """What a study found: every arm with every seed, means over the seeds, and paired differences between arms."""

    schema_: Literal["temper/study/1"]
    """The name of this format; a change that could break a reader raises its number."""
    study: str
    """The name of the study."""
    scale: str
    """The size it ran at."""
    question: str
    """What it asks."""
    claim: str
    """What was expected."""
    role: str
    """The model that is trained and measured."""
    robust: str
    """The condition that decides."""
    figure: FigureName
    """What is drawn."""
    transfer: Checkpoint | None
    """The checkpoints that met what was made for the other arms; null for none."""
    confidence: Share
    """The level of the intervals."""
    dataset: str
    """The data set."""
    threat: ThreatModel
    """What the attacker may change."""
    num_images: Number
    """The number of test images."""
    attacks: Described
    """The attacks that ran on every image: name to settings."""
    cascade: Cascade
    """The attacks that ran on the images still standing."""
    arms: dict[str, Arm]
    """Arm with its variant to its results."""
    pairs: list[Pair]
    """Differences between arms."""
    transfers: dict[str, Transfer]
    """Seed to what attacks made for one arm do to another."""
    provenance: dict[str, Any]
    """The device, and versions of the packages."""
