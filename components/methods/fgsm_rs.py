"""FGSM with a random start: one step of adversarial training for little more than clean training's price."""

from typing import Annotated

from pydantic import Field

from components.foundation.params import Fractional, strict
from components.methods.parts.one_step import NoisyFields


@strict
class FgsmRs(NoisyFields):
    """Mean cross-entropy of x̃ = Π(x + η + step), η uniform in the ball of `noise` · ε (Wong et al., arXiv 2001.03994,
    algorithm 3).

    Published: `noise` 1, `step_size` 1.25 ε, and `batch_norm` train: the crafting pass normalises with the batch's own
    statistics and counts among those that the running ones are averaged from. Errors: `noise` outside [0, 1].
    """

    noise: Annotated[Fractional, Field(ge=0, le=1)]
