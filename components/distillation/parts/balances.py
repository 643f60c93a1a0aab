"""What a student of two teachers remembers of their balance: temperatures, weights and the losses it began with."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from components.distillation.parts.balance import (
    Ceilings,
    Pair,
    TemperatureRule,
    WeightRule,
    balance_entropy,
    balance_loss,
    both,
    matching_temperatures,
    over_batch,
    share_below,
)
from components.methods.parts.two_views import Views
from components.numerics.losses import MeanReduction, entropy, kl_divergence

Parts = dict[str, Tensor]


class Heating(Protocol):
    """Fields of a member whose teachers have temperatures."""

    @property
    def temperature_rule(self) -> TemperatureRule: ...

    @property
    def temperature_step(self) -> float: ...

    @property
    def temperature_min(self) -> float: ...

    @property
    def temperature_max(self) -> float: ...


class Weighing(Protocol):
    """Fields of a member that weighs its two teachers."""

    @property
    def weight_rule(self) -> WeightRule: ...

    @property
    def weight_step(self) -> float: ...

    @property
    def validation_step(self) -> float: ...

    @property
    def robust_weight(self) -> float: ...

    @property
    def origin_batches(self) -> int: ...

    @property
    def balance_milestones(self) -> tuple[int, ...]: ...

    @property
    def balance_decay(self) -> float: ...


def require_range(fields: Heating) -> None:
    """Error: a largest temperature below the smallest."""
    if fields.temperature_max < fields.temperature_min:
        raise ValueError(f"got temperatures {fields.temperature_min} to {fields.temperature_max}, want min <= max")


class Softened(NamedTuple):
    """Both teachers' logits over their temperatures, [N, K] each, with the mean entropies of these targets."""

    targets: Pair
    entropies: Pair
    parts: Parts


class Temperatures(nn.Module):
    """Both teachers' temperatures, which keep the mean entropies of their targets equal."""

    current: Tensor

    def __init__(self, fields: Heating) -> None:
        super().__init__()
        self.fields = fields
        self.register_buffer("current", torch.full((2,), float(fields.temperature_min)))

    @torch.no_grad()
    def soften(self, logits: Pair, decay: float) -> Softened:
        """The targets of this step; moves the temperatures, for this step or, by the published rule, for the next."""
        fields, low, high = self.fields, self.fields.temperature_min, self.fields.temperature_max
        if fields.temperature_rule == "solve":
            self.current = torch.stack(matching_temperatures(logits, low, high)).to(self.current.dtype)
        used = Pair(*self.current)
        targets = Pair(logits.robust / used.robust, logits.clean / used.clean)
        entropies = entropies_of(targets)
        if fields.temperature_rule == "step":
            self.current = torch.stack(balance_entropy(used, entropies, fields.temperature_step * decay, low, high))
        at_bounds = {"temperature_at_min": Pair(*(used_ <= low for used_ in used))}
        at_bounds["temperature_at_max"] = Pair(*(used_ >= high for used_ in used))
        hits = {name: Pair(*(side.to(self.current.dtype) for side in hit)) for name, hit in at_bounds.items()}
        return Softened(targets, entropies, named(temperature=used, **hits))


class Weights(nn.Module):
    """Both sides' weights, and the losses that they are held against: means over the first batches."""

    current: Tensor
    first_losses: Tensor
    counted: Tensor

    def __init__(self, fields: Weighing, exponent: float, ceilings: Ceilings | None) -> None:
        super().__init__()
        assert ceilings is not None or fields.weight_rule != "validation", "the rule compares with the teachers"
        self.fields, self.exponent, self.ceilings = fields, exponent, ceilings
        self.register_buffer("current", torch.tensor([fields.robust_weight, 1 - fields.robust_weight]))
        # NaN until the first step.
        self.register_buffer("first_losses", torch.full((2,), torch.nan))
        self.register_buffer("counted", torch.zeros(()))

    @torch.no_grad()
    def weigh(self, losses: Pair, decay: float) -> tuple[Pair, Parts]:
        """The weights of this step from its losses over the whole batch, and what to log."""
        self._count(torch.stack(losses).detach())
        relative = both(torch.div, losses, Pair(*self.first_losses))
        weights = Pair(*self.current)
        if self.fields.weight_rule == "loss":
            weights = balance_loss(weights, relative, self.fields.weight_step * decay, self.exponent)
            self.current = torch.stack(weights)
        return weights, named(relative_loss=relative, weight=weights)

    def _count(self, losses: Tensor) -> None:
        """Takes the losses of one of the first batches into their mean."""
        moved = self.first_losses + (losses - self.first_losses) / (self.counted + 1)
        moved = torch.where(self.counted == 0, losses, moved)
        self.first_losses = torch.where(self.counted < self.fields.origin_batches, moved, self.first_losses)
        self.counted = (self.counted + 1).clamp_max(self.fields.origin_batches)

    @torch.no_grad()
    def end_validation(self, record: Mapping[str, float]) -> None:
        """Moves the weights by what the student has reached, if the rule says so."""
        if self.fields.weight_rule != "validation" or self.ceilings is None:
            return
        reached = Ceilings(robust=record["robust_accuracy"], clean=record["clean_accuracy"])
        share = share_below(reached, self.ceilings)
        if share is not None:
            wanted = self.current.new_tensor([share, 1 - share])
            # In place: a recorded step reads this very tensor.
            self.current.lerp_(wanted, self.fields.validation_step)


class Distilled(NamedTuple):
    """Both sides' divergences, with their graphs; their weights, which are constants; and what to log."""

    losses: Pair
    weights: Pair
    parts: Parts

    @property
    def total(self) -> Tensor:
        """The weighted sum."""
        return self.weights.robust * self.losses.robust + self.weights.clean * self.losses.clean


class Balances(nn.Module):
    """Temperatures, if there are any, and weights, with the decay of both step sizes."""

    def __init__(self, weights: Weights, temperatures: Temperatures | None = None) -> None:
        super().__init__()
        self.weights, self.temperatures = weights, temperatures
        self.decay = 1.0

    def begin_epoch(self, epoch: int) -> None:
        """Sets the decay of both step sizes for this epoch (counted from 0)."""
        fields = self.weights.fields
        self.decay = fields.balance_decay ** sum(epoch >= done for done in fields.balance_milestones)

    def distil(self, views: Views, asked: Pair, reduction: MeanReduction) -> Distilled:
        """KL(q_r ‖ p(x̃)) and KL(q_c ‖ p(x)), balanced, from the student's logits and those that the teachers gave."""
        softened = Softened(asked, entropies_of(asked), {})
        if self.temperatures is not None:
            softened = self.temperatures.soften(asked, self.decay)
        losses = divergences(softened.targets, views, reduction)
        of_batch = over_batch(losses, len(views.clean))
        weights, weighed = self.weights.weigh(of_batch, self.decay)
        parts = named(loss=of_batch, entropy=softened.entropies) | weighed | softened.parts
        return Distilled(losses, weights, parts)

    def as_in(self, whole: Distilled, views: Views, asked: Pair, reduction: MeanReduction) -> Distilled:
        """The same for a part of a batch that was balanced as a `whole`: its temperatures, weights and what to log."""
        if self.temperatures is not None:
            asked = Pair(*(getattr(asked, side) / whole.parts[f"temperature_{side}"] for side in Pair._fields))
        return whole._replace(losses=divergences(asked, views, reduction))


def divergences(targets: Pair, views: Views, reduction: MeanReduction) -> Pair:
    """KL(q_r ‖ p(x̃)) and KL(q_c ‖ p(x)), from logits on both sides."""
    return Pair(
        kl_divergence(targets.robust, views.adversarial, reduction),
        kl_divergence(targets.clean, views.clean, reduction),
    )


@torch.no_grad()
def entropies_of(targets: Pair) -> Pair:
    """The mean entropies over the whole batch of the softmax of both sides' logits."""
    return over_batch(Pair(*(entropy(target).mean() for target in targets)), len(targets.robust))


def named(**pairs: Pair) -> Parts:
    """Pairs by name as single numbers: `weight` becomes `weight_robust` and `weight_clean`."""
    return {f"{name}_{side}": getattr(pair, side) for name, pair in pairs.items() for side in Pair._fields}
