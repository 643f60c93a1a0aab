"""PeerAiD's step for a student and a peer of one linear layer each, with slopes written out instead of autograd."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class PlainPeer:
    """Both layers' weights [K, D] and biases [K], which a step moves at once; `fields` are those of `Peer`."""

    def __init__(self, student: Sequence[Tensor], peer: Sequence[Tensor], fields: dict[str, Any]) -> None:
        self.student, self.peer = ([tensor.detach().clone() for tensor in layer] for layer in (student, peer))
        self.fields = fields

    def step(self, images_adv: Tensor, images: Tensor, labels: Tensor, rate: float) -> dict[str, float]:
        """What a step logs, and its `total`, from flat images [N, D]."""
        fields, hard = self.fields, torch.eye(3, dtype=images.dtype)[labels]
        attacked, clean, guide = (
            pixels @ weight.T + bias
            for pixels, (weight, bias) in ((images_adv, self.student), (images, self.student), (images_adv, self.peer))
        )
        warm, cold = fields["temperature"], fields["peer_temperature"]
        divide_by = 3 if fields["reduction"] == "class_mean" else 1
        label, learning = (-(logits.log_softmax(1) * hard).sum(1).mean() for logits in (attacked, guide))
        taught, _, to_guide = divergence(guide, attacked, warm)
        own, by_clean, to_own = divergence(clean, attacked, warm)
        following, by_followed, to_followed = divergence(attacked, guide, cold)
        taught, own, following = taught / divide_by, own / divide_by, following / divide_by
        soft = fields["peer_weight"] * to_guide + fields["own_weight"] * to_own
        if fields["moved"] == "both":
            soft = soft + fields["peer_student_weight"] * by_followed
        count = len(labels)
        by_attacked = (fields["label_weight"] * (attacked.softmax(1) - hard) + soft / divide_by) / count
        by_clean = fields["own_weight"] * by_clean / divide_by / count
        by_guide = fields["peer_label_weight"] * (guide.softmax(1) - hard)
        by_guide = (by_guide + fields["peer_student_weight"] * to_followed / divide_by) / count
        beside = fields["peer_label_weight"] * learning + fields["peer_student_weight"] * following
        student = fields["label_weight"] * label + fields["peer_weight"] * taught + fields["own_weight"] * own
        self.student[0] -= rate * (by_attacked.T @ images_adv + by_clean.T @ images)
        self.student[1] -= rate * (by_attacked + by_clean).sum(0)
        self.peer[0] -= rate * by_guide.T @ images_adv
        self.peer[1] -= rate * by_guide.sum(0)
        logged = {"loss_adversarial": label, "loss_peer": taught, "loss_own": own, "peer_loss": beside}
        return {name: float(value) for name, value in (logged | {"total": student + beside}).items()}


def divergence(target: Tensor, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """T² · KL(q ‖ p) of q = softmax(target / T) and p = softmax(logits / T), the mean over images, and its slopes for
    each image by the target, T · q · (ln q/p - KL), and by the logits, T · (p - q)."""
    q, p = (target / temperature).softmax(1), (logits / temperature).softmax(1)
    apart = (q / p).log()
    each = (q * apart).sum(1, keepdim=True)
    return temperature**2 * each.mean(), temperature * q * (apart - each), temperature * (p - q)
