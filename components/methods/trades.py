"""TRADES: clean accuracy plus smoothness around each image (Zhang et al., arXiv 1901.08573, eq. 5)."""

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import Start, ascend, eval_mode, start_point
from components.data.batch import Batch
from components.foundation.params import Count, NotNegative, PositiveFraction, Real, strict
from components.methods.parts.contract import Attacked, Loss, Method
from components.methods.parts.two_views import Views, accuracies, smoothness
from components.numerics.losses import cross_entropy, kl_divergence
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class Trades:
    """CE(f(x), y) + beta · KL(p(x) ‖ p(x̃)), both averaged over the batch; x̃ climbs that same divergence."""

    beta: NotNegative  # Weight of the divergence between both predictions.
    steps: Count  # Steps of the attack.
    step_size: PositiveFraction  # Length of one step, a fraction of the pixel range.
    start: Start  # Where the attack starts; not `zero`.
    label_smoothing: Real  # Share of the target that goes evenly to all classes.

    def __post_init__(self) -> None:
        # At x itself the divergence is at its minimum, so its gradient is zero and the attack would never leave.
        if self.start == "zero":
            raise ValueError(
                "got start 'zero', want 'gaussian' or 'uniform': the divergence has no gradient at the image"
            )

    def build(self) -> Method:
        return Attacked(self)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        """The loss of attacked images."""
        views = Views(model(batch.images), model(images_adv))
        clean, rough = cross_entropy(views.clean, batch.labels, self.label_smoothing), smoothness(views)
        parts = {"loss_clean": clean.detach().mean(), "loss_smoothness": rough.detach()}
        return Loss(
            clean.mean() + self.beta * rough,
            parts | accuracies(views, batch.labels),
            adversarial=cross_entropy(views.adversarial, batch.labels, self.label_smoothing),
            clean=clean,
        )

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        """Images that climb the divergence from the prediction at the image itself."""
        with eval_mode(model), torch.no_grad():
            target = model(images)
        start = start_point(self.start, images, threat, rng)
        return ascend(
            model,
            images,
            start,
            lambda logits: kl_divergence(target, logits, "none"),
            threat,
            float(self.step_size),
            self.steps,
        )
