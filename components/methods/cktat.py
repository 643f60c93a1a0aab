"""Clean knowledge for adversarial training, in the style of CKTAT: an unverified reconstruction.

Zhou & Pei, "Why Clean Training Can Make Adversarial Training Better", arXiv 2504.00038, say that a clean model gives
two kinds of knowledge, one that lowers the difficulty of learning and one that guides correctly, and name the means:
its predictions, initialisation from it, a temperature and a weight beta. Their exact loss was not at hand: the equation
here and the two switches are this project's reading of it, so results with it are none of CKTAT's.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.foundation.params import NotNegative, Real, Share, strict
from components.methods.parts.contract import Attacked, Loss, Method, Teacher, one_class
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.soft_targets import one_hot, rectified, softened, without_advice
from components.methods.parts.two_views import Views, accuracies, logits_of, look_twice, smoothness
from components.numerics.losses import accuracy, cross_entropy, kl_divergence


@strict
class Cktat:
    """(1 - alpha) · CE(f(x̃), y) + alpha · KL(q(x) ‖ p(x̃)) + beta · KL(p(x) ‖ p(x̃)), means over the batch.

    With z the frozen clean teacher's logits at x, the target q(x) is

    | `lower_difficulty` | `correct_guidance` | q(x) |
    | --- | --- | --- |
    | false | false | the label: adversarial training, the control |
    | true | false | softmax(z / temperature) of the true class; the rest evenly over all wrong classes |
    | false | true | softmax(z): the teacher's advice as sharp as it is |
    | true | true | softmax(z / temperature) |

    So lower difficulty is how soft each image's target is, correct guidance is which wrong classes it names, and each
    can be had without the other. The other way to lower difficulty, starting from the clean teacher's weights, is the
    stage's `warm_start`. `rectify` then mixes the label into q where it prefers a wrong class, so that none ends above
    the true one. With `beta` 0 the model does not see x.

    `temperature` acts where difficulty is lowered, `alpha` and `rectify` where either kind is on: what a switch turns
    off may keep its value. Errors: a kind that is on but could have no effect, by alpha 0 or by temperature 1;
    alpha outside [0, 1], a temperature below 1, a negative beta; mixed labels where either kind is on.
    """

    attack: Pgd  # How the images to train on are attacked.
    temperature: Annotated[Real, Field(ge=1)]  # Softens the teacher's prediction where difficulty is lowered.
    alpha: Share  # Weight of the teacher's target against the label.
    beta: NotNegative  # Weight of the divergence between the student's own predictions.
    rectify: bool  # Whether the label is mixed into a target that prefers a wrong class.
    lower_difficulty: bool  # Whether targets are softer than labels.
    correct_guidance: bool  # Whether the teacher says which wrong classes the target names.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def __post_init__(self) -> None:
        if self.learns_from_teacher and self.alpha == 0:
            raise ValueError("got alpha 0 with lower_difficulty or correct_guidance, want it above 0 or both off")
        if self.lower_difficulty and self.temperature == 1:
            raise ValueError("got lower_difficulty with temperature 1, want it above 1: that is what softens")

    @property
    def learns_from_teacher(self) -> bool:
        """Whether either kind of knowledge is used."""
        return self.lower_difficulty or self.correct_guidance

    def target(self, logits: Tensor, labels: Tensor) -> Tensor:
        """q(x), probabilities [N, K], from the clean teacher's logits [N, K] and labels [N]."""
        if not self.learns_from_teacher:
            return one_hot(labels, logits)
        target = softened(logits, self.temperature if self.lower_difficulty else 1)
        if not self.correct_guidance:
            target = without_advice(target, labels)
        return rectified(target, labels, 1) if self.rectify else target

    def build(self, clean_teacher: nn.Module) -> Method:
        return Attacked(self, clean_teacher=Teacher(clean_teacher))

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor, clean_teacher: nn.Module) -> Loss:
        """The loss of attacked images."""
        if not self.beta:
            logits_adv = logits_of(model, images_adv)
            loss = self._guided(batch, logits_adv, clean_teacher)
            return loss._replace(parts=loss.parts | {"train_adversarial_accuracy": accuracy(logits_adv, batch.labels)})
        views = look_twice(model, batch, images_adv)
        return self._smoothed(batch, views, self._guided(batch, views.adversarial, clean_teacher))

    def _guided(self, batch: Batch, logits_adv: Tensor, clean_teacher: nn.Module) -> Loss:
        adversarial = cross_entropy(logits_adv, batch.labels)
        parts = {"loss_adversarial": adversarial.detach().mean()}
        if not self.learns_from_teacher:
            return Loss(adversarial.mean(), parts, adversarial=adversarial)
        with torch.no_grad():
            target = self.target(logits_of(clean_teacher, batch.images), one_class(batch.labels, "cktat"))
        # A class that the target rules out has the least probability there is, since 0 has no logarithm.
        log_target = target.clamp_min(torch.finfo(target.dtype).tiny).log()
        guidance = kl_divergence(log_target, logits_adv, "batch_mean")
        total = (1 - self.alpha) * adversarial.mean() + self.alpha * guidance
        return Loss(total, parts | {"loss_guidance": guidance.detach()}, adversarial=adversarial)

    def _smoothed(self, batch: Batch, views: Views, loss: Loss) -> Loss:
        rough = smoothness(views)
        return loss._replace(
            total=loss.total + self.beta * rough,
            parts=loss.parts | {"loss_smoothness": rough.detach()} | accuracies(views, batch.labels),
            clean=cross_entropy(views.clean, batch.labels),
        )
