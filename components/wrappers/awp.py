"""AWP: a method's loss at the weights that a small step made worse, which flattens the loss around the weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from components.data.batch import Batch
from components.foundation.errors import InputError
from components.foundation.params import Positive, Whole, strict
from components.methods.parts.contract import Crafting, Loss, Method, Relabelling, Teacher
from components.numerics import parallel
from components.numerics.losses import TINY
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class Awp:
    """Adversarial weight perturbation (Wu et al., arXiv 2004.05884), from epoch `start` on (counted from 0).

    The step's gradient is taken at w + v. For each tensor of two or more dimensions v = gamma · ‖w‖ / ‖g‖ · g, with g
    the gradient of the same loss, on the same attacked images, at w; for others v = 0. Published: `gamma` 0.01 and
    `start` 0 for adversarial training, 0.005 and 10 for TRADES.

    >>> method = Awp(gamma=0.01, start=0).build(method)
    >>> "loss_rise" in method.loss(model, batch, threat, rng).parts
    True
    """

    gamma: Positive  # Length of the perturbation, a share of each tensor's norm.
    start: Whole  # The first perturbed epoch, counted from 0.

    def build(self, method: Method) -> "Perturbed":
        """`method` with perturbed weights. Errors: a method that does not attack first and compute its loss then."""
        return Perturbed(self, method)


class Perturbed(Method):
    """A method under `Awp`: attacks are crafted at w, once.

    A step costs one more pass of the loss. It leaves no trace in batch norm's statistics, which see w + v alone. Part,
    besides the method's: `loss_rise`, by how much v raises the loss (0 before `start`).
    """

    fields: Awp
    divisible = False

    def __init__(self, fields: Awp, method: Method) -> None:
        super().__init__(fields)
        if not isinstance(method, Crafting):
            wanted = "one that attacks first, such as pgd_at or trades"
            raise InputError(f"perturbation: got method {method.name}, want {wanted}")
        self.method, self.replays = method, method.replays
        self.is_active = fields.start == 0

    @property
    def name(self) -> str:
        """The section of params.yaml."""
        return "perturbation"

    @property
    def label_smoothing(self) -> float:
        """The inner method's."""
        return self.method.label_smoothing

    def begin_epoch(self, epoch: int) -> None:
        """Decides whether weights are perturbed in this epoch (counted from 0)."""
        self.is_active = epoch >= self.fields.start
        self.method.begin_epoch(epoch)

    def end_epoch(self, model: nn.Module) -> None:
        """The inner method's."""
        self.method.end_epoch(model)

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        method = self.method
        assert isinstance(method, Crafting)
        if isinstance(method, Relabelling):
            batch = method.relabelled(model, batch)
        images_adv = method.craft(model, batch, threat, rng)
        if not self.is_active:
            loss = method.objective(model, batch, images_adv)
            return loss._replace(parts=loss.parts | {"loss_rise": torch.zeros_like(loss.total.detach())})
        moved, before = self._moved(method, model, batch, images_adv)
        loss = method.objective(moved, batch, images_adv)
        return loss._replace(parts=loss.parts | {"loss_rise": loss.total.detach() - before})

    def _moved(self, method: Crafting, model: nn.Module, batch: Batch, images_adv: Tensor) -> tuple[nn.Module, Tensor]:
        """The model at w + v, and the loss at w."""
        weights = {name: p for name, p in model.named_parameters() if p.ndim > 1 and p.requires_grad}
        # Where processes train together, the gradient is that of the whole batch, as the loop's is.
        share = len(batch.images) / (batch.total or len(batch.images))
        with _buffers_kept([*model.modules(), *_learning(self.method)]), _own_steps_undone(self.method):
            total = method.objective(model, batch, images_adv).total
            # Unlike backward, this leaves `.grad` alone.
            gradients = torch.autograd.grad(total * share, list(weights.values()), materialize_grads=True)
        moved = {}
        for (name, weight), own in zip(weights.items(), gradients, strict=True):
            gradient = parallel.sum_(own)
            size = weight.detach().norm() / (gradient.norm() + TINY)
            moved[name] = weight + self.fields.gamma * size * gradient
        return _At(model, moved), total.detach()


class _At(nn.Module):
    """A model that computes with other weights: `weights` replace those of the same names, buffers stay its own.

    As w + v is computed from w, the gradient at w + v arrives in w's `.grad`; nothing has to be put back.
    """

    def __init__(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.weights = model, weights
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        return functional_call(self.model, self.weights, (images,))


def _learning(module: nn.Module) -> Iterator[nn.Module]:
    """A method and all inside it but its teachers: what they remember of a step is what they met at w + v."""
    yield module
    for child in module.children():
        if not isinstance(child, Teacher):
            yield from _learning(child)


@contextmanager
def _buffers_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """What the block does to the own buffers of these modules is undone after it, whether it writes or replaces."""
    kept = [(module, *named, named[1].clone()) for module in modules for named in module.named_buffers(recurse=False)]
    try:
        yield
    finally:
        for module, name, buffer, before in kept:
            setattr(module, name, buffer.copy_(before))


@contextmanager
def _own_steps_undone(method: Method) -> Iterator[None]:
    """What a method does inside the block to parameters that it moves by itself is undone after it."""
    parameters = [parameter for network in method.companions() for parameter in network.parameters()]
    kept = [(parameter, parameter.clone()) for parameter in parameters if not parameter.requires_grad]
    try:
        yield
    finally:
        for parameter, before in kept:
            parameter.copy_(before)
