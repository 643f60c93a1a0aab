"""What loops ask of family members: an attack's images, a method's loss with its parts, the state of what remembers."""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from components.attacks.parts.ascent import View
from components.data.batch import Batch
from components.foundation.errors import InputError
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


class Loss(NamedTuple):
    """A scalar ready for backward, and detached named scalars to log; the loop averages them over the epoch.

    `adversarial` and `clean` are the cross-entropies of each attacked and each clean image, [N], with their graphs,
    where the method computes them anyway; whoever wraps a method need not compute them again.
    """

    total: Tensor
    parts: dict[str, Tensor]
    adversarial: Tensor | None = None
    clean: Tensor | None = None


class Method(Protocol):
    """A batch -> the loss; modes and `.grad` are left as found."""

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss: ...


@runtime_checkable
class Stateful(Protocol):
    """Something whose next answer depends on its past: checkpoints hold its `state_dict`, so that resume is exact."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@runtime_checkable
class EpochAware(Protocol):
    """A method that changes with the epochs, which are counted from 0."""

    def begin_epoch(self, epoch: int) -> None: ...


@runtime_checkable
class Annealed(Protocol):
    """A method whose numbers move from one end of the run to the other: its `epochs` are the recipe's."""

    epochs: int


@runtime_checkable
class EpochEnding(Protocol):
    """A method that takes stock after an epoch's last step."""

    def end_epoch(self, model: nn.Module) -> None: ...


@runtime_checkable
class Crafting(Protocol):
    """A method in two phases, for those who need the loss of the same attacked images at other weights.

    `loss` is `objective(model, batch, craft(...))`. `craft` neither touches the weights' gradients nor remembers.
    """

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor: ...

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss: ...


@runtime_checkable
class Relabelling(Crafting, Protocol):
    """A method in two phases that learns from labels of its own making, once for each step.

    `loss` is that of both phases on `relabelled(model, batch)`, which takes note of the model's weights.
    """

    def relabelled(self, model: nn.Module, batch: Batch) -> Batch: ...


@runtime_checkable
class OneStep(Protocol):
    """A method whose attack is one gradient at a start of its own, for those who need what that pass knows anyway.

    `loss` is `loss_from(model, batch, start, view, threat, rng)`, where `view` is a look at the cross-entropy of
    `start` with the model in the mode `batch_norm` (`keeps_graph`: with the graph of its logits).
    """

    batch_norm: Literal["eval", "train"]
    keeps_graph: bool

    def start(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor: ...

    def loss_from(
        self, model: nn.Module, batch: Batch, start: Tensor, view: View, threat: Threat, rng: Rng
    ) -> Loss: ...


@runtime_checkable
class Replaying(Protocol):
    """A method that steps `replays` times on each batch."""

    replays: int


@runtime_checkable
class Companioned(Protocol):
    """A method that trains a second network beside the model: one optimizer holds both, checkpoints too."""

    companion: nn.Module


@runtime_checkable
class Guided(Protocol):
    """A recipe that becomes a method once it has the clean teacher (frozen, in evaluation mode)."""

    def guided_by(self, clean_teacher: nn.Module) -> Method: ...


def one_class(labels: Tensor, method: str) -> Tensor:
    """`labels` as they are, int64 [N]. Error: probabilities, for a method whose formula has no place for them."""
    if labels.ndim != 1:
        raise InputError(f"{method}: needs one class for each image, but cutmix mixes them (want cutmix 0)")
    return labels
