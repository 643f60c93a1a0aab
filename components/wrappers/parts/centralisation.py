"""Weight centralisation: weights are held near the mean of their own past."""

from torch import Tensor, nn

from components.methods.parts.memory import Memory
from components.numerics.losses import TINY
from components.wrappers.parts.known_gradient import with_gradient


class Centralisation(nn.Module):
    """`weight` · ‖θ - mean of past θ‖₂ over all parameters as one vector (Zhao et al., ICCV 2023, arXiv 2308.12857).

    The past is the weights at the ends of the last `num_epochs` epochs, each counting the same, buffers not among them;
    that choice is ours, since the paper leaves the set open.
    """

    def __init__(self, weight: float, num_epochs: int) -> None:
        super().__init__()
        self.weight, self.num_epochs = weight, num_epochs
        # The oldest weights as `0.NAME`, the next as `1.NAME`, …
        self.past = Memory()
        self._centre: dict[str, Tensor] = {}

    def begin_epoch(self) -> None:
        """Takes the mean of the past as the centre of this epoch."""
        past = self._past()
        self._centre = {name: _mean([weights[name] for weights in past]) for name in past[0]} if past else {}

    def end_epoch(self, model: nn.Module) -> None:
        """Takes in the weights as they are now."""
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        past = [*self._past(), weights][-self.num_epochs :]
        self.past.clear()
        for index, weights in enumerate(past):
            for name, tensor in weights.items():
                self.past[f"{index}.{name}"] = tensor

    def term(self, model: nn.Module) -> Tensor:
        """The term, a scalar with its gradient, which is zero at the centre itself; zero without a past."""
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not self._centre:
            return next(iter(named.values())).new_zeros(())
        offsets = [own.detach() - self._centre[name] for name, own in named.items()]
        distance = nn.utils.get_total_norm(offsets)
        scale = self.weight / distance.clamp_min(TINY)
        return with_gradient(self.weight * distance, [offset * scale for offset in offsets], list(named.values()))

    def _past(self) -> list[dict[str, Tensor]]:
        past: dict[int, dict[str, Tensor]] = {}
        for key, tensor in self.past.named().items():
            index, name = key.split(".", 1)
            past.setdefault(int(index), {})[name] = tensor
        return [past[index] for index in sorted(past)]


def _mean(weights: list[Tensor]) -> Tensor:
    # One after the other: the order of a stacked sum may change with the memory format, and resume must be exact.
    total = weights[0].clone()
    for one in weights[1:]:
        total += one
    return total / len(weights)
