"""ConvergeSmooth against its equations by hand, over epochs and steps; its gradient against brute force."""

import copy
import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.methods.fgsm_mep import FgsmMep
from components.methods.parts.contract import OneStep
from components.numerics.cost import PassCounter
from components.numerics.losses import cross_entropy
from components.schedules.constant import Constant
from components.wrappers.awp import Awp
from components.wrappers.converge_smooth import Smoothing
from tests.parts.method_members import MEMBERS
from tests.parts.smoothing_parts import ONE_STEP, Scripted, both_forms, by_method, on_course, seeded, smoothing
from tests.parts.tiny_net import TinyNet


class Plain:
    """The equations in plain floats: what the parts, the total and its gradients have to be."""

    def __init__(self, fields: Smoothing) -> None:
        self.fields, self.u, self.u_adversarial = fields, [], []
        self.seen: list[float] = []
        self.seen_adversarial: list[float] = []

    def step(self, clean: list[float], adversarial: list[float]) -> tuple[dict[str, float], list[float], list[float]]:
        """The parts, and the derivatives of the terms by each clean and by each adversarial loss."""
        self.seen += clean
        self.seen_adversarial += adversarial
        parts, num = {"smooth_above": 0.0, "smooth_below": 0.0, "smooth_loss": 0.0}, len(clean)
        pulls, pulls_adversarial = [0.0] * num, [0.0] * num
        if self.u:
            parts |= {"smooth_clean": self.u[-1], "smooth_adversarial": self.u_adversarial[-1]}
        if len(self.u) < 2:
            return parts, pulls, pulls_adversarial
        distance = abs(self.u[-1] - self.u[-2])
        stride = min(max(distance, self.fields.stride_min), self.fields.stride_max)
        parts |= {"smooth_distance": distance, "smooth_stride": stride}
        w1, w2, u, u_adversarial = (
            self.fields.weight_adversarial,
            self.fields.weight_clean,
            self.u[-1],
            self.u_adversarial[-1],
        )
        if self.fields.form == "batch":
            groups = [(list(range(num)), fmean(clean), fmean(adversarial))]
        else:
            groups = [([i], clean[i], adversarial[i]) for i in range(num)]
        for members, loss, loss_adversarial in groups:
            if abs(loss - u) <= stride:
                continue
            parts["smooth_above" if loss > u else "smooth_below"] += 1 / len(groups)
            parts["smooth_loss"] += (w1 * abs(loss_adversarial - u_adversarial) + w2 * abs(loss - u)) / len(groups)
            for i in members:
                pulls[i] = math.copysign(w2 / num, loss - u)
                pulls_adversarial[i] = math.copysign(w1 / num, loss_adversarial - u_adversarial)
        return parts, pulls, pulls_adversarial

    def end_epoch(self) -> None:
        self.u.append(fmean(self.seen))
        self.u_adversarial.append(fmean(self.seen_adversarial))
        self.seen, self.seen_adversarial = [], []


@both_forms
def test_every_step_of_every_epoch_equals_the_equations(form, tiny, images, labels, linf, rng):
    """Uneven batches, a loss that falls fast, slowly and not at all, so that the stride meets both its bounds."""
    fields = smoothing(form=form)
    inner, plain = Scripted(), Plain(fields)
    method = fields.build(inner, Constant(), 8)
    strides, gated = set(), set()
    for epoch, mean in enumerate((2.0, 1.0, 0.9, 0.874, 0.873, 0.873, 0.9)):
        method.begin_epoch(epoch)
        for num in (12, 9, 4):
            inner.next(num, mean, rng)
            loss = method.loss(tiny, Batch.of(images[:num], labels[:num]), linf, rng)
            want, pulls, pulls_adversarial = plain.step(inner.clean.tolist(), inner.adversarial.tolist())
            own = 3 * fmean(inner.adversarial.tolist())
            got = {name: float(value) for name, value in loss.parts.items()}
            assert got == pytest.approx(want | {"own": own}, abs=1e-6)
            assert loss.total.item() == pytest.approx(own + want["smooth_loss"], abs=1e-12)
            gradients = torch.autograd.grad(loss.total, [inner.clean, inner.adversarial], allow_unused=True)
            clean = torch.zeros(num) if gradients[0] is None else gradients[0]
            assert clean.tolist() == pytest.approx(pulls, abs=1e-12)
            assert gradients[1].tolist() == pytest.approx([3 / num + pull for pull in pulls_adversarial], abs=1e-12)
            strides.add(round(want.get("smooth_stride", 0), 9))
            gated |= {name for name in ("smooth_above", "smooth_below") if want[name]}
        method.end_epoch(tiny)
        plain.end_epoch()
    assert {0.02, 0.03} < strides and gated == {"smooth_above", "smooth_below"}


def test_the_stride_follows_a_loss_that_falls(tiny, images, labels, linf):
    """|u(t-1) - u(t-2)|; with its sign, as in the published code, a falling loss has the least stride."""
    for distance, u_before, moved, stride in (
        ("absolute", 1.7, 0.7, 0.7),
        ("signed", 1.7, -0.7, 0.1),
        ("signed", 0.3, 0.7, 0.7),
    ):
        fields = smoothing(stride_min=0.1, stride_max=9.0, distance=distance)
        method = on_course(fields.build(MEMBERS["pgd_at"](), Constant(), 9), 1.0, u_before, 1)
        parts = method.loss(tiny, Batch.of(images, labels), linf, seeded()).parts
        assert float(parts["smooth_distance"]) == pytest.approx(moved)
        assert float(parts["smooth_stride"]) == pytest.approx(stride)


@pytest.mark.parametrize("name", ["trades", "awp_pgd_at", "mart"])
def test_the_loss_that_gates_is_smoothed_as_the_method_s_is(name, tiny, images, labels, linf):
    """u is the mean of the losses that gate: of the smoothed target, or of the labels alone."""
    inner = {
        **MEMBERS,
        "awp_pgd_at": lambda: Awp(gamma=0.01, start=0).build(MEMBERS["pgd_at"]()),
    }[name]
    for loss, share in (("smoothed", 0.0 if name == "mart" else 0.1), ("hard", 0.0)):
        method, model = smoothing(loss=loss).build(inner(), Constant(), 9), copy.deepcopy(tiny)
        method.begin_epoch(0)
        method.loss(model, Batch.of(images, labels), linf, seeded())
        method.end_epoch(model)
        want = cross_entropy(copy.deepcopy(tiny)(images), labels, share).mean()
        assert float(method.means[0]) == pytest.approx(float(want.detach()), rel=1e-6)


def test_means_are_constants(tiny, images, labels, linf):
    """No graph reaches from one epoch into the next."""
    method = smoothing().build(MEMBERS["trades"](), Constant(), 9)
    for epoch in range(2):
        method.begin_epoch(epoch)
        method.loss(tiny, Batch.of(images, labels), linf, seeded())
        method.end_epoch(tiny)
    assert not method.means.requires_grad and not method.sums.requires_grad and method.sums.abs().sum() == 0


# How the mean over the batch lies to u in the tests below.
FAR_BELOW, WITHIN, FAR_ABOVE = 0.5, 0.0, -0.5


def plain_terms(fields: Smoothing, clean: Tensor, adversarial: Tensor, u: float, u_adversarial: float) -> list[Tensor]:
    """The clean and the adversarial term, one image after the other, with their graphs."""
    if fields.form == "batch":
        clean, adversarial = clean.mean()[None], adversarial.mean()[None]
    terms = [torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)]
    for loss, loss_adversarial in zip(clean, adversarial, strict=True):
        if abs(loss.item() - u) > fields.stride_min:
            terms[0] = terms[0] + fields.weight_clean * (loss - u).abs() / len(clean)
            terms[1] = terms[1] + fields.weight_adversarial * (loss_adversarial - u_adversarial).abs() / len(clean)
    return terms


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def random_model() -> nn.Module:
    torch.manual_seed(3)
    model = TinyNet().double()
    model(torch.rand(40, 1, 8, 8, dtype=torch.float64))  # running statistics that are not those of the batch
    return model


@both_forms
@pytest.mark.parametrize("offset", [FAR_BELOW, WITHIN, FAR_ABOVE])
@pytest.mark.parametrize("weights", [(0.5, 1.0), (0.0, 1.0), (0.7, 0.0)], ids=str)
@pytest.mark.parametrize("clean", ["start", "pass"])
@pytest.mark.parametrize("gate, share", [("smoothed", 0.1), ("hard", 0.0)])
@by_method
def test_gradients_equal_brute_force(form, offset, weights, clean, gate, share, name, images, labels, linf):
    """The gradient of the total, and of a multiple of it, against that of the plain formula with one graph for each
    pass: on copies, so that no pass moves the batch statistics of another. With `example` half the gates are open."""
    model, batch = random_model(), Batch.of(images.double(), labels)
    for_loss, for_clean = copy.deepcopy(model), copy.deepcopy(model)
    loss = ONE_STEP[name]().loss(for_loss, batch, linf, seeded(5))
    assert loss.adversarial is not None
    if clean == "start":
        inner = ONE_STEP[name]()
        assert isinstance(inner, OneStep)
        points = inner.start(model, batch, linf, seeded(5))
        for_clean.train(inner.fields.batch_norm == "train")
    else:
        points = batch.images
        for_clean.load_state_dict(for_loss.state_dict())
    values = cross_entropy(for_clean(points), labels, share)
    u, u_adversarial = values.mean().item() + offset, loss.adversarial.mean().item() - 0.01
    stride = 0.03 if form == "batch" else (values.detach() - u).abs().median().item() + 1e-9
    strides = {"stride_min": stride, "stride_max": stride}
    fields = smoothing(
        form=form, weight_adversarial=weights[0], weight_clean=weights[1], clean=clean, loss=gate, **strides
    )
    clean_term, adversarial_term = plain_terms(fields, values, loss.adversarial, u, u_adversarial)
    (loss.total + adversarial_term).backward()
    if clean_term.requires_grad:
        clean_term.backward()
    left, right = gradients(for_loss), gradients(for_clean)

    method = on_course(fields.build(ONE_STEP[name](), Constant(), 9), u, u, u_adversarial)
    got = method.loss(model, batch, linf, seeded(5))
    (2 * got.total).backward()
    for key, gradient in gradients(model).items():
        assert torch.allclose(gradient, 2 * (left[key] + right[key]), rtol=1e-9, atol=1e-12), key
    assert got.total.item() == pytest.approx((loss.total + clean_term + adversarial_term).item(), abs=1e-12)
    opened = float(got.parts["smooth_above"] + got.parts["smooth_below"])
    assert opened == pytest.approx(0.5 if form == "example" else float(offset != WITHIN))
    # The statistics that evaluation uses saw the passes they would have seen anyway, and the extra one.
    moved = for_clean if clean == "pass" else for_loss
    assert all(torch.equal(one, two) for one, two in zip(model.buffers(), moved.buffers(), strict=True))


@by_method
def test_shut_gates_leave_the_method_as_it_is(name, images, labels, linf):
    """Bit for bit and pass for pass, with clean losses from the start."""
    batch, results = Batch.of(images, labels), []
    fields = smoothing(clean="start", stride_min=1e9, stride_max=1e9)
    plain, wrapped = ONE_STEP[name](), on_course(fields.build(ONE_STEP[name](), Constant(), 9), 0.0, 0.0, 0.0)
    for method in (plain, wrapped):
        torch.manual_seed(3)
        model, rng = TinyNet(), seeded(5)
        counter = PassCounter(model)
        loss = method.loss(model, batch, linf, rng)
        loss.total.backward()
        results.append((loss.total, *gradients(model).values(), *model.buffers(), rng.get_state(), counter.take()))
    assert results[0][-1] == results[1][-1]
    assert all(torch.equal(one, two) for one, two in zip(results[0][:-1], results[1][:-1], strict=True))


@pytest.mark.parametrize(
    "name, form, clean, loss, passes",
    [
        ("fgsm_rs", "batch", "start", "hard", (24, 24)),
        # FGSM-MEP's own loss goes back through the start as well.
        ("fgsm_mep", "batch", "start", "smoothed", (24, 36)),
        ("fgsm_mep", "batch", "start", "hard", (24, 48)),
        ("fgsm_rs", "batch", "start", "smoothed", (24, 36)),
        ("fgsm_rs", "example", "start", "hard", (24, 36)),
        ("fgsm_rs", "batch", "pass", "smoothed", (36, 36)),
    ],
)
def test_what_an_open_gate_costs(name, form, clean, loss, passes, tiny, images, labels, linf):
    """Where the attack climbs the loss that gates, a batch's pull takes no pass back: the attack's brings it along."""
    fields = smoothing(form=form, clean=clean, loss=loss)
    method = on_course(fields.build(ONE_STEP[name](), Constant(), 9), 0.0, 0.0, 0.0)
    counter = PassCounter(tiny)
    got = method.loss(tiny, Batch.of(images, labels), linf, seeded())
    assert float(got.parts["smooth_above"]) == 1
    got.total.backward()
    assert counter.take() == dict(zip(("forward", "backward"), passes, strict=True))


@both_forms
def test_a_graph_at_the_start_survives_the_pass_in_training_mode(form, images, labels, linf):
    """FGSM-MEP that crafts with running statistics, which its own pass then moves: against finite differences."""
    model, batch = random_model(), Batch.of(images.double(), labels)
    fields = smoothing(form=form, clean="start", stride_min=0.0, stride_max=0.0)

    def total(shift: float) -> Tensor:
        moved, fields_inner = copy.deepcopy(model), ONE_STEP["fgsm_mep"]().fields
        assert isinstance(fields_inner, FgsmMep)
        inner = replace(fields_inner, batch_norm="eval").build()
        with torch.no_grad():
            moved.get_parameter("features.0.weight")[0, 0, 0, 0] += shift
        method = on_course(fields.build(inner, Constant(), 9), 0.0, 0.0, 0.0)
        loss = method.loss(moved, batch, linf, seeded(1)).total
        loss.backward()
        return torch.stack([loss.detach(), gradients(moved)["features.0.weight"][0, 0, 0, 0]])

    step = 1e-6
    rise = (total(step)[0] - total(-step)[0]) / (2 * step)
    assert total(0.0)[1].item() == pytest.approx(rise.item(), rel=1e-5)
