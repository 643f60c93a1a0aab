"""Weight centralisation: weights are held near the mean of their own past."""

from torch import Tensor, nn

from components.numerics.losses import TINY
from components.wrappers.parts.known_gradient import with_gradient


class Centralisation:
    """`weight` · ‖θ - mean of past θ‖₂ over all parameters as one vector (Zhao et al., ICCV 2023, arXiv 2308.12857).

    The past is the weights at the ends of the last `num_epochs` epochs, each counting the same, buffers not among them;
    that choice is ours, since the paper leaves the set open. They are its state.
    """

    def __init__(self, weight: float, num_epochs: int) -> None:
        self.weight, self.num_epochs = weight, num_epochs
        self.past: list[dict[str, Tensor]] = []
        self._centre: dict[str, Tensor] | None = None

    def end_epoch(self, model: nn.Module) -> None:
        """Takes in the weights as they are now."""
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.past, self._centre = [*self.past, weights][-self.num_epochs :], None

    def term(self, model: nn.Module) -> Tensor:
        """The term, a scalar with its gradient, which is zero at the centre itself; zero without a past."""
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not self.past:
            return next(iter(named.values())).new_zeros(())
        if self._centre is None:
            self._centre = {
                name: _mean([past[name].to(own.device) for past in self.past]) for name, own in named.items()
            }
        offsets = [own.detach() - self._centre[name] for name, own in named.items()]
        distance = nn.utils.get_total_norm(offsets)
        scale = self.weight / distance.clamp_min(TINY)
        return with_gradient(self.weight * distance, [offset * scale for offset in offsets], list(named.values()))

    def state_dict(self) -> dict[str, Tensor]:
        """The past weights, the oldest as `0.NAME`, the next as `1.NAME`, …"""
        return {f"{index}.{name}": tensor for index, past in enumerate(self.past) for name, tensor in past.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`."""
        past: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            index, name = key.split(".", 1)
            past.setdefault(int(index), {})[name] = tensor.clone()
        self.past, self._centre = [past[index] for index in sorted(past)], None


def _mean(weights: list[Tensor]) -> Tensor:
    # One after the other: the order of a stacked sum may change with the memory format, and resume must be exact.
    total = weights[0].clone()
    for one in weights[1:]:
        total += one
    return total / len(weights)
