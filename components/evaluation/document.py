"""The document of an evaluation, evaluation.json: what was attacked, how, and what the verdict is judged from."""

from typing import Any, Literal

from pydantic import Field

from components.statistics.documents import Document
from components.statistics.outcomes import Count, Epsilon, Number

CascadeName = Literal["autoattack", "quick", "custom", "none"]
Described = dict[str, str]
"""Attacks by name, each with all its settings."""


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
    sha256: str
    """The SHA-256 of the file, in hex."""
    checkpoint: Literal["best", "last"]
    """Whether this is the selected epoch, or the last one, which meets fewer attacks."""
    of: str
    """The model whose checkpoint this is."""
    architecture: dict[str, Any] | None
    """The architecture as in params.yaml; null or empty where it is not known."""
    num_parameters: Count
    """The number of weights."""
    epoch: Count | None
    """The epoch after which the weights were kept; null where it is not known."""
    upstream: dict[str, str]
    """The model files it was made from: name to SHA-256."""


class Cascade(Document):
    """Attacks in order, each only on the images that all before it left standing."""

    name: CascadeName
    """`autoattack` is the standard four with their standard settings, and nothing else is; `quick` its first two."""
    epsilons: list[Epsilon] = Field(default=[])
    """The sizes it ran at besides the threat model's."""
    attacks: Described
    """Its attacks in order: name to settings."""


class Curve(Document):
    """An attack that grows."""

    epsilons: list[Epsilon]
    """The sizes, exact fractions of the pixel range."""
    attack: str
    """The attack with its settings; its step grows with its size."""


class Grid(Document):
    """Several attacks at several sizes."""

    epsilons: list[Epsilon]
    """The sizes, exact fractions of the pixel range."""
    attacks: Described
    """The attacks: name to settings."""


class TransferAttacks(Document):
    """What was shown to other models too."""

    attacks: Described
    """The attacks: name to settings."""


class Adversarial(Document):
    """The adversarial images that were kept, each model's worst cases."""

    dtype: Literal["uint8", "float32"]
    """The form in which pixels are kept."""
    files: dict[str, str]
    """Model to file."""


class Passes(Document):
    """Passes of single images through a network."""

    forward: Count
    """Forward passes, one per image."""
    backward: Count
    """Backward passes, one per image."""


class Parity(Document):
    """How well a fast search network stands for the exact one, on held-out images."""

    n: Number = 1
    """The number of held-out images."""
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
    """Whether the search network was compiled."""
    parity: dict[str, Parity] | None
    """Model to the check of its fast search; null where there was none to check."""


class Evaluation(Document):
    """An evaluation: what was attacked, how, what it cost, and what the verdict is judged from. No clock, no host."""

    schema_: Literal["temper/evaluation/2"]
    """The name of this format; a change that could break a reader raises its number."""
    dataset: str
    """The data set, or the name of the file of images."""
    threat: ThreatModel
    """What the attacker may change."""
    classes: list[str]
    """The names of the classes, in the order of the logits."""
    num_images: Number
    """The number of test images."""
    models: dict[str, ModelFacts]
    """The models by name."""
    attacks: Described
    """The attacks that ran on every image: name to settings."""
    cascade: Cascade
    """The attacks that ran on the images still standing."""
    curve: Curve
    """The attack of the ε curve."""
    grid: Grid
    """The attacks of the tables on label leaking and on one step against many."""
    transfer: TransferAttacks
    """The attacks that were shown to the other models too."""
    seed: int
    """The seed of the attacks' random starts."""
    evidence: dict[str, dict[str, Any]]
    """Selected model to what its verdict is judged from; docs/verdict.md lists the keys, each may be absent."""
    adversarial: Adversarial
    """The adversarial images that were kept."""
    cost: dict[str, dict[str, Passes]]
    """Model to task to its passes over the whole test split."""
    precision: Precision
    """What attacks searched in, and what decided."""
    training_cost: dict[str, Passes]
    """Model to the passes of its training, as far as they are known."""
    params: dict[str, Any]
    """What was read from the parameters."""
    provenance: dict[str, Any]
    """Hashes of data and code, the device, versions of the packages."""
