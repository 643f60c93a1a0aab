"""Fast adversarial training: each method against its equations by hand, in float64, and what each remembers."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import View
from components.data.batch import Batch
from components.foundation.params import Ratio
from components.methods.fgsm_rs import FgsmRs
from components.methods.free_at import FreeAt
from components.methods.gradalign import GradAlign, misaligned
from components.methods.n_fgsm import NFgsm
from components.methods.parts.contract import Crafting, OneStep
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from tests.parts.method_members import MEMBERS
from tests.parts.plain_formulas import (
    EPSILON,
    NEARLY,
    SMOOTHING,
    STEP,
    fgsm_mep,
    plain_gradient,
    plain_loss,
    require_same,
    seeded,
    weight_gradients,
    within,
)

ONE_STEP = ("fgsm_rs", "n_fgsm", "gradalign", "fgsm_mep")


def fgsm_rs(**changes) -> FgsmRs:
    fields = {"step_size": Ratio(10, 255), "noise": Ratio(1), "label_smoothing": SMOOTHING, "batch_norm": "train"}
    return FgsmRs(**fields | changes)


def n_fgsm(**changes) -> NFgsm:
    fields = {"step_size": Ratio(10, 255), "noise": Ratio(2), "label_smoothing": SMOOTHING, "batch_norm": "train"}
    return NFgsm(**fields | changes)


def gradalign(**changes) -> GradAlign:
    fields = {"weight": 0.7, "step_size": Ratio(10, 255), "label_smoothing": SMOOTHING, "batch_norm": "eval"}
    return GradAlign(**fields | changes)


@pytest.mark.parametrize("noise", [Ratio(1), Ratio(1, 2), Ratio(0)])
def test_fgsm_rs_equals_its_equation(noise, smooth, batch, linf):
    images, labels = batch.images, batch.labels
    got = fgsm_rs(noise=noise).build().loss(smooth, batch, linf, seeded(5))
    drawn = torch.rand(images.shape, generator=seeded(5)) * 2 - 1
    start = (images + float(noise) * EPSILON * drawn).clamp(0, 1)
    images_adv = within(start + STEP * plain_gradient(smooth, start, labels).sign(), images, EPSILON)
    require_same(smooth, got.total, plain_loss(smooth(images_adv), labels))
    assert torch.allclose(got.parts["loss_start"], plain_loss(smooth(start), labels, 0.0))


def test_n_fgsm_equals_its_equation_and_leaves_the_ball(smooth, batch, linf):
    images, labels = batch.images, batch.labels
    got = n_fgsm().build().loss(smooth, batch, linf, seeded(5))
    start = (images + 2 * EPSILON * (torch.rand(images.shape, generator=seeded(5)) * 2 - 1)).clamp(0, 1)
    images_adv = (start + STEP * plain_gradient(smooth, start, labels).sign()).clamp(0, 1)
    require_same(smooth, got.total, plain_loss(smooth(images_adv), labels))
    crafted = n_fgsm().build().craft(smooth, batch, linf, seeded(5))
    assert torch.equal(crafted, images_adv)
    assert EPSILON + STEP < float(linf.size(crafted - images).max()) <= 2 * EPSILON + STEP + 1e-9


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=repr)
@pytest.mark.parametrize("make, reach", [(fgsm_rs, 0.0), (n_fgsm, 1.5), (gradalign, 0.0)])
def test_attacked_images_stay_where_the_method_says(make, reach, norm, smooth, batch):
    threat = Threat(norm=norm, epsilon=Ratio(1, 2))
    seen: list[Tensor] = []
    smooth.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    make(step_size=Ratio(1, 2)).build().loss(smooth, batch, threat, seeded(1))
    # N-FGSM's noise of twice epsilon is cut at the whole pixel range in L∞.
    for images_adv in seen:
        assert float(images_adv.min()) >= 0 and float(images_adv.max()) <= 1
        assert float(threat.size(images_adv - batch.images).max()) <= 0.5 + reach + 1e-6
    assert len(seen) == (3 if make is gradalign else 2)


def test_crafting_pass_counts_in_batch_norm_only_if_asked(smooth, batch, linf):
    norm = smooth[1]
    for name in ONE_STEP:
        passes = 3 if name == "gradalign" else 2
        for mode, want in (("train", passes), ("eval", 1)):
            method = {"fgsm_rs": fgsm_rs, "n_fgsm": n_fgsm, "gradalign": gradalign, "fgsm_mep": fgsm_mep}[name]
            norm.reset_running_stats()
            method(batch_norm=mode).build().loss(smooth, batch, linf, seeded())
            assert int(norm.num_batches_tracked) == want and smooth.training


@pytest.mark.parametrize("name", ONE_STEP)
def test_one_step_methods_are_their_two_halves(name, tiny, images, labels, linf):
    method, again, twin = MEMBERS[name](), MEMBERS[name](), copy.deepcopy(tiny)
    assert isinstance(method, OneStep) and isinstance(again, OneStep)
    batch, rng = Batch.of(images, labels), seeded(2)
    whole = method.loss(tiny, batch, linf, seeded(2))
    assert whole.adversarial is not None and whole.adversarial.shape == (12,)
    assert {"loss_start", "train_adversarial_accuracy"} <= set(whole.parts)

    leaf = again.start(twin, batch, linf, rng).clone().requires_grad_()
    logits = twin.train(again.fields.batch_norm == "train")(leaf)
    smoothing = again.crafting_smoothing
    values = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    gradient = torch.autograd.grad(values.sum(), leaf, retain_graph=True)[0]
    twin.train()
    halves = again.loss_from(twin, batch, leaf.detach(), View(gradient, values, logits), linf, rng)
    assert torch.equal(whole.total, halves.total)


@pytest.mark.parametrize("make", [fgsm_rs, n_fgsm])
def test_two_phases_give_the_same_loss(make, smooth, batch, linf):
    method = make().build()
    assert isinstance(make().build(), Crafting)
    images_adv = method.craft(smooth, batch, linf, seeded(4))
    got = method.objective(smooth, batch, images_adv).total
    assert torch.equal(got, method.loss(smooth, batch, linf, seeded(4)).total)
    assert all(parameter.grad is None for parameter in smooth.parameters())


def test_free_at_equals_a_plain_loop(smooth, images, labels, linf):
    """Replays, a perturbation that goes on to the next batch, a smaller batch and a larger one."""
    images = images.double()
    batches = [(images[:8], labels[:8]), (images[5:], labels[5:]), (images, labels)]
    twin = copy.deepcopy(smooth)
    method = FreeAt(replays=3, label_smoothing=SMOOTHING).build()
    losses = []
    for some, its in batches:
        for _ in range(method.replays):
            loss = method.loss(smooth, Batch.of(some, its), linf, seeded())
            loss.total.backward()
            descend(smooth, [parameter.grad for parameter in smooth.parameters() if parameter.grad is not None])
            smooth.zero_grad()
            losses.append(float(loss.total.detach()))

    want, delta = [], torch.zeros_like(images)
    for some, its in batches:
        for _ in range(3):
            own = (within(some + delta[: len(some)], some, EPSILON) - some).requires_grad_()
            total = plain_loss(twin(some + own), its)
            gradients = torch.autograd.grad(total, [own, *twin.parameters()])
            want.append(float(total.detach()))
            with torch.no_grad():
                delta[: len(some)] = within(some + own + EPSILON * gradients[0].sign(), some, EPSILON) - some
            descend(twin, gradients[1:])
    assert losses == pytest.approx(want, abs=1e-10)
    for learned, value in zip(smooth.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.allclose(learned, value, **NEARLY)
    method.end_epoch(smooth)
    assert torch.allclose(method.state_dict()["memory.delta"], delta, atol=1e-12)


@torch.no_grad()
def descend(model: nn.Module, gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter -= 0.5 * gradient


def test_free_at_resumes_with_the_step_that_was_pending(smooth, batch, linf):
    fields = FreeAt(replays=2, label_smoothing=0.0)
    method, other = fields.build(), fields.build()
    assert method.state_dict() == {}
    for _ in range(2):
        method.loss(smooth, batch, linf, seeded()).total.backward()
    method.end_epoch(smooth)
    other.load_state_dict(method.state_dict())
    first, second = (one.loss(smooth, batch, linf, seeded()).total for one in (method, other))
    assert torch.equal(first, second)
    other.end_epoch(smooth)
    assert float(other.state_dict()["memory.delta"].abs().max()) <= EPSILON + 1e-12
    other.load_state_dict({})
    assert other.state_dict() == {}


def test_gradalign_equals_its_equation(smooth, batch, linf):
    """Values by plain sums over images, weight gradients by central differences with ∇ℓ(x) held constant."""
    smooth.eval()
    images, labels = batch.images, batch.labels
    got = gradalign().build().loss(smooth, batch, linf, seeded(5)).total
    constant = plain_gradient(smooth, images, labels)
    images_adv = within(images + STEP * constant.sign(), images, EPSILON)
    nearby = (images + EPSILON * (torch.rand(images.shape, generator=seeded(5)) * 2 - 1)).clamp(0, 1)

    def plainly() -> float:
        gradient = plain_gradient(smooth, nearby, labels)
        cosines = [
            float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
            for a, b in zip(constant, gradient, strict=True)
        ]
        return float(plain_loss(smooth(images_adv), labels).detach()) + 0.7 * (1 - sum(cosines) / len(cosines))

    assert float(got.detach()) == pytest.approx(plainly(), abs=1e-10)
    gradients = weight_gradients(smooth, got)
    for parameter, gradient in zip(smooth.parameters(), gradients, strict=True):
        flat, place = parameter.detach().view(-1), int(gradient.abs().argmax())
        values = []
        for shift in (1e-5, -2e-5):
            flat[place] += shift
            values.append(plainly())
        flat[place] += 1e-5
        slope = (values[0] - values[1]) / 2e-5
        assert float(gradient.view(-1)[place]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_gradalign_leaves_out_images_without_a_gradient():
    here = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1e-18, 0.0]], dtype=torch.float64)
    there = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64).requires_grad_()
    got = misaligned(here, there)
    assert float(got.detach()) == pytest.approx(1 - (0 + 0.5**0.5) / 2)
    got.backward()
    assert there.grad is not None and there.grad.isfinite().all()
    assert not there.grad[1:3].any() and there.grad[0].any()
    assert float(misaligned(torch.zeros(2, 3), torch.ones(2, 3))) == 0


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: fgsm_rs(noise=Ratio(2)), r"noise\n.*less than or equal to 1 "),
        (lambda: n_fgsm(noise=Ratio(-1)), r"noise\n.*greater than or equal to 0 "),
        (lambda: gradalign(step_size=Ratio(-1, 255)), r"step_size\n.*greater than or equal to 0 "),
        (lambda: fgsm_mep(reset_every=0), r"reset_every\n.*greater than or equal to 1 "),
        (lambda: FreeAt(replays=0, label_smoothing=0.0), r"replays\n.*greater than or equal to 1 "),
    ],
)
def test_fields_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
