"""TRADES: clean accuracy plus smoothness around each image (Zhang et al., arXiv 1901.08573, eq. 5)."""

from typing import Literal

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import Start, ascend, eval_mode, first_look, start_point
from components.data.batch import Batch
from components.foundation.params import Count, NotNegative, PositiveLength, Share, strict
from components.methods.parts.contract import Attacked, Loss, Method
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import accuracies, logits_of, look_twice, smoothness
from components.numerics.losses import cross_entropy, kl_divergence
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class Trades:
    """CE(f(x), y) + beta · KL(p(x) ‖ p(x̃)), both averaged over the batch; x̃ climbs that same divergence.

    With `clean_passes` 2, as in the published code, the divergence has a pass of the clean images of its own. The loss
    is the same, but the clean images count twice in the running statistics of batch norm, the attacked ones once.
    Unlike here, the published code does not clip the start x + 0.001 N to [0, 1] before the first gradient.
    """

    beta: NotNegative  # Weight of the divergence between both predictions.
    steps: Count  # Steps of the attack.
    step_size: PositiveLength  # Length of one step, a fraction of the pixel range.
    start: Start  # Where the attack starts; not `zero`.
    label_smoothing: Share  # Share of the target that goes evenly to all classes.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.
    clean_passes: Literal[1, 2] = 1  # Passes of the clean images in training mode; 2 is as published.

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
        views = look_twice(model, batch, images_adv)
        again = views if self.clean_passes == 1 else views._replace(clean=logits_of(model, batch.images))
        clean, rough = cross_entropy(views.clean, batch.labels, self.label_smoothing), smoothness(again)
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
            looked=first_look(self.start, start, images, threat),
        )
