"""PeerAiD: a peer learns beside the student, on the student's attacked images, and so knows them better than a teacher.

Jung et al., "PeerAiD: Improving Adversarial Distillation from a Specialized Peer Tutor", CVPR 2024, arXiv 2403.06668.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.data.batch import Batch
from components.distillation.parts.divergence import softened_divergence
from components.distillation.parts.inner_attack import InnerAttack
from components.foundation.params import NotNegative, Positive, strict
from components.methods.parts.contract import Attacked, GoesOn, Loss
from components.methods.parts.crafting import BatchNormMode, crafting
from components.methods.parts.two_views import Views, accuracies, logits_of
from components.numerics.losses import MeanReduction, accuracy, cross_entropy
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat

Begins = Literal["student", "robust_teacher", "clean_teacher"]
"""What the peer is at the start: as published an untrained network of the student's architecture, or a copy of one of
the teachers."""

Moved = Literal["both", "peer"]
"""Whom the peer's divergence from the student moves: as in the published code both, or the peer alone."""


@strict
class Peer:
    """The student's λ_1 · CE(f(x̃), y) + λ_2 · T² · KL(g(x̃) ‖ f(x̃)) + λ_3 · T² · KL(f(x) ‖ f(x̃)) and its peer's
    γ_1 · CE(g(x̃), y) + γ_2 · S² · KL(f(x̃) ‖ g(x̃)), with both sides of each divergence at a temperature.

    g is the peer, f the student, T the `temperature`, S the `peer_temperature`. No gradient goes through g(x̃) in the
    second term; f(x) is not held constant. An attack that asks a teacher asks the peer, in evaluation mode. Published
    for CIFAR-10: λ 0, 1, 1; γ 1, 0.1 (on CIFAR-100 1, 1); T 5 and S 1; `reduction` class_mean; an attack up
    `kl_teacher_clean` from `gaussian`; an untrained peer of the student's architecture, `begins` student, which learns
    at the student's rate; SWA of the student from the first of the milestones 214, 259 and 284 of 300 epochs on. There
    the student passes the attacked images twice (`attacked_passes`), which moves batch norm's running statistics once
    more and nothing else.
    """

    attack: InnerAttack  # How the student's images are attacked; the teacher that it may ask is the peer.
    label_weight: NotNegative  # Weight λ_1 of the labels in the student's loss.
    peer_weight: NotNegative  # Weight λ_2 of the peer in the student's loss.
    own_weight: NotNegative  # Weight λ_3 of the student's answers for clean images in its loss.
    temperature: Positive  # Temperature T of both sides of the student's divergences.
    peer_label_weight: NotNegative  # Weight γ_1 of the labels in the peer's loss.
    peer_student_weight: NotNegative  # Weight γ_2 of the student in the peer's loss.
    peer_temperature: Positive  # Temperature S of both sides of the peer's divergence.
    reduction: MeanReduction  # Over what the divergences are averaged.
    begins: Begins = "student"
    """What the peer is at the start: as published an untrained network of the student's architecture, `student`, or a
    copy of the `robust_teacher` or the `clean_teacher`, of all networks in that role. Nobody else teaches."""
    moved: Moved = "both"  # Whom the peer's divergence from the student moves: both as published, or the peer alone.
    attacked_passes: Literal["once", "twice"] = "once"
    """How often the student passes attacked images: once, or twice as published."""
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    @property
    def asked(self) -> tuple[str, ...]:
        """The network that the peer begins as, and no other."""
        return (self.begins,)

    @property
    def goes_on(self) -> GoesOn | None:
        """A teacher that the peer begins as."""
        return None if self.begins == "student" else GoesOn(self.begins, "begins student")

    def build(self, beginning: nn.Module) -> "PeerMethod":
        """The training method. `beginning` stays as it is, and the optimizer moves the peer as well."""
        return PeerMethod(self, peer=copy.deepcopy(beginning).requires_grad_(True))

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor, peer: nn.Module) -> Loss:
        """Both losses of attacked images. The student passes attacked images first, then clean ones."""
        if self.attacked_passes == "twice":
            with torch.no_grad():
                model(images_adv)
        views = Views(adversarial=logits_of(model, images_adv), clean=logits_of(model, batch.images))
        guide = logits_of(peer, images_adv)
        followed = views.adversarial if self.moved == "both" else views.adversarial.detach()
        adversarial = cross_entropy(views.adversarial, batch.labels)
        learning = cross_entropy(guide, batch.labels).mean()
        following = softened_divergence(followed, guide, self.peer_temperature, self.reduction)
        taught = softened_divergence(guide.detach(), views.adversarial, self.temperature, self.reduction)
        own = softened_divergence(views.clean, views.adversarial, self.temperature, self.reduction)
        student = self.label_weight * adversarial.mean() + self.peer_weight * taught + self.own_weight * own
        beside = self.peer_label_weight * learning + self.peer_student_weight * following
        parts = {
            "loss_adversarial": adversarial.detach().mean(),
            "loss_peer": taught.detach(),
            "loss_own": own.detach(),
            "peer_loss": beside.detach(),
            "peer_adversarial_accuracy": accuracy(guide, batch.labels),
        }
        return Loss(
            student + beside,
            parts | accuracies(views, batch.labels),
            adversarial=adversarial,
            clean=cross_entropy(views.clean, batch.labels),
            attacked_logits=views.adversarial,
        )


class PeerMethod(Attacked):
    """The objective of `Peer` on images whose attack may ask the peer."""

    fields: Peer

    @property
    def host_decides(self) -> str:
        """Nothing: the attack has no restarts."""
        return ""

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        peer = self.get_submodule("peer")
        with crafting(model, self.fields.batch_norm) as network, eval_mode(peer):
            return self.fields.attack(network, batch, threat, rng, peer)
