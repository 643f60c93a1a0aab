"""What stands in reports/robustness.json: the types, JSON Schema and descriptions of the report's document."""

from typing import Any, Literal

from pydantic import Field

from components.evaluation.document import (
    Adversarial,
    Cascade,
    CascadeName,
    Curve,
    Described,
    Grid,
    ModelFacts,
    Passes,
    Precision,
    ThreatModel,
)
from components.evaluation.verdict.rules import Verdict
from components.statistics.documents import Document
from components.statistics.outcomes import (
    AtEpsilon,
    Count,
    Difference,
    Hardest,
    Interval,
    Mean,
    Number,
    Rate,
    RateAt,
    Share,
)

Rates = dict[str, dict[str, Rate]]
"""Source to target to a rate."""


class _Attack(Document):
    attack: str
    """The attack."""


class Step(Rate, _Attack):
    """What still stands after this attack of the cascade and all before it."""


class WorstCase(Rate):
    """The share of images that are right clean and under every attack."""

    attacks: list[str]
    """The attacks it is the worst of, image by image."""
    cascade: CascadeName | None
    """The cascade that counts too; null where none ran."""


class _Versus(Document):
    versus: str
    """The condition that is subtracted."""


class Change(Interval, _Versus):
    """Accuracy under FGSM with the true label minus accuracy under `versus`, on the same images."""

    value: Difference
    """The difference; times 100 it is points."""
    low: Difference
    """The lower bound of its paired 95 % interval."""
    high: Difference
    """The upper bound."""
    n: Number
    """How many images there are."""


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
    """Its name."""
    clean: Rate
    """Accuracy on its images."""
    worst_case: Rate | None
    """The share of its images that are right clean and under every attack; null without attacks."""


class ModelReport(ModelFacts):
    """What became of one model."""

    clean: Rate
    """Accuracy without an attack."""
    attacks: dict[str, Rate]
    """Attack to accuracy under it, on every image."""
    cascade: list[Step]
    """What stands after each attack of the cascade, in order; empty for a last checkpoint."""
    cascade_curve: list[RateAt]
    """What stands after the whole cascade by size, rising; empty where it ran at one size only."""
    worst_case: WorstCase | None
    """Right clean and under every attack, image by image; null without attacks."""
    w_robust: dict[str, Mean]
    """Attack, and `worst_case`, to the mean of that accuracy and clean accuracy."""
    per_class: list[ClassRates]
    """The classes that have test images."""
    curve: list[RateAt]
    """Accuracy as the attack of the ε curve grows."""
    grid: dict[str, list[RateAt]]
    """Attack of the grid to accuracy under it by size."""
    label_leak: list[Leak]
    """What FGSM with the true label tells the model, by size."""
    cost: dict[str, Passes]
    """Task to its passes over the whole test split."""
    training_cost: Passes | None
    """The passes of its training; null where they are not known."""


class Transfer(Document):
    """What attacks made for one model do to another."""

    attacks: Described
    """The attacks: name to settings."""
    accuracy: dict[str, Rates]
    """Attack to source to target: the target's accuracy on what was made for the source."""
    fooling: dict[str, dict[str, dict[str, Rate | None]]]
    """The same of the share of images fooling the source that fool the target too; null where none fool the source."""


class Sized(Document):
    """A model among others of its architecture."""

    model: str
    """Its name."""
    width: dict[str, Any]
    """The fields of the architecture that set its size."""
    num_parameters: Count
    """The number of weights."""
    clean: Rate
    """Accuracy without an attack."""
    worst_case: Rate | None
    """The share of images right clean and under every attack; null without attacks."""


class Capacity(Document):
    """An architecture of which several sizes were evaluated."""

    architecture: str
    """Its name."""
    models: list[Sized]
    """Its models by number of parameters, rising."""


class Checkpoint(Document):
    """One of two checkpoints, under the attacks that both were given."""

    epoch: Count | None
    """The epoch after which the weights were kept; null where it is not known."""
    clean: Rate
    """Accuracy without an attack."""
    worst_case: Rate | None
    """The share of images right clean and under every shared attack; null where none is shared."""


class BestVersusLast(Document):
    """Both checkpoints of one training."""

    attacks: list[str]
    """The attacks that both were given."""
    best: Checkpoint
    """The selected epoch."""
    last: Checkpoint
    """The last epoch."""


class Training(Document):
    """How a model was trained."""

    file: str
    """Its curves file."""
    sha256: str
    """The SHA-256 of that file, in hex."""
    epochs: Count
    """The number of rows of that file, one per epoch."""
    alarms: list[str] = Field(default=[])
    """What the overfitting sentinel said and did, in order."""


class Report(Document):
    """The robustness of the models of one evaluation, and whether it can be believed (docs/report-schema.md)."""

    schema_: Literal["temper/robustness/2"]
    """The name of this format; a change that could break a reader raises its number."""
    verdict: dict[str, Verdict]
    """Selected model to the verdict on its evidence; a model without evidence is not judged."""
    dataset: str
    """The data set, or the name of the file of images."""
    threat: ThreatModel
    """What the attacker may change."""
    classes: list[str]
    """The names of the classes, in the order of the logits."""
    num_images: Number
    """The number of test images."""
    precision: Precision
    """What attacks searched in, and what decided."""
    seed: int
    """The seed of the attacks' random starts."""
    adversarial: Adversarial
    """The adversarial images that were kept."""
    attacks: Described
    """The attacks that ran on every image: name to settings."""
    cascade: Cascade
    """The attacks that ran on the images still standing."""
    confidence: Share
    """The level of the intervals."""
    models: dict[str, ModelReport]
    """The models by name; `student_last` is the last checkpoint of `student`."""
    curve: Curve
    """The attack of the ε curve."""
    grid: Grid
    """The attacks of the tables on label leaking and on one step against many."""
    transfer: Transfer
    """What attacks made for one model do to another."""
    capacity: list[Capacity]
    """The architectures of which several sizes were evaluated."""
    hardest: Hardest | None
    """The images that survive the fewest attacks; null where nothing was attacked."""
    best_versus_last: dict[str, BestVersusLast]
    """Model to both checkpoints of its training."""
    training: dict[str, Training]
    """Model to how it was trained."""
    data: dict[str, Any]
    """The content of metrics/data.json, or what is known of the images."""
    params: dict[str, Any]
    """Every parameter of the run."""
    provenance: dict[str, Any]
    """Hashes of data and code, the device, versions of the packages."""
