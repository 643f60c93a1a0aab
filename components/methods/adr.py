"""ADR: adversarial training towards the rectified predictions of its own moving average.

Wu et al., "Annealing Self-Distillation Rectification Improves Adversarial Training", arXiv 2305.12118.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from components.attacks.parts.ascent import Start, ascend, eval_mode, start_point
from components.data.batch import Batch
from components.foundation.params import Count, Epochs, Positive, PositiveLength, Share, strict
from components.methods.parts.contract import Loss, Method, one_class
from components.methods.parts.crafting import BatchNormMode, crafting
from components.methods.parts.memory import Memory
from components.methods.parts.soft_targets import rectified, softened
from components.methods.parts.two_views import logits_of
from components.models.parts.averaging import mix
from components.numerics import parallel
from components.numerics.losses import accuracy, cross_entropy
from components.numerics.random_numbers import Rng
from components.schedules.cosine import Cosine
from components.threats.parts.threat import Threat


@strict
class Adr:
    """CE(f(x̃), q(x)) with q(x) = λ · softmax(ema(x) / τ) + (1 - λ) · onehot(y), and x̃ climbs that same cross-entropy.

    λ of each image is clip(λ(t) - (max softmax - softmax of y), 0, 1). τ goes from `temperature_from` to
    `temperature_to`, λ(t) from `weight_from` to `weight_to`, by half a cosine over `epochs`, which are the recipe's:
    set anew at the start of each epoch here, at each step in the published code. ema is the moving average of weights
    and buffers with `decay`, in evaluation mode; it is the method's state. Published: τ 2.5 to 2, λ 0.7 to 0.95, decay
    0.995, ten steps from a uniform start. Errors: labels that are mixed.
    """

    steps: Count  # Steps of the attack.
    step_size: PositiveLength  # Length of one step, a fraction of the pixel range.
    start: Start  # Where the attack starts.
    temperature_from: Positive  # Temperature τ at the start.
    temperature_to: Positive  # Temperature τ at the end.
    weight_from: Share  # Weight λ of the moving average's prediction at the start.
    weight_to: Share  # Weight λ of the moving average's prediction at the end.
    decay: Share  # Share of the moving average that one step keeps.
    epochs: Epochs  # Length of both cosines, the recipe's epochs.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def build(self) -> "AdrMethod":
        return AdrMethod(self)


class AdrMethod(Method):
    """The objective of `Adr`, and the average by the model's names; nothing before the first step."""

    fields: Adr
    divisible = False

    def __init__(self, fields: Adr) -> None:
        super().__init__(fields)
        self.average = Memory()
        self.temperature, self.weight = fields.temperature_from, fields.weight_from

    def begin_epoch(self, epoch: int) -> None:
        """Sets temperature and weight for this epoch (counted from 0)."""
        fields = self.fields
        left = Cosine(warmup=0.0).factor(epoch, fields.epochs)
        self.temperature = fields.temperature_to + (fields.temperature_from - fields.temperature_to) * left
        self.weight = fields.weight_to + (fields.weight_from - fields.weight_to) * left

    @torch.no_grad()
    def relabelled(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch with q(x) as labels [N, K], once the average has followed the last step's weights."""
        labels = one_class(batch.labels, "adr")
        average = self._follow(model)
        with eval_mode(model):
            # The model runs with the average's tensors, so that its passes are counted among the model's.
            logits = logits_of(lambda images: functional_call(model, average, (images,)), batch.images)
        return batch._replace(labels=rectified(softened(logits, self.temperature), labels, self.weight))

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        images, labels = batch.images, batch.labels
        start = start_point(self.fields.start, images, threat, rng)
        step_size, steps = float(self.fields.step_size), self.fields.steps
        with crafting(model, self.fields.batch_norm) as network:
            return ascend(network, images, start, lambda z: cross_entropy(z, labels), threat, step_size, steps)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        logits = logits_of(model, images_adv)
        adversarial = cross_entropy(logits, batch.labels)
        parts = {
            "temperature": batch.images.new_full((), self.temperature),
            "certainty": batch.labels.amax(1).mean(),
            "train_adversarial_accuracy": accuracy(logits, batch.labels),
        }
        return Loss(adversarial.mean(), parts, adversarial=adversarial)

    def end_epoch(self, model: nn.Module) -> None:
        """Has processes that train together go on from the mean of their averages: batch statistics may differ."""
        parallel.average_buffers(self.average)

    def _follow(self, model: nn.Module) -> dict[str, Tensor]:
        """Moves the average to the model's state now; the first time it becomes that state."""
        known, current = self.average.named(), model.state_dict()
        if known:
            average = {name: _laid_out(known[name], tensor) for name, tensor in current.items()}
            mix(average, current, 1 - self.fields.decay)
        else:
            average = {name: tensor.clone() for name, tensor in current.items()}
        for name, tensor in average.items():
            if tensor is not known.get(name):
                self.average[name] = tensor
        return average


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in the memory format of another, on which the last bits depend and which checkpoints do not keep."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)
