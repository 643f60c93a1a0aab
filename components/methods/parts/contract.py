"""What the loop asks of a training method: a module with a loss; and what some methods are besides.

A member of `methods`, `wrappers` or `distillation` is a frozen dataclass of fields, the keys of params.yaml, whose
`build` makes the module. What a member needs, its `build` asks for by these names: `clean_teacher` and
`robust_teacher`, trained networks, `student`, an untrained one of the model's architecture, and `ceilings`, what the
teachers reach on the validation split; a wrapper for the `method` that it goes around, and where it follows the
learning rate for the `schedule` and the number of `epochs`. An error of a method or a wrapper begins with its key in
the section of params.yaml.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, get_type_hints, runtime_checkable

from torch import Tensor, nn

from components.attacks.parts.ascent import View, look
from components.data.batch import Batch
from components.foundation.errors import InputError
from components.methods.parts.crafting import crafting
from components.models.parts.batch_norm import part_from_buffers
from components.numerics.losses import cross_entropy, hard
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat

RESTARTS = "restarts of the attack are for the images that are not fooled yet"


class Loss(NamedTuple):
    """A scalar ready for backward, and detached named scalars to log; the loop averages them over the epoch.

    `adversarial` and `clean` are the cross-entropies of each attacked and each clean image, [N], with their graphs,
    where the method computes them anyway; whoever wraps a method need not compute them again. So are
    `attacked_logits`, the model's logits of the attacked images, [N, K], and `attacked_target`, those of the robust
    teacher in evaluation mode, detached.
    """

    total: Tensor
    parts: dict[str, Tensor]
    adversarial: Tensor | None = None
    clean: Tensor | None = None
    attacked_logits: Tensor | None = None
    attacked_target: Tensor | None = None


class Method(nn.Module):
    """A training method: what it remembers are buffers, a network that learns beside the model is a child, a trained
    network that it learns from is a child within `Teacher`, a method that it goes around is a child too.

    The loop steps `replays` times on each batch. Where `divisible`, the losses of parts of a batch, each times its
    share of the images, add up to the loss of the batch; a method that takes stock of the whole batch in a step is not,
    unless it `surveys` the parts, attacked, before the objective of each.
    """

    replays: int = 1
    divisible: bool = True
    surveys: bool = False

    def __init__(self, fields: Any = None) -> None:
        super().__init__()
        self.fields = fields

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        """A batch -> the loss; modes and `.grad` are left as found. As it stands here, that of a `OneStep` or a
        `Crafting` method."""
        if isinstance(self, OneStep):
            start = self.start(model, batch, threat, rng)
            return self.loss_from(model, batch, start, look_at_start(self, model, batch, start), threat, rng)
        if isinstance(self, Relabelling):
            batch = self.relabelled(model, batch)
        assert isinstance(self, Crafting), f"{self} needs a loss of its own, or craft and objective"
        return self.objective(model, batch, self.craft(model, batch, threat, rng))

    @property
    def label_smoothing(self) -> float:
        """The share of the target that goes evenly to all classes; 0 for a method without such a field."""
        return getattr(self.fields, "label_smoothing", 0.0)

    @property
    def host_decides(self) -> str:
        """What the host must know or decide in the midst of a step of this epoch, so that the step cannot be recorded
        and replayed, in words; nothing where there is nothing. As it stands here, that of the method inside."""
        inside = [child for child in self.children() if isinstance(child, Method)]
        return inside[0].host_decides if inside else ""

    @property
    def name(self) -> str:
        """What params.yaml calls it: a member's file has the name of its key. Of others the class."""
        return _called(self if self.fields is None else self.fields)

    def begin_epoch(self, epoch: int) -> None:
        """For a method that changes with the epochs, which are counted from 0."""

    def survey(self, model: nn.Module, crafted: Sequence[tuple[Batch, Tensor]]) -> None:
        """For a method that takes stock of a batch whose parts come one by one: all of them with their attacked images,
        without gradients, before the objectives of that batch; none of them after. As it stands here, that of the
        method inside."""
        for child in self.children():
            if isinstance(child, Method):
                child.survey(model, crafted)

    def end_epoch(self, model: nn.Module) -> None:
        """For a method that takes stock after an epoch's last step."""

    def end_validation(self, record: Mapping[str, float]) -> None:
        """For a method that goes by what the model reached on the validation split: all that was measured after an
        epoch, and before the first. Buffers are written in place, not replaced. As it stands here, that of the method
        inside."""
        for child in self.children():
            if isinstance(child, Method):
                child.end_validation(record)

    def networks(self) -> list[nn.Module]:
        """The teachers and the companions, and those of the method inside."""
        networks: list[nn.Module] = []
        for child in self.children():
            if isinstance(child, Method):
                networks += child.networks()
            elif next(child.parameters(), None) is not None:
                networks.append(child)
        return networks

    def companions(self) -> list[nn.Module]:
        """The networks that learn beside the model. One optimizer holds the parameters of all that require gradients;
        others a method moves by itself."""
        return [network for network in self.networks() if not isinstance(network, Teacher)]

    def layers(self) -> dict[str, str]:
        """The wrappers by their kind, from the outside in, and last the method inside, as `method`: what the names of
        each one's own tensors begin with in `state_dict`."""
        inside = [(name, child) for name, child in self.named_children() if isinstance(child, Method)]
        if not inside:
            return {"method": ""}
        ((name, child),) = inside
        return {type(self).__name__: ""} | {kind: f"{name}.{prefix}" for kind, prefix in child.layers().items()}

    def __repr__(self) -> str:
        return type(self).__name__ if self.fields is None else repr(self.fields)


def _called(member: object) -> str:
    kind = type(member)
    return kind.__module__.rpartition(".")[2] if kind.__module__.startswith("components.") else kind.__name__


class Fields(Protocol):
    """The fields of a member, which build its module from what it asks for."""

    def build(self, *args: Any, **kwargs: Any) -> Method: ...


@runtime_checkable
class Choosing(Protocol):
    """Fields that say themselves what their `build` asks for, by name and in its order."""

    @property
    def asked(self) -> tuple[str, ...]: ...


def needs(fields: Fields) -> tuple[str, ...]:
    """What `fields.build` asks for, by name and in its order."""
    return fields.asked if isinstance(fields, Choosing) else tuple(inspect.signature(fields.build).parameters)


class GoesOn(NamedTuple):
    """The role whose network goes on learning in training mode, and the fields with which it does not."""

    role: str
    instead: str


@runtime_checkable
class Tutoring(Protocol):
    """Fields of a method that may train one of the networks that it is given further; None: it does not."""

    @property
    def goes_on(self) -> GoesOn | None: ...


def is_divisible(fields: Fields) -> bool:
    """Whether what `fields.build` makes is `divisible`, before it is built: its class says so."""
    return get_type_hints(fields.build)["return"].divisible


def require_divisible(fields: Fields, wrappers: Sequence[str], where: str) -> None:
    """Refuses parts of a batch for what needs the whole one, which no wrapper can do without."""
    whole = [*wrappers, *([] if is_divisible(fields) else [_called(fields)])]
    if whole:
        raise InputError(f"{where}: {whole[0]} needs the whole batch at once (want null)")


class Teacher(nn.Module):
    """A trained network as a child of a method: images [N, C, H, W] -> logits [N, K].

    It is frozen, stays in evaluation mode and is in no `state_dict`: its file's hash stands in a run's key.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.register_state_dict_post_hook(_leave_out)  # pyright: ignore[reportUnknownMemberType]
        self.register_load_state_dict_pre_hook(_put_in)  # pyright: ignore[reportUnknownMemberType]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def train(self, mode: bool = True) -> "Teacher":
        """Evaluation mode, whatever `mode` is."""
        return super().train(False)


def _leave_out(teacher: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _put_in(teacher: Teacher, state: dict[str, Any], prefix: str, *_: object) -> None:
    # Its own tensors, so that torch misses none.
    state.update(teacher.network.state_dict(prefix=f"{prefix}network."))


@runtime_checkable
class Annealed(Protocol):
    """A method whose numbers move from one end of the run to the other: its `epochs` are the recipe's."""

    epochs: int


@runtime_checkable
class Crafting(Protocol):
    """A method in two phases, for those who need the loss of the same attacked images at other weights.

    `loss` is `objective(model, batch, craft(...))`. `craft` neither touches the weights' gradients nor remembers.
    """

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor: ...

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss: ...


class Attacked(Method):
    """A method in two phases that its fields describe: `attack` makes the images, `objective` the loss.

    The attack sees the model in the mode that the field `batch_norm` says. The objective is given the method's networks
    too, by name: companions, and teachers within `Teacher`.
    """

    def __init__(self, fields: Any, **networks: nn.Module) -> None:
        super().__init__(fields)
        for name, network in networks.items():
            self.add_module(name, network)

    @property
    def host_decides(self) -> str:
        """The restarts of the attack."""
        restarts = getattr(self.fields.attack, "restarts", 1)
        return RESTARTS if restarts > 1 else ""

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        with crafting(model, self.fields.batch_norm) as network:
            return self.fields.attack(network, batch.images, hard(batch.labels), threat, rng)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        return self.fields.objective(model, batch, images_adv, **dict(self.named_children()))


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
    `start` with the model in the mode `fields.batch_norm` (`keeps_graph`: with the graph of its logits). That
    cross-entropy has labels smoothed by `crafting_smoothing`.
    """

    fields: Any
    keeps_graph: bool

    @property
    def crafting_smoothing(self) -> float: ...

    def start(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor: ...

    def loss_from(
        self, model: nn.Module, batch: Batch, start: Tensor, view: View, threat: Threat, rng: Rng
    ) -> Loss: ...


def look_at_start(method: OneStep, model: nn.Module, batch: Batch, start: Tensor) -> View:
    """The pass of a one-step attack: gradient, values and logits of the losses that it climbs at `start`."""
    with crafting(model, method.fields.batch_norm) as network:
        view = look(network, start, lambda logits: climbed(method, logits, batch), method.keeps_graph)
    if method.keeps_graph:
        part_from_buffers(model)
    return view


def climbed(method: OneStep, logits: Tensor, batch: Batch) -> Tensor:
    """The losses that a one-step attack climbs, [N]: the cross-entropy of one class, or of the smoothed target."""
    smoothing = method.crafting_smoothing
    return cross_entropy(logits, batch.labels, smoothing) if smoothing else cross_entropy(logits, hard(batch.labels))


def one_class(labels: Tensor, method: str) -> Tensor:
    """`labels` as they are, int64 [N]. Error: probabilities, for a method whose formula has no place for them."""
    if labels.ndim != 1:
        raise InputError(f"recipe.augmentation.cutmix: {method} needs one class for each image, want 0")
    return labels
