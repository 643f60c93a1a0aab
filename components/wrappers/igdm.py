"""IGDM: a student's gradient by the pixels follows its teacher's, whatever else the student learns."""

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.data.batch import Batch
from components.foundation.errors import InputError
from components.foundation.params import Positive, strict
from components.methods.parts.contract import Crafting, Loss, Method
from components.methods.parts.input_gradient import across
from components.methods.parts.two_views import logits_of
from components.numerics.losses import kl_divergence
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class Igdm:
    """The loss plus `alpha` · (epoch / epochs) · KL(softmax(t(x̃) - t(x - δ)) ‖ softmax(f(x̃) - f(x - δ))), a batch mean.

    δ = x̃ - x, t are the logits of the method's robust teacher, and the epoch is counted from 1: the module of Lee et
    al., "Indirect Gradient Matching for Adversarial Robust Distillation", ICLR 2025, arXiv 2312.03286. x - δ is not
    clipped to [0, 1], as published. `alpha` belongs to the method, to its reduction and to the teacher; published for
    ResNet-18 on CIFAR-10 with batch means: AdaAD 5 to 10, RSLAD 0.9 to 1, ARD 5 to 10, IAD 30 to 50, AKD 7 to 15. The
    published code divides by 200 epochs, also where a run has 300.

    >>> method = Igdm(alpha=5).build(distillation, epochs=10)
    >>> "loss_gradient" in method.loss(model, batch, threat, rng).parts
    True
    """

    alpha: Positive  # Weight of the input gradients in the last epoch, to which it grows.

    def build(self, method: Method, epochs: int) -> "Matching":
        """`method` with the term added, for a run of `epochs`.

        Errors: a method that does not attack first and compute its loss then, or that has no robust teacher.
        """
        return Matching(self, method, epochs)


class Matching(Method):
    """A method with the term of `Igdm`: in two phases as well, so that AWP goes around both.

    A step costs one more pass of the student, of x - δ after the method's own, and one of the teacher, or two where the
    method does not give the teacher's logits of the attacked images, as `ard`, `rslad` and `ciard` do not. Part,
    besides the method's: `loss_gradient`, without its weight. Error, at the first step: a method that does not give its
    own logits of them.
    """

    fields: Igdm

    def __init__(self, fields: Igdm, method: Method, epochs: int) -> None:
        super().__init__(fields)
        teacher = dict(method.named_children()).get("robust_teacher")
        if not isinstance(method, Crafting) or teacher is None:
            raise InputError(f"igdm: got method {method.name}, want one that attacks first and has a robust teacher")
        self.method, self.epochs = method, epochs
        self.replays, self.divisible, self.surveys = method.replays, method.divisible, method.surveys
        self.epoch = 0

    @property
    def label_smoothing(self) -> float:
        """The inner method's."""
        return self.method.label_smoothing

    def begin_epoch(self, epoch: int) -> None:
        """Sets the weight of this epoch (counted from 0)."""
        self.epoch = epoch
        self.method.begin_epoch(epoch)

    def end_epoch(self, model: nn.Module) -> None:
        """The inner method's."""
        self.method.end_epoch(model)

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        """The inner method's."""
        assert isinstance(self.method, Crafting)
        return self.method.craft(model, batch, threat, rng)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        """The loss of attacked images."""
        assert isinstance(self.method, Crafting)
        loss, images = self.method.objective(model, batch, images_adv), batch.images
        if (logits_adv := loss.attacked_logits) is None:
            raise InputError(f"igdm: {self.method} does not give the logits of its attacked images")
        teacher = self.method.get_submodule("robust_teacher")
        # One that learns meanwhile has batch statistics, which count the method's own passes alone.
        with torch.no_grad(), eval_mode(teacher):
            known = loss.attacked_target
            target_adv = logits_of(teacher, images_adv) if known is None else known
            target = across(teacher, images, images_adv, target_adv)
        matched = kl_divergence(target, across(model, images, images_adv, logits_adv), "batch_mean")
        total = loss.total + self.fields.alpha * (self.epoch + 1) / self.epochs * matched
        return loss._replace(total=total, parts=loss.parts | {"loss_gradient": matched.detach()})
