"""The document of an evaluation, evaluation.json: what was attacked, how, and what the verdict is judged from."""

from typing import Annotated, Any, Literal

from pydantic import Field

from components.evaluation.advice.document import Teaching
from components.statistics.documents import FORMAT, Document
from components.statistics.outcomes import Count, Epsilon, NumImages

# The files of an evaluation.
DOCUMENT, OUTCOMES, GALLERY = "evaluation.json", "outcomes.safetensors", "gallery.safetensors"

CascadeName = Literal["autoattack", "quick", "custom", "none"]
CheckpointName = Literal["best", "last"]
# Fields that documents share, each with its text.
Dataset = Annotated[str, Field(description="The data set, or the name of the file of images.")]
Classes = Annotated[list[str], Field(description="The names of the classes, in the order of the logits.")]
Described = Annotated[dict[str, str], Field(description="Attacks by name, each with all its settings.")]
Attacks = Annotated[dict[str, str], Field(description="The attacks that ran on every image: name to settings.")]
Epsilons = Annotated[list[Epsilon], Field(description="The sizes of its attacks.")]
Seed = Annotated[int, Field(description="The seed of the attacks' random starts.")]
Sha256 = Annotated[str, Field(description="The SHA-256 of the file, in hex.")]
Parameters = Annotated[Count, Field(description="The number of weights.")]
KeptEpoch = Annotated[Count | None, Field(description="The epoch of these weights; null where it is not known.")]
Architecture = Annotated[
    dict[str, Any] | None, Field(description="As in params.yaml; null or empty where it is not known.")
]
Provenance = Annotated[dict[str, Any], Field(description="Hashes of data and code, the device, versions of packages.")]


class ThreatModel(Document):
    """What the attacker may change."""

    norm: str
    """How the size of a change is measured: a member of `components/threats`, such as `linf`."""
    epsilon: Epsilon
    """The largest change, an exact fraction of the pixel range."""


class ModelFacts(Document):
    """What an evaluation says of a model."""

    file: str
    """The weights: a path, or the reference that was handed over."""
    sha256: Sha256
    checkpoint: CheckpointName
    """Whether this is the selected epoch, or the last one, which meets fewer attacks."""
    of: str
    """The model whose checkpoint this is."""
    architecture: Architecture
    num_parameters: Parameters
    epoch: KeptEpoch
    upstream: dict[str, str]
    """The model files it was made from: name to SHA-256."""


class Cascade(Document):
    """Attacks in order, each only on the images that all before it left standing."""

    name: CascadeName
    """`autoattack` is the standard four with their standard settings, and nothing else is; `quick` its first two."""
    epsilons: list[Epsilon] = Field(default=[])
    """The sizes it ran at besides the threat model's."""
    attacks: Described


class Curve(Document):
    """The attack of the ε curve, which grows."""

    epsilons: Epsilons
    attack: str
    """The attack with its settings; its step grows with its size."""


class AttackGrid(Document):
    """Attacks at several sizes: the tables on label leaking and on one step against many."""

    epsilons: Epsilons
    attacks: Described


class TransferAttacks(Document):
    """The attacks that were shown to the other models too."""

    attacks: Described


class Adversarial(Document):
    """The adversarial images that were kept, each model's worst cases."""

    dtype: Literal["uint8", "float32"]
    """The form in which pixels are kept."""
    files: dict[str, str]
    """Model to file."""


class Passes(Document):
    """Passes of single images through a network."""

    forward: Count
    backward: Count


class Parity(Document):
    """How well a fast search network stands for the exact one, on held-out images."""

    n: NumImages = 1
    agree: Count = 0
    """Clean images on which both give the same class."""
    only_exact: Count = 0
    """Attacked images that the exact network's gradients alone fool."""
    only_search: Count = 0
    """Attacked images that the search network's gradients alone fool."""
    passed: bool
    """Whether the search was used; else float32 took its place."""
    reason: str = ""
    """Why it could not be checked."""


class Precision(Document):
    """What attacks searched in, and what decided."""

    search: str
    """The precision of the search for adversarial images."""
    decision: str
    """The precision in which it is decided whether an image is fooled."""
    compiled: bool
    parity: dict[str, Parity] | None
    """Model to the check of its fast search; null where there was none to check."""


class Evaluation(Document):
    """An evaluation: what was attacked, how, what it cost, and what the verdict is judged from. No clock, no host."""

    schema_: Annotated[Literal["temper/evaluation/2"], FORMAT]
    dataset: Dataset
    files: dict[str, Sha256] = Field(default={})
    """The files beside this document that belong to it, name to SHA-256; absent before version 0.1.1."""
    threat: ThreatModel
    classes: Classes
    num_images: NumImages
    models: dict[str, ModelFacts]
    attacks: Attacks
    cascade: Cascade
    curve: Curve
    grid: AttackGrid
    transfer: TransferAttacks
    seed: Seed
    evidence: dict[str, dict[str, Any]]
    """Selected model to what its verdict is judged from; docs/verdict.md lists the keys, each may be absent."""
    adversarial: Adversarial
    cost: dict[str, dict[str, Passes]]
    """Model to task to its passes over the whole test split."""
    precision: Precision
    training_cost: dict[str, Passes]
    """Model to the passes of its training, as far as they are known."""
    teachers: Teaching | None = Field(default=None)
    """What the student's teachers were found to be like when it was trained; absent without such a student."""
    params: dict[str, Any]
    """What was read from the parameters."""
    provenance: Provenance
