"""Every method's loss against a slow, plain formula in float64, and what every method owes the loop."""

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation import DISTILLATIONS
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.methods import METHODS
from components.methods.pgd_at import PgdAt
from components.methods.standard import Standard
from components.methods.trades import Trades
from components.numerics.losses import cross_entropy
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from tests.parts.method_members import MEMBERS
from tests.parts.plain_sums import plain_cross_entropy, plain_kl

every = pytest.mark.parametrize("name", MEMBERS)
# Without room for an attacker these are cross-entropy on clean images.
STANDARD_WITHOUT_ROOM = ("standard", "pgd_at", "trades", "fgsm_rs", "free_at", "gradalign", "fgsm_mep")
# Refuses every norm but L∞, because its perturbations are signs.
SIGNS_ALONE = ("fgsm_mep",)
# Attacks nothing, or in balls of a radius for each image.
UNWATCHED = ("standard", "mixed", "ensemble_at", "hat", "adr")
EVERY_NORM = [
    Threat(norm=Linf(), epsilon=Ratio(8, 255)),
    Threat(norm=L2(), epsilon=Ratio(1, 2)),
    Threat(norm=L1(), epsilon=Ratio(2)),
]
# Whose equations are written out here; those of the others have files of their own.
WRITTEN_OUT = ("standard", "pgd_at", "trades")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_table_of_tests_holds_every_member():
    assert set(MEMBERS) == {*METHODS, *DISTILLATIONS}


@every
def test_loss_is_a_scalar_for_backward_and_leaves_modes_and_gradients(name, tiny, images, labels, linf):
    method = MEMBERS[name]()
    tiny.train()
    loss = method.loss(tiny, Batch.of(images, labels), linf, seeded())
    assert loss.total.shape == () and tiny.training and tiny.features.training
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert all(part.shape == () and not part.requires_grad for part in loss.parts.values())
    loss.total.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in tiny.parameters() if parameter.grad is not None)
    assert tiny.head.weight.grad is not None


@every
@pytest.mark.parametrize("threat", EVERY_NORM, ids=lambda threat: threat.norm.name)
def test_every_norm_is_trained_in_or_refused(name, threat, tiny, images, labels, monkeypatch):
    """Refused is what would need another norm's ball; else every attacked image lies in its own, or a little beside."""
    method, sizes = MEMBERS[name](), list[float]()
    verify = type(threat).verify

    def watched(self: Threat, images_adv: Tensor, images: Tensor) -> Tensor:
        sizes.append(float((self.size(images_adv - images) / self.radius).max()))
        assert self.norm is threat.norm
        return verify(self, images_adv, images)

    monkeypatch.setattr(Threat, "verify", watched)
    if name in SIGNS_ALONE and threat.norm != Linf():
        with pytest.raises(InputError, match=f"{name}: got norm {threat.norm.name}, want linf"):
            method.loss(tiny, Batch.of(images, labels), threat, seeded())
        return
    loss = method.loss(tiny, Batch.of(images, labels), threat, seeded())
    loss.total.backward()
    assert loss.total.isfinite() and tiny.head.weight.grad is not None
    assert max(sizes, default=1.0) <= 1 + 1e-5 and (sizes or name in UNWATCHED)


@pytest.mark.parametrize("name", STANDARD_WITHOUT_ROOM)
def test_epsilon_zero_is_standard_training(name, tiny, images, labels):
    """Without room for an attacker every objective is cross-entropy on clean images."""
    threat = Threat(norm=Linf(), epsilon=Ratio(0))
    tiny.eval()
    want = cross_entropy(tiny(images), labels, 0.1).mean()
    got = MEMBERS[name]().loss(tiny, Batch.of(images, labels), threat, seeded()).total
    assert float(got.detach()) == pytest.approx(float(want.detach()), abs=1e-6)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_loss_equals_its_equation(name, images, labels, linf):
    """The equation on the images the method itself crafts (same seed), with a linear float64 model and plain sums."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    images = images.double()
    method = MEMBERS[name]()
    got = float(method.loss(model, Batch.of(images, labels), linf, seeded(5)).total.detach())
    images_adv = crafted(method.fields, model, images, labels, linf)
    clean, attacked = model(images).tolist(), model(images_adv).tolist()
    rows = range(len(labels))
    smoothed = {
        name: sum(plain_cross_entropy(logits[i], int(labels[i]), 0.1) for i in rows) / len(labels)
        for name, logits in (("clean", clean), ("attacked", attacked))
    }
    divergence = sum(plain_kl(model(images)[i].softmax(0).tolist(), attacked[i]) for i in rows) / len(labels)
    want = {
        Standard: smoothed["clean"],
        PgdAt: smoothed["attacked"],
        Trades: smoothed["clean"] + 6 * divergence,
    }[type(method.fields)]
    assert got == pytest.approx(want, abs=1e-9)


def crafted(fields, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat) -> Tensor:
    if isinstance(fields, PgdAt):
        return fields.attack(model, images, labels, threat, seeded(5))
    if not isinstance(fields, Trades):
        return images
    images_adv = threat.project(images + 1e-3 * torch.randn(images.shape, generator=seeded(5)), images)
    target = model(images).softmax(1).detach()
    for _ in range(fields.steps):
        leaf = images_adv.detach().requires_grad_()
        value = (target * (target.log() - model(leaf).log_softmax(1))).sum()
        gradient = torch.autograd.grad(value, leaf)[0]
        images_adv = threat.project(leaf.detach() + float(fields.step_size) * gradient.sign(), images)
    return images_adv


def test_trades_refuses_a_start_without_gradient():
    with pytest.raises(ValueError, match="no gradient at the image"):
        Trades(beta=6.0, steps=3, step_size=Ratio(4, 255), start="zero", label_smoothing=0.0)
