"""MART, clean guidance, self-distillation and their parts against slow, plain formulas, gradients too, in float64."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.kd_swa import KdSwa
from components.foundation.errors import InputError
from components.methods.hat import Hat
from components.methods.lbgat import Lbgat
from components.methods.mart import Mart
from components.methods.parts.soft_targets import rectified, softened, without_advice
from components.methods.parts.two_views import logits_of
from components.methods.pgd_at import PgdAt
from components.methods.trades import Trades
from components.numerics.cost import PassCounter
from tests.parts.equations import PLACES, WIDE, crafted, network, require_equal, rows, seeded, teacher, trained
from tests.parts.method_members import ATTACK, KL_ATTACK, STEP, STUDENT_ATTACK, adr, cktat, frozen
from tests.parts.plain_sums import (
    Rows,
    mean,
    plain_cross_entropy,
    plain_kl,
    plain_rectified,
    plain_soft_cross_entropy,
    plain_softmax,
    slopes,
)
from tests.parts.tiny_net import TinyNet


@pytest.fixture
def batch(images: Tensor, labels: Tensor) -> Batch:
    return Batch.of(images.double(), labels)


def plain_smoothness(clean: Rows, attacked: Rows) -> float:
    return mean([plain_kl(plain_softmax(z), z_adv) for z, z_adv in zip(clean, attacked, strict=True)])


def plain_mean_cross_entropy(logits: Rows, labels: Tensor) -> float:
    return mean([plain_cross_entropy(z, y) for z, y in zip(logits, labels.tolist(), strict=True)])


def test_mart_equals_its_equation(batch):
    model, weight = trained(1)

    def plain(images_adv: Tensor) -> float:
        total = 0.0
        views = zip(rows(model, batch.images), rows(model, images_adv), batch.labels.tolist(), strict=True)
        for clean, attacked, label in views:
            p, p_adv = plain_softmax(clean), plain_softmax(attacked)
            wrong = max(value for k, value in enumerate(p_adv) if k != label)
            boosted = plain_cross_entropy(attacked, label) - math.log(1.0001 - wrong)
            total += boosted + 5 * plain_kl(p, attacked) * (1 - p[label])
        return total / len(batch.labels)

    require_equal(Mart(attack=ATTACK, beta=5.0).build(), model, batch, plain, [weight])


@pytest.mark.parametrize("reduction, divisor", [("class_mean", 3), ("batch_mean", 1)])
@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_lbgat_equals_its_equation_and_teaches_both(beta, reduction, divisor, batch):
    (model, weight), clean_teacher = trained(1), teacher(2)
    method = Lbgat(attack=KL_ATTACK, beta=beta, reduction=reduction, companion="clean").build(clean_teacher)
    (guide,) = method.companions()

    def plain(images_adv: Tensor) -> float:
        clean, attacked, guiding = (
            rows(net, x) for net, x in ((model, batch.images), (model, images_adv), (guide, batch.images))
        )
        squares = [
            sum((a - b) ** 2 for a, b in zip(z_adv, g, strict=True)) / divisor
            for z_adv, g in zip(attacked, guiding, strict=True)
        ]
        learning = plain_mean_cross_entropy(guiding, batch.labels)
        return mean(squares) + learning + beta * plain_smoothness(clean, attacked)

    require_equal(method, model, batch, plain, [weight, guide.get_parameter("2.weight")])


def test_hat_equals_its_equation(batch):
    (model, weight), clean_teacher = trained(1), teacher(2)
    method = Hat(attack=KL_ATTACK, beta=2.5, gamma=0.5, reach=2.0).build(clean_teacher)

    def plain(images_adv: Tensor) -> float:
        clean, attacked = rows(model, batch.images), rows(model, images_adv)
        helped = rows(model, batch.images + 2 * (images_adv - batch.images))
        advice = clean_teacher(images_adv).argmax(1)
        learning = plain_mean_cross_entropy(clean, batch.labels)
        return learning + 2.5 * plain_smoothness(clean, attacked) + 0.5 * plain_mean_cross_entropy(helped, advice)

    require_equal(method, model, batch, plain, [weight])


def test_helpers_lie_beyond_and_are_labelled_at_the_attacked_image(batch):
    clean_teacher = teacher(2)
    fields = Hat(attack=KL_ATTACK, beta=2.5, gamma=0.5, reach=4.0)
    images_adv = crafted(fields.build(clean_teacher), network(1), batch)
    helpers, advice = fields.helpers(batch.images, images_adv, clean_teacher)
    assert torch.allclose(helpers - images_adv, 3 * (images_adv - batch.images))
    assert helpers.min() < 0 and helpers.max() > 1  # on the line through both, wherever it leads
    assert torch.equal(advice, clean_teacher(images_adv).argmax(1))
    for elsewhere in (clean_teacher(helpers).argmax(1), clean_teacher(batch.images).argmax(1), batch.labels):
        assert not torch.equal(advice, elsewhere)
    with pytest.raises(ValueError, match=r"reach\n.*greater than 1 "):
        Hat(attack=KL_ATTACK, beta=2.5, gamma=0.5, reach=1.0)


def test_the_attack_up_the_divergence_is_that_of_trades(batch):
    """So that methods built on TRADES need no attack of their own."""
    model = network(1)
    trades = Trades(beta=6.0, steps=2, step_size=STEP, start="gaussian", label_smoothing=0.0).build()
    own = Hat(attack=KL_ATTACK, beta=2.5, gamma=0.5, reach=2.0).build(teacher(2))
    want = crafted(trades, model, batch)
    assert torch.equal(crafted(own, model, batch), want) and not torch.equal(want, batch.images)


def plain_advice(fields: Any, logits: Sequence[float], label: int) -> list[float]:
    """The target of the CKTAT-style objective, cell by cell of its table."""
    certain = [float(k == label) for k in range(len(logits))]
    if fields.lower_difficulty and fields.correct_guidance:
        target = plain_softmax(logits, fields.temperature)
    elif fields.correct_guidance:
        target = plain_softmax(logits)
    elif fields.lower_difficulty:
        sure = plain_softmax(logits, fields.temperature)[label]
        target = [sure if k == label else (1 - sure) / (len(logits) - 1) for k in range(len(logits))]
    else:
        return certain
    return plain_rectified(target, label, 1.0) if fields.rectify else target


SWITCHES = [(difficulty, guidance) for difficulty in (False, True) for guidance in (False, True)]


@pytest.mark.parametrize("difficulty, guidance", SWITCHES)
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_cktat_equals_its_equation_in_every_cell(beta, rectify, difficulty, guidance, batch):
    (model, weight), clean_teacher = trained(1), teacher(2)
    fields = cktat(beta=beta, rectify=rectify, lower_difficulty=difficulty, correct_guidance=guidance)
    advising = rows(clean_teacher, batch.images)
    advice = [plain_advice(fields, z, y) for z, y in zip(advising, batch.labels.tolist(), strict=True)]

    def plain(images_adv: Tensor) -> float:
        clean, attacked = rows(model, batch.images), rows(model, images_adv)
        guided = mean([plain_kl(q, z) for q, z in zip(advice, attacked, strict=True)])
        learning = plain_mean_cross_entropy(attacked, batch.labels)
        return 0.6 * learning + 0.4 * guided + beta * plain_smoothness(clean, attacked)

    require_equal(fields.build(clean_teacher), model, batch, plain, [weight])


def test_the_switches_give_four_different_targets(batch):
    logits = teacher(2)(batch.images)
    targets = [
        cktat(rectify=False, lower_difficulty=difficulty, correct_guidance=guidance).target(logits, batch.labels)
        for difficulty, guidance in SWITCHES
    ]
    assert all(torch.allclose(target.sum(1), torch.ones(12).double()) for target in targets)
    distances = [float((a - b).abs().max()) for i, a in enumerate(targets) for b in targets[:i]]
    assert min(distances) > 0.05
    # Lower difficulty alone is as sure of the true class as both together, and knows no wrong class from another.
    _, _, lower, both = targets
    at_label = batch.labels[:, None]
    assert torch.equal(lower.gather(1, at_label), both.gather(1, at_label))
    wrong = lower.scatter(1, at_label, torch.nan)
    assert all(len(set(row[~row.isnan()].tolist())) == 1 for row in wrong)


def test_cktat_without_either_kind_is_adversarial_training(tiny, images, labels, linf):
    """Bit for bit, batch norm's statistics too: neither x nor the teacher is looked at."""
    batch, other, clean_teacher = Batch.of(images, labels), copy.deepcopy(tiny), frozen(11)
    counter = PassCounter(clean_teacher)
    control = cktat(beta=0.0, lower_difficulty=False, correct_guidance=False).build(clean_teacher)
    total = control.loss(tiny, batch, linf, seeded()).total
    want = PgdAt(attack=ATTACK, label_smoothing=0.0).build().loss(other, batch, linf, seeded()).total
    assert torch.equal(total, want) and counter.take()["forward"] == 0
    assert all(torch.equal(a, b) for a, b in zip(tiny.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"alpha": 0.0}, "got alpha 0 with lower_difficulty or correct_guidance"),
        ({"alpha": 0.0, "lower_difficulty": False}, "got alpha 0 with"),
        ({"temperature": 1.0}, "got lower_difficulty with temperature 1, want it above 1"),
        ({"temperature": 0.5, "lower_difficulty": False}, r"temperature\n.*greater than or equal to 1 "),
        ({"alpha": 1.2}, r"alpha\n.*less than or equal to 1 "),
        ({"beta": -1.0}, r"beta\n.*greater than or equal to 0 "),
    ],
)
def test_cktat_refuses_what_would_mean_nothing(changes, message):
    with pytest.raises(ValueError, match=message):
        cktat(**changes)


def test_cktat_switched_off_keeps_its_numbers():
    """So that a grid over the switches needs no other change."""
    assert not cktat(alpha=0.0, lower_difficulty=False, correct_guidance=False).learns_from_teacher
    assert cktat(temperature=1.0, lower_difficulty=False).learns_from_teacher


def test_rectified_targets_never_prefer_a_wrong_class(rng):
    logits = torch.randn(500, 7, generator=rng, dtype=torch.float64) * 4
    labels = torch.randint(0, 7, (500,), generator=rng)
    target = softened(logits, 2.0)
    assert 0.05 < (target.argmax(1) == labels).double().mean() < 0.5
    for weight in (0.0, 0.7, 1.0):
        got = rectified(target, labels, weight)
        want = [plain_rectified(q, y, weight) for q, y in zip(target.tolist(), labels.tolist(), strict=True)]
        assert torch.allclose(got, torch.tensor(want).double(), atol=1e-12)
        assert torch.equal(got.argmax(1), labels)
    assert torch.allclose(without_advice(target, labels).sum(1), torch.ones(500).double())


def test_kd_swa_equals_its_equation(batch):
    (model, weight), clean_teacher, robust_teacher = trained(1), teacher(2), teacher(3)
    fields = KdSwa(attack=STUDENT_ATTACK, clean_weight=0.1, robust_weight=0.6, temperature=2.0)

    def distilled(student: Rows, advising: Rows) -> float:
        pairs = zip(student, advising, strict=True)
        soft = [plain_soft_cross_entropy(plain_softmax(t, 2.0), [z / 2 for z in s]) for s, t in pairs]
        return 4 * mean(soft)

    def plain(images_adv: Tensor) -> float:
        student = rows(model, images_adv)
        clean = distilled(student, rows(clean_teacher, images_adv))
        robust = distilled(student, rows(robust_teacher, images_adv))
        return 0.3 * plain_mean_cross_entropy(student, batch.labels) + 0.1 * clean + 0.6 * robust

    require_equal(fields.build(clean_teacher, robust_teacher), model, batch, plain, [weight])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"clean_weight": 0.5}, "at most 1 in sum"),
        ({"robust_weight": -0.1}, r"robust_weight\n.*greater than or equal to 0 "),
        ({"temperature": 0.0}, r"temperature\n.*greater than 0 "),
    ],
)
def test_kd_swa_refuses_weights_that_are_no_shares(changes, message):
    fields: dict[str, Any] = {"attack": STUDENT_ATTACK, "clean_weight": 0.1, "robust_weight": 0.6, "temperature": 2.0}
    assert KdSwa(**{**fields, "clean_weight": 0.7, "robust_weight": 0.3})
    with pytest.raises(ValueError, match=message):
        KdSwa(**{**fields, **changes})


def test_a_companion_starts_from_the_teacher_or_afresh():
    clean_teacher = frozen(11)
    before = copy.deepcopy(clean_teacher.state_dict())
    recipes = {
        start: Lbgat(attack=KL_ATTACK, beta=0.0, reduction="class_mean", companion=start)
        for start in ("clean", "random")
    }
    warm = recipes["clean"].build(clean_teacher)
    (companion,) = warm.companions()
    assert all(parameter.requires_grad for parameter in companion.parameters())
    assert all(torch.equal(companion.state_dict()[name], tensor) for name, tensor in before.items())
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(recipes["random"].build(clean_teacher).companions()[0].state_dict())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in before)
    weight = "features.0.weight"
    assert not torch.equal(drawn[0][weight], drawn[2][weight]) and not torch.equal(drawn[0][weight], before[weight])
    assert all(torch.equal(clean_teacher.state_dict()[name], tensor) for name, tensor in before.items())
    # Its state is all there is to know of it.
    warm.load_state_dict({f"companion.{name}": tensor for name, tensor in drawn[0].items()})
    assert all(torch.equal(companion.state_dict()[name], drawn[0][name]) for name in before)


class Lonely(nn.Module):
    """A layer with a weight and no way to draw it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


def test_a_layer_that_cannot_start_afresh_is_named():
    with pytest.raises(InputError, match=r"^lbgat: got companion 'random', want 'clean': Lonely cannot start afresh$"):
        Lbgat(attack=ATTACK, beta=0.0, reduction="class_mean", companion="random").build(
            nn.Sequential(nn.Linear(2, 2), Lonely())
        )


def plain_labels(average: nn.Module, batch: Batch, temperature: float, weight: float) -> list[list[float]]:
    views = zip(rows(average, batch.images), batch.labels.tolist(), strict=True)
    return [plain_rectified(plain_softmax(z, temperature), y, weight) for z, y in views]


def test_adr_by_hand_over_three_steps_and_epochs(batch):
    """The average follows each step, temperature and weight each epoch, and the attack climbs the loss itself."""
    model, weight = trained(1)
    method = adr().build()
    average = copy.deepcopy(model)
    for epoch, (temperature, share) in enumerate([(2.5, 0.7), (2.4267767, 0.7366117), (2.25, 0.825)]):
        method.begin_epoch(epoch)
        if epoch:
            with torch.no_grad():
                for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
                    mine.copy_(0.9 * mine + 0.1 * theirs)
        target = plain_labels(average, batch, temperature, share)
        want = torch.tensor(target).double()
        images_adv = WIDE.random_start(batch.images, seeded())
        for _ in range(2):
            leaf = images_adv.detach().requires_grad_()
            climb = -(want * model(leaf).log_softmax(1)).sum()
            step = float(STEP) * torch.autograd.grad(climb, leaf)[0].sign()
            images_adv = WIDE.project(leaf.detach() + step, batch.images)

        def plain(images_adv: Tensor = images_adv, target: Rows = target) -> float:
            attacked = rows(model, images_adv)
            return mean([plain_soft_cross_entropy(q, z) for q, z in zip(target, attacked, strict=True)])

        loss = method.loss(model, batch, WIDE, seeded())
        assert float(loss.total.detach()) == pytest.approx(plain(), abs=1e-6)
        assert float(loss.parts["temperature"]) == pytest.approx(temperature, abs=1e-6)
        gradient = torch.autograd.grad(loss.total, weight)[0]
        want_slopes = slopes(plain, weight, PLACES)
        assert gradient.flatten()[list(PLACES)].tolist() == pytest.approx(want_slopes, abs=1e-6)
        with torch.no_grad():
            weight -= 0.5 * gradient


def test_adr_schedule_goes_from_one_end_to_the_other(tiny, images, labels, linf):
    method = adr(epochs=40).build()
    temperatures = []
    for epoch in range(40):
        method.begin_epoch(epoch)
        temperatures.append(float(method.loss(tiny, Batch.of(images, labels), linf, seeded()).parts["temperature"]))
    assert temperatures == sorted(temperatures, reverse=True) and temperatures[0] == 2.5
    assert temperatures[20] == pytest.approx(2.25) and temperatures[-1] == pytest.approx(2.0, abs=1e-3)


def test_the_average_of_adr_is_in_evaluation_mode_and_counted(tiny, images, labels):
    """Its statistics are averages too, the model's own stay, and its pass is part of the cost."""
    batch, method = Batch.of(images, labels), adr(decay=0.9).build()
    counter = PassCounter(tiny)
    method.relabelled(tiny, batch)
    averaged = copy.deepcopy(tiny).eval()
    for seen in (images, images / 2):
        tiny(seen)  # training mode: moves statistics
    with torch.no_grad():
        tiny.head.bias.add_(1)
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    counter.take()
    got = method.relabelled(tiny, batch)
    assert counter.take() == {"forward": 12, "backward": 0}
    assert tiny.training and all(torch.equal(tiny.state_dict()[name], tensor) for name, tensor in before.items())
    state = {n: t if t.dtype == torch.int64 else 0.9 * averaged.state_dict()[n] + 0.1 * t for n, t in before.items()}
    averaged.load_state_dict(state)
    want = rectified(softened(averaged(images), 2.5), labels, 0.7).detach()
    assert torch.allclose(got.labels, want, atol=1e-6) and not got.labels.requires_grad
    assert torch.equal(got.images, images) and method.average["features.1.num_batches_tracked"] == 2


def test_a_restored_average_lies_in_memory_like_the_model(images, labels):
    """Convolutions may differ in the last bits with the memory format, and a checkpoint keeps none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 3))
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batch = Batch.of(images.repeat(1, 2, 1, 1), labels)
    method, restored = adr().build(), adr().build()
    method.relabelled(model, batch)
    restored.load_state_dict({name: tensor.contiguous() for name, tensor in method.state_dict().items()})
    restored.relabelled(model, batch)
    weight = model.get_parameter("0.weight")
    assert not weight.is_contiguous()
    assert restored.average["0.weight"].stride() == weight.stride()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"temperature_to": 0.0}, r"temperature_to\n.*greater than 0 "),
        ({"weight_from": 1.5}, r"weight_from\n.*less than or equal to 1 "),
        ({"decay": -0.1}, r"decay\n.*greater than or equal to 0 "),
        ({"epochs": 0}, r"epochs\n.*greater than or equal to 1 "),
    ],
)
def test_adr_refuses_numbers_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        adr(**changes)


@pytest.mark.parametrize(
    "method",
    [Mart(attack=ATTACK, beta=5.0).build(), adr().build(), cktat().build(frozen(11))],
    ids=["mart", "adr", "cktat"],
)
def test_mixed_labels_are_refused_where_one_class_is_needed(method, tiny, images, linf):
    batch = Batch.of(images, torch.full((12, 3), 1 / 3))
    with pytest.raises(InputError, match="needs one class for each image"):
        method.loss(tiny, batch, linf, seeded())


def test_logits_are_float32_at_least(images):
    model = TinyNet()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.bfloat16 and logits_of(model, images).dtype == torch.float32
    assert logits_of(model.double(), images.double()).dtype == torch.float64
