"""The model under attack: one network that searches, which may be fast and a little wrong, and one that decides."""

import torch
from torch import Tensor, nn

from components.numerics.losses import answers


class Victim(nn.Module):
    """Attacks ask `search` for logits; whether an image is fooled, `exact` decides, the model in float32."""

    def __init__(self, exact: nn.Module, search: nn.Module | None = None) -> None:
        super().__init__()
        self.exact, self.search = exact, exact if search is None else search

    def forward(self, images: Tensor) -> Tensor:
        return self.search(images)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that images pass through, each once."""
        return (self.exact,) if self.search is self.exact else (self.exact, self.search)


def exact(model: nn.Module) -> nn.Module:
    """The network that decides: of a victim its exact one, any other model itself."""
    return model.exact if isinstance(model, Victim) else model


@torch.no_grad()
def confirm(model: nn.Module, images_adv: Tensor, labels: Tensor, suspected: Tensor) -> Tensor:
    """Of the images `suspected` (bool [N]) to be misclassified, those that the exact model misclassifies, bool [N].

    The model is expected in evaluation mode. A search that is exact itself is believed without another pass.
    """
    if not isinstance(model, Victim) or model.search is model.exact:
        return suspected
    chosen = suspected.nonzero().squeeze(1)
    confirmed = torch.zeros_like(suspected)
    if len(chosen):
        confirmed[chosen] = answers(model.exact(images_adv[chosen])) != labels[chosen]
    return confirmed
