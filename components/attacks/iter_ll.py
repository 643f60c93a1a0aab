"""The iterative least-likely-class method (Kurakin et al., arXiv 1607.02533, section 2.3)."""

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.ascent import GREY_LEVEL, ascend, grey_level_steps
from components.noise import Rng
from components.objectives import clean_logits, goal
from components.params import STRICT
from components.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IterLl:
    """The steps of the basic iterative method, towards the class the model finds least likely for the clean image."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        objective = goal("cross_entropy", "least_likely", labels, clean_logits(model, images), rng)
        return ascend(model, images, images, objective, threat, GREY_LEVEL, grey_level_steps(threat.epsilon))
