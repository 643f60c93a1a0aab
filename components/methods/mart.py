"""MART: misclassified images weigh more in the smoothness term (Wang et al., ICLR 2020)."""

from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.foundation.params import NotNegative, strict
from components.methods.parts.contract import Attacked, Loss, Method, one_class
from components.methods.parts.two_views import accuracies, look_twice
from components.numerics.losses import cross_entropy, kl_divergence

# Just above 1, as published: a wrong class that is certain costs 9.2, not infinitely much.
CERTAIN = 1.0001


@strict
class Mart:
    """BCE(f(x̃), y) + beta · mean[KL(p(x) ‖ p(x̃)) · (1 - p_y(x))], with BCE = CE - log(1.0001 - max p_j(x̃) over j ≠ y).

    The gradient goes through every factor. Published: `beta` 5 and an attack up the cross-entropy from a gaussian
    start. Errors: labels that are mixed.
    """

    attack: Pgd  # How the images to train on are attacked.
    beta: NotNegative  # Weight of the divergence between both predictions.

    def build(self) -> Method:
        return Attacked(self)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        """The loss of attacked images."""
        views, labels = look_twice(model, batch, images_adv), one_class(batch.labels, "mart")[:, None]
        adversarial = cross_entropy(views.adversarial, batch.labels)
        wrong = views.adversarial.softmax(1).scatter(1, labels, 0).amax(1)
        boosted = (adversarial - (CERTAIN - wrong).log()).mean()
        probabilities = views.clean.softmax(1)
        doubt = 1 - probabilities.gather(1, labels).squeeze(1)
        weighted = (kl_divergence(probabilities, views.adversarial, "none") * doubt).mean()
        parts = {"loss_adversarial": boosted.detach(), "loss_smoothness": weighted.detach()}
        return Loss(
            boosted + self.beta * weighted,
            parts | accuracies(views, batch.labels),
            adversarial=adversarial,
            clean=cross_entropy(views.clean, batch.labels),
        )
