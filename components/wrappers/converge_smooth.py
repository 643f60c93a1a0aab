"""ConvergeSmooth: losses that leave the course of the epoch before are pulled back, whatever the training method.

Zhao et al., "Fast Adversarial Training with Smooth Convergence", ICCV 2023, arXiv 2308.12857. u and u' are the means
over an epoch's images of the clean and of the adversarial loss, as training met them; the next one takes them as given.
"""

import math
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from components.attacks.parts.ascent import View
from components.data.batch import Batch
from components.foundation.errors import InputError
from components.foundation.params import Epochs, NotNegative, Real, Whole, strict
from components.methods.parts.contract import Loss, Method, OneStep, climbed
from components.methods.parts.crafting import crafting
from components.models.parts.batch_norm import part_from_buffers
from components.numerics import parallel
from components.numerics.losses import cross_entropy
from components.numerics.random_numbers import Rng
from components.schedules.parts.schedule import Schedule, jumps
from components.threats.parts.threat import Threat
from components.wrappers.parts.centralisation import Centralisation
from components.wrappers.parts.known_gradient import with_gradient


@strict
class Smoothing:
    """How losses are smoothed; the fields are keys of params.yaml.

    Where a loss lies more than the stride γ from u, the terms `weight_adversarial` · |L' - u'| and `weight_clean` ·
    |L - u| join the total. L is clean and decides for both; with form `example` it is each image's own (eq. 6 and 7 of
    the paper; the mean over the batch is added), with `batch` the batch's mean. γ is |u(t-1) - u(t-2)|, no less than
    `stride_min` and no more than `stride_max`; the published code has the difference with its sign, so that γ is the
    smallest whenever the loss falls (`distance` signed).

    `clean` chooses the pass that gives L. `pass`: the method's own where its loss has a clean part, else one more in
    training mode. `start`: the one-step attack's own at the images it starts at, in the mode it crafts in. L is the
    cross-entropy that the method trains on, its labels smoothed as there, as published; or that of the labels alone
    (`loss` hard), whose spread is about twice as large, and so are the strides that fit it. L' is always the former.

    The terms are off in the first `warm_up` epochs, before two epochs have been seen, and within `guard` epochs of one
    in which the learning rate jumps, since there the losses jump rightly, or of the end of training.

    `weight_centralisation` · ‖θ - mean of past θ‖₂ is added after `warm_up`, jump or not; 0 is never. The past is the
    ends of the last `centre_epochs` epochs (the paper leaves it open).
    """

    form: Literal["batch", "example"]  # Smooths each image's own loss, or the mean of the batch.
    weight_adversarial: NotNegative  # Weight of |L' - u'|, the adversarial loss's distance.
    weight_clean: NotNegative  # Weight of |L - u|, the clean loss's distance.
    stride_min: NotNegative  # The smallest stride γ; losses nearer to u cost nothing.
    stride_max: Real  # The largest stride γ, no less than `stride_min`.
    weight_centralisation: NotNegative  # Weight of the distance to the mean of past weights; 0: none.
    centre_epochs: Epochs  # Epochs whose last weights make that mean.
    clean: Literal["pass", "start"]  # Which forward pass gives the clean loss.
    loss: Literal["smoothed", "hard"]  # Whether the clean loss has the method's smoothed labels.
    distance: Literal["absolute", "signed"]  # How far u moved, with its sign or without; the stride follows it.
    warm_up: Whole  # First epochs without any term.
    guard: Annotated[int, Field(ge=0, le=1000)]
    """Epochs around a jump of the learning rate, and before the end, without the loss terms."""

    def __post_init__(self) -> None:
        if self.stride_max < self.stride_min:
            raise ValueError(f"got strides {self.stride_min} to {self.stride_max}, want stride_min <= stride_max")

    def build(self, method: Method, schedule: Schedule, epochs: int) -> "Smoothed":
        """`method` with the terms added, for a run of `epochs` at the learning rates of `schedule`.

        Errors: `clean: start` around a method whose attack is not one gradient at a start of its own.
        """
        if self.clean == "start" and not isinstance(method, OneStep):
            raise InputError(
                f"smoothing: got clean 'start', want 'pass' around {method.name}: it is no one-step method"
            )
        centres = [*(math.floor(jump) for jump in jumps(schedule, epochs)), epochs]
        guarded = {epoch for centre in centres for epoch in range(centre - self.guard, centre + self.guard + 1)}
        return Smoothed(self, method, frozenset(guarded))


class _Course(NamedTuple):
    """What an epoch's losses are held against: γ, how far u moved, u(t-1), u'(t-1), float64, NaN if unknown."""

    stride: Tensor
    distance: Tensor
    clean: Tensor
    adversarial: Tensor


class _Gate(NamedTuple):
    """Which losses, [N] or the batch's mean [], lie more than the stride above u and which below, as 0 and 1."""

    above: Tensor
    below: Tensor


class _CleanLosses(NamedTuple):
    """The method's loss, the clean losses [N] detached, the gate (None: shut for all) and the clean term."""

    loss: Loss
    clean: Tensor
    gate: _Gate | None
    term: Tensor


class Smoothed(Method):
    """A method with the terms of `Smoothing`; it remembers u(t-1), u(t-2), u'(t-1), this epoch's sums, past weights.

    Parts besides the method's own: `smooth_stride` γ, `smooth_distance` u(t-1) - u(t-2) or its size, `smooth_clean`
    u(t-1) and `smooth_adversarial` u'(t-1), each once it is known; the shares of batches or images that are pulled
    down, `smooth_above`, and up, `smooth_below`; `smooth_loss`, both terms; `smooth_centralisation` where there is one.
    Errors, at the first step: a method without adversarial losses; with form `example`, one that attacks but a part of
    its batch.
    """

    fields: Smoothing
    means: Tensor
    sums: Tensor
    divisible = False

    def __init__(self, fields: Smoothing, method: Method, guarded: frozenset[int]) -> None:
        super().__init__(fields)
        self.method, self.guarded, self.replays = method, guarded, method.replays
        # u(t-1), u(t-2), u'(t-1): NaN until their epochs have been seen.
        self.register_buffer("means", torch.full((3,), torch.nan, dtype=torch.float64))
        # The sum of this epoch's clean losses and their number, the same of the adversarial ones.
        self.register_buffer("sums", torch.zeros(4, dtype=torch.float64))
        self.smoothing = method.label_smoothing if fields.loss == "smoothed" else 0.0
        self.centralisation = Centralisation(fields.weight_centralisation, fields.centre_epochs)
        self._set_out(warm=False, guarded=False)

    @property
    def name(self) -> str:
        """The section of params.yaml."""
        return "smoothing"

    @property
    def host_decides(self) -> str:
        """The gate of a batch, once there is one, or what the inner method says."""
        gated = self.fields.form == "batch" and self._active
        return "smoothing with form batch decides for each batch whether to pull" if gated else super().host_decides

    def begin_epoch(self, epoch: int) -> None:
        """Sets stride and switches for this epoch (counted from 0)."""
        self.method.begin_epoch(epoch)
        self.centralisation.begin_epoch()
        self._set_out(warm=epoch >= self.fields.warm_up, guarded=epoch in self.guarded)

    def _set_out(self, warm: bool, guarded: bool) -> None:
        latest, before, adversarial = self.means.unbind()
        distance = latest - before
        if self.fields.distance == "absolute":
            distance = distance.abs()
        stride = distance.clamp(self.fields.stride_min, self.fields.stride_max)
        self._course = _Course(stride, distance, latest, adversarial)
        finite = torch.stack(self._course).isfinite().tolist()
        self._known = [name for name, known in zip(_Course._fields, finite, strict=True) if known]
        self._warm, self._active = warm, warm and not guarded and all(finite)

    def end_epoch(self, model: nn.Module) -> None:
        """Makes this epoch's means the next one's course, and remembers the weights."""
        self.method.end_epoch(model)
        clean, num_clean, adversarial, num_adversarial = parallel.sum_(self.sums).unbind()
        self.means = torch.stack([clean / num_clean, self.means[0], adversarial / num_adversarial])
        self.sums = torch.zeros_like(self.sums)
        if self.fields.weight_centralisation:
            self.centralisation.end_epoch(model)

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        seen = self._from_start if self.fields.clean == "start" else self._from_pass
        loss, clean, gate, term = seen(model, batch, threat, rng)
        adversarial = self._adversarial(loss, batch)
        self._count(clean, adversarial.detach())
        zero = torch.zeros((), device=clean.device)
        total, above, below = loss.total, zero, zero
        if gate is not None:
            term = term + self._term(self.fields.weight_adversarial, adversarial, self._course.adversarial, gate)
            total, above, below = total + term, gate.above.mean(), gate.below.mean()
        parts = {f"smooth_{name}": getattr(self._course, name).float() for name in self._known}
        parts |= {"smooth_above": above, "smooth_below": below, "smooth_loss": term.detach()}
        if self.fields.weight_centralisation:
            pull = self.centralisation.term(model) if self._warm else zero
            total, parts["smooth_centralisation"] = total + pull, pull.detach()
        return loss._replace(total=total, parts=loss.parts | parts)

    def _from_pass(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> _CleanLosses:
        loss = self.method.loss(model, batch, threat, rng)
        clean = loss.clean
        # A method that looks at some images only has the mean of these; each image's own loss takes a pass. So does
        # the loss of the labels alone, where the method smooths them.
        partly = clean is not None and self.fields.form == "example" and len(clean) != len(batch.images)
        if clean is None or partly or self.smoothing != self.method.label_smoothing:
            part_from_buffers(model)
            with torch.set_grad_enabled(self._active and self.fields.weight_clean > 0):
                clean = cross_entropy(model(batch.images), batch.labels, self.smoothing)
        gate, term = self._gate(clean.detach()), torch.zeros((), device=clean.device)
        if gate is not None:
            term = self._term(self.fields.weight_clean, clean, self._course.clean, gate)
        return _CleanLosses(loss, clean.detach(), gate, term)

    def _from_start(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> _CleanLosses:
        """One pass gives the attack its direction and the clean term its gradient.

        That gradient is taken before the method's own pass in training mode, which moves the batch statistics that a
        pass in evaluation mode would go back through, and it is handed to the total as it is.
        """
        method = self.method
        assert isinstance(method, OneStep)
        start = method.start(model, batch, threat, rng)
        with crafting(model, method.fields.batch_norm) as network, torch.enable_grad():
            leaf = start.detach().requires_grad_()
            logits = network(leaf)
            values = climbed(method, logits, batch)
            clean = values if self._climbs(method, batch) else cross_entropy(logits, batch.labels, self.smoothing)
            gate, term = self._gate(clean.detach()), torch.zeros((), device=clean.device)
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            pull = None
            if gate is not None and self.fields.weight_clean:
                known = clean.detach().requires_grad_()
                term = self._term(self.fields.weight_clean, known, self._course.clean, gate)
                pull = torch.autograd.grad(term, known)[0]
            gradient, pulls = self._gradients(values, clean, leaf, parameters, pull, method.keeps_graph)
        if pulls is not None:
            term = with_gradient(term, pulls, parameters)
        view = View(gradient, values, logits)
        if method.keeps_graph:
            part_from_buffers(model)
        else:
            view = View(*(tensor.detach() for tensor in view))
        return _CleanLosses(method.loss_from(model, batch, start, view, threat, rng), clean.detach(), gate, term)

    def _climbs(self, method: OneStep, batch: Batch) -> bool:
        """Whether the attack climbs the clean loss itself."""
        return method.crafting_smoothing == self.smoothing and (self.smoothing > 0 or batch.labels.ndim == 1)

    def _gradients(
        self,
        values: Tensor,
        clean: Tensor,
        leaf: Tensor,
        parameters: list[nn.Parameter],
        pull: Tensor | None,
        keep_graph: bool,
    ) -> tuple[Tensor, list[Tensor | None] | None]:
        """The gradient of the summed values by `leaf`, and that of Σ pull · clean by the weights if there is a pull."""
        if pull is None:
            return torch.autograd.grad(values.sum(), leaf, retain_graph=keep_graph)[0], None
        if self.fields.form == "example" or clean is not values:
            gradient = torch.autograd.grad(values.sum(), leaf, retain_graph=True)[0]
            # Where batch norm joins processes, an image's share must not depend on which of them it is at.
            pulls = torch.autograd.grad(clean, parameters, pull * len(clean), keep_graph, allow_unused=True)
            return gradient, [None if one is None else one / len(clean) for one in pulls]
        # The batch's images are all pulled alike, so that one pass back serves input and weights.
        gradient, *pulls = torch.autograd.grad(values.sum(), [leaf, *parameters], None, keep_graph, allow_unused=True)
        return gradient, [None if one is None else one * pull[0] for one in pulls]

    def _adversarial(self, loss: Loss, batch: Batch) -> Tensor:
        if loss.adversarial is None:
            raise InputError(
                f"smoothing: {self.method.name} has no adversarial losses, want a method that trains on attacks"
            )
        if self.fields.form == "example" and len(loss.adversarial) != len(batch.images):
            raise InputError(
                f"smoothing: got form 'example' around {self.method.name}, which attacks {len(loss.adversarial)} of "
                f"{len(batch.images)} images, want 'batch'"
            )
        return loss.adversarial

    def _gate(self, clean: Tensor) -> _Gate | None:
        if not self._active:
            return None
        deviation = self._seen(clean) - self._course.clean.to(clean.dtype)
        stride = self._course.stride.to(clean.dtype)
        gate = _Gate((deviation > stride).to(clean.dtype), (deviation < -stride).to(clean.dtype))
        # Whether to pass back at all is a choice of the host, which waits for the one number that it depends on.
        if self.fields.form == "batch" and not bool(gate.above + gate.below):
            return None
        return gate

    def _term(self, weight: float, losses: Tensor, mean: Tensor, gate: _Gate) -> Tensor:
        deviation = (self._seen(losses) - mean.to(losses.dtype)).abs()
        return weight * ((gate.above + gate.below) * deviation).mean()

    def _seen(self, losses: Tensor) -> Tensor:
        """Each loss, or the mean over the batches of all processes, whose gradient is this process's share."""
        if self.fields.form == "example":
            return losses
        mean = losses.mean()
        # In this order all processes get the same bits, and so come to the same decisions.
        return parallel.mean(mean, len(losses)) + (mean - mean.detach())

    def _count(self, clean: Tensor, adversarial: Tensor) -> None:
        counts = [clean.sum(), clean.new_full((), len(clean)), adversarial.sum(), clean.new_full((), len(adversarial))]
        self.sums = self.sums + torch.stack(counts)
