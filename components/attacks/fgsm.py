"""The fast gradient sign method (Goodfellow et al., arXiv 1412.6572, section 4)."""

from functools import partial

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.ascent import ascend
from components.losses import cross_entropy
from components.noise import Rng
from components.params import STRICT
from components.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Fgsm:
    """One step of length epsilon along the gradient of the cross-entropy, from the image itself."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        return ascend(model, images, images, partial(cross_entropy, labels=labels), threat, threat.radius, steps=1)
