"""Batches of clean and attacked images: their loss, the epsilons drawn, what is attacked, the delay, both sources."""

import math
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.errors import InputError
from components.foundation.params import Ratio, member
from components.methods import METHODS
from components.methods.ensemble_at import EnsembleAt
from components.methods.mixed import Mixed
from components.methods.parts.mixed_batch import INNER_ATTACKS, Mix, MixedMethod, transfers, truncated_normal
from components.numerics.losses import cross_entropy
from components.numerics.random_numbers import Noise
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from tests.parts.tiny_net import TinyNet

LINF = Threat(norm=Linf(), epsilon=Ratio(16, 255))
inner = pytest.mark.parametrize("attack", INNER_ATTACKS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mix(**changes: Any) -> Mix:
    fields = {"attack": "fgsm", "adversarial": Ratio(1, 3), "weight": 0.3, "epsilon_sigma": Ratio(8, 255)}
    return Mix(**fields | changes)


def mixed(delay: int = 0, smoothing: float = 0.1, **changes: Any) -> MixedMethod:
    return Mixed(mix=mix(**changes), delay=delay, label_smoothing=smoothing).build()


def plain_radius(share: float, sigma: float, largest: float) -> float:
    """The quantile of N(0, sigma²) truncated to [0, largest]."""
    normal = NormalDist()
    return sigma * normal.inv_cdf(0.5 + share * (normal.cdf(largest / sigma) - 0.5))


def probabilities(matrix: list[list[float]], bias: list[float], image: list[float]) -> list[float]:
    logits = [sum(w * x for w, x in zip(row, image, strict=True)) + b for row, b in zip(matrix, bias, strict=True)]
    powers = [math.exp(z - max(logits)) for z in logits]
    return [p / sum(powers) for p in powers]


def test_loss_and_gradient_by_hand(images, labels):
    """Kurakin's equation on a linear model in plain floats: attacks, epsilons, weighted mean, and the gradient of W."""
    threat, weight, smoothing = LINF, 0.3, 0.1
    torch.manual_seed(0)
    head = nn.Linear(64, 3)
    model = nn.Sequential(nn.Flatten(), head).double()
    method = mixed(smoothing=smoothing, weight=weight)
    loss = method.loss(model, Batch.of(images.double(), labels), threat, seeded(5))
    loss.total.backward()

    matrix, bias = head.weight.tolist(), head.bias.tolist()
    shares = torch.rand(4, generator=seeded(5)).tolist()
    radii = [plain_radius(share, 8 / 255, 16 / 255) for share in shares]
    total, count, clean = 0.0, 0.0, []
    gradient = [[0.0] * 64 for _ in range(3)]
    for i, (image, label) in enumerate(zip(images.double().flatten(1).tolist(), labels.tolist(), strict=True)):
        p = probabilities(matrix, bias, image)
        if i < 4:
            slope = [sum((p[k] - (k == label)) * matrix[k][j] for k in range(3)) for j in range(64)]
            image = [min(1.0, max(0.0, x + radii[i] * math.copysign(1, s))) for x, s in zip(image, slope, strict=True)]
            p = probabilities(matrix, bias, image)
        target = [smoothing / 3 + (1 - smoothing) * (k == label) for k in range(3)]
        factor = weight if i < 4 else 1.0
        value = -sum(t * math.log(q) for t, q in zip(target, p, strict=True))
        total, count = total + factor * value, count + factor
        clean += [value] if i >= 4 else []
        for k in range(3):
            for j in range(64):
                gradient[k][j] += factor * (p[k] - target[k]) * image[j]
    assert count == pytest.approx(8 + 0.3 * 4)
    # The uniform numbers are float32, so the epsilons have seven digits.
    assert float(loss.total.detach()) == pytest.approx(total / count, abs=1e-7)
    want = torch.tensor(gradient, dtype=torch.float64) / count
    assert head.weight.grad is not None and torch.allclose(head.weight.grad, want, rtol=0, atol=1e-7)
    assert loss.clean is not None and loss.clean.tolist() == pytest.approx(clean, abs=1e-12)
    assert loss.adversarial is not None and loss.adversarial.shape == (4,)
    assert float(loss.parts["train_epsilon"]) == pytest.approx(sum(radii) / 4, rel=1e-6)


def test_one_pass_in_training_mode_over_both_kinds(tiny, images, labels):
    """Batch norm sees the mixed batch once; crafting sees the attacked images alone and moves no statistic."""
    method, batch = mixed(adversarial=Ratio(1, 2)), Batch.of(images, labels)
    seen: list[tuple[bool, int]] = []
    handle = tiny.register_forward_pre_hook(lambda module, args: seen.append((module.training, len(args[0]))))
    crafted = method.fields.mix.craft(tiny, batch, LINF, seeded(1))
    assert torch.equal(crafted.images[6:], images[6:])
    assert all(not torch.equal(a, b) for a, b in zip(crafted.images[:6], images[:6], strict=True))
    want = tiny.features[0](crafted.images).detach()
    seen.clear()
    loss = method.loss(tiny.train(), batch, LINF, seeded(1))
    handle.remove()
    assert seen == [(False, 6), (True, 12)]
    norm = tiny.features[1]
    assert norm.num_batches_tracked == 1
    assert torch.allclose(norm.running_mean, 0.1 * want.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * want.var((0, 2, 3)), atol=1e-6)
    logits = tiny(crafted.images)
    right = (logits.argmax(1) == labels).float()
    assert loss.parts["train_adversarial_accuracy"] == right[:6].mean()
    assert loss.parts["train_accuracy"] == right[6:].mean()


@pytest.mark.parametrize("sigma, largest", [(8, 16), (12, 8), (1000, 4), (1, 16)])
def test_epsilons_follow_the_truncated_normal(sigma, largest):
    """Mean, variance and quantiles of 200,000 draws against the closed forms, in standard errors."""
    count = 200_000
    images = torch.zeros(count, 1, 1, 1)
    threat = Threat(norm=Linf(), epsilon=Ratio(largest, 255))
    radii = mix(epsilon_sigma=Ratio(sigma, 255)).draw_radii(images, threat, seeded(3)).double() * 255
    assert radii.min() >= 0 and radii.max() <= largest + 1e-5
    normal, end = NormalDist(), largest / sigma
    share = normal.cdf(end) - 0.5
    mean = sigma * (normal.pdf(0) - normal.pdf(end)) / share
    variance = sigma**2 * (1 - end * normal.pdf(end) / share) - mean**2
    assert float(radii.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / count))
    assert float(radii.var()) == pytest.approx(variance, rel=0.02)
    for q in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        below = (radii <= plain_radius(q, sigma, largest)).double().mean()
        assert float(below) == pytest.approx(q, abs=5 * math.sqrt(q * (1 - q) / count))


def test_epsilons_are_the_exact_inverse():
    shares = torch.linspace(0, 1 - 1e-6, 50, dtype=torch.float64)
    got = truncated_normal(shares, Ratio(8, 255), Ratio(16, 255)).tolist()
    assert got == pytest.approx([plain_radius(q, 8 / 255, 16 / 255) for q in shares.tolist()], abs=1e-12)


def test_every_image_has_an_epsilon_of_its_own(tiny, images, labels):
    batch = Batch.of(images, labels)
    crafted = mix(adversarial=Ratio(1, 2)).craft(tiny, batch, LINF, seeded())
    assert len(crafted.radii.unique()) == 6
    sizes = LINF.size(crafted.images - images)
    assert torch.allclose(sizes[:6], crafted.radii, atol=1e-6) and not sizes[6:].any()
    fixed = mix(adversarial=Ratio(1, 2), epsilon_sigma=None).craft(tiny, batch, LINF, seeded())
    assert torch.equal(fixed.radii, torch.full((6,), 16 / 255))


@pytest.mark.parametrize("share, size, attacked", [("1/2", 12, 6), ("1/2", 7, 3), ("1/3", 12, 4), ("1/99", 9, 1)])
def test_how_many_are_attacked(share, size, attacked, images, labels):
    batch = Batch.of(images[:size], labels[:size])
    assert mix(adversarial=Ratio(share)).num_attacked(batch) == attacked
    assert mix(adversarial=Ratio(98, 99)).num_attacked(Batch.of(images[:9], labels[:9])) == 8


@inner
def test_which_attacks_know_the_labels(attack, tiny, images, labels):
    """Only those that are meant to; what does not know the label cannot leak it."""
    crafted = [
        mix(attack=attack).craft(tiny, Batch.of(images, given), LINF, seeded(4)).images
        for given in (labels, (labels + 1) % 3)
    ]
    assert torch.equal(*crafted) == (attack in ("fgsm_predicted", "step_ll", "iter_ll"))


def test_clean_images_alone_until_the_delay_is_over(tiny, images, labels):
    """And a method restored from its state attacks at the same step."""
    method, batch = mixed(delay=3), Batch.of(images, labels)
    names = None
    for step in range(5):
        if step == 2:
            state = method.state_dict()
            assert int(state["clock.steps"]) == 2
            method = mixed(delay=3)
            method.load_state_dict(state)
        rng = seeded(step)
        loss = method.loss(tiny, batch, LINF, rng)
        want = cross_entropy(tiny(images), labels, 0.1)
        attacks = step >= 3
        assert (loss.adversarial is not None) == attacks == (not torch.equal(loss.total, want.mean()))
        assert loss.clean is not None and len(loss.clean) == (8 if attacks else 12)
        assert attacks or torch.equal(loss.clean, want)
        assert (loss.parts["train_epsilon"] > 0) == attacks
        assert torch.equal(rng.get_state(), seeded(step).get_state()) != attacks
        # The loop averages the parts over an epoch, so each step of it must have the same.
        assert names in (None, list(loss.parts))
        names = list(loss.parts)
    assert int(method.state_dict()["clock.steps"]) == 5


def test_equal_weights_and_no_room_is_standard_training(tiny, images, labels):
    threat = Threat(norm=Linf(), epsilon=Ratio(0))
    loss = mixed(weight=1.0, epsilon_sigma=Ratio(1, 255)).loss(tiny.eval(), Batch.of(images, labels), threat, seeded())
    assert torch.allclose(loss.total, cross_entropy(tiny(images), labels, 0.1).mean())


def test_labels_may_be_probabilities(tiny, images, labels):
    certain = nn.functional.one_hot(labels, 3).float()
    losses = [
        mixed(smoothing=0.0).loss(tiny.eval(), Batch.of(images, given), LINF, seeded()) for given in (labels, certain)
    ]
    assert torch.allclose(losses[0].total, losses[1].total) and losses[0].parts == losses[1].parts


def teacher() -> TinyNet:
    torch.manual_seed(11)
    return TinyNet().eval().requires_grad_(False)


def test_ensemble_attacks_through_one_of_both_networks(tiny, images, labels):
    """The images of a step are those that the mixed batch of the chosen source holds; its loss is the model's."""
    clean_teacher, batch = teacher(), Batch.of(images, labels)
    method = EnsembleAt(mix=mix(), delay=2, label_smoothing=0.1).build(clean_teacher)
    asked: list[str] = []
    for name, network in (("teacher", clean_teacher), ("model", tiny)):
        network.register_forward_hook(lambda module, args, out, name=name: asked.append(name))
    tiny.eval()
    chosen = []
    for step in range(40):
        asked.clear()
        loss = method.loss(tiny, batch, LINF, seeded(6))
        served = list(asked)
        if step < 2:
            assert served == ["model"] and loss.adversarial is None
            continue
        assert served in (["teacher", "model"], ["model", "model"])
        source = clean_teacher if served[0] == "teacher" else tiny
        want = mix().craft(source, batch, LINF, seeded(6)).images
        values = cross_entropy(tiny(want), labels, 0.1)
        assert torch.allclose(loss.total, (values[4:].sum() + 0.3 * values[:4].sum()) / (8 + 0.3 * 4))
        chosen.append(served[0])
        if step == 20:  # killed and continued
            again = EnsembleAt(mix=mix(), delay=2, label_smoothing=0.1).build(clean_teacher)
            again.load_state_dict(method.state_dict())
            method = again
        loss.total.backward()
        assert all(parameter.grad is None for parameter in clean_teacher.parameters())
    assert [name == "teacher" for name in chosen] == [transfers(step, seeded(6)) for step in range(2, 40)]
    assert set(chosen) == {"teacher", "model"}


def test_both_sources_have_the_same_chance():
    for seed in range(3):
        thrown = [transfers(step, seeded(seed)) for step in range(500)]
        assert abs(sum(thrown) - 250) < 5 * math.sqrt(125)
        repeated = sum(a == b for a, b in pairwise(thrown))
        assert abs(repeated - 250) < 5 * math.sqrt(125)
        assert thrown != [transfers(step, seeded(seed + 1)) for step in range(500)]
        assert thrown == [transfers(step, Noise(seed, torch.arange(3))) for step in range(500)]


SECTION = {
    "name": "mixed",
    "mix": {"attack": "step_ll", "adversarial": "1/2", "weight": 0.3, "epsilon_sigma": "8/255"},
    "delay": 0,
    "label_smoothing": 0.1,
}


@pytest.mark.parametrize("name", ["mixed", "ensemble_at"])
@pytest.mark.parametrize(
    "key, value, message",
    [
        ("adversarial", "1", "method.mix.adversarial: got '1', want less than 1"),
        ("adversarial", 0, "method.mix.adversarial: got 0, want more than 0"),
        ("weight", -1, "method.mix.weight: got -1, want at least 0"),
        ("epsilon_sigma", 0, "method.mix.epsilon_sigma: got 0, want more than 0"),
        ("attack", "pgd", r"method.mix.attack: input should be 'fgsm', 'fgsm_predicted', .*got 'pgd'"),
        ("delay", -1, "method.delay: got -1, want at least 0"),
    ],
)
def test_fields_are_checked(name, key, value, message):
    section: dict[str, Any] = SECTION | {"name": name}
    assert member(METHODS, section, "method").mix == mix(attack="step_ll", adversarial=Ratio(1, 2))
    bad = section | ({key: value} if key == "delay" else {"mix": section["mix"] | {key: value}})
    with pytest.raises(InputError, match=message):
        member(METHODS, bad, "method")


def test_a_batch_of_one_image_is_refused(tiny, images, labels):
    with pytest.raises(InputError, match="got a batch of 1 image"):
        mixed().loss(tiny, Batch.of(images[:1], labels[:1]), LINF, seeded())


def test_radii_stay_with_the_type_of_the_images(tiny):
    drawn = [mix(epsilon_sigma=sigma).draw_radii(torch.zeros(3, 1, 8, 8), LINF, seeded()) for sigma in (None, 1)]
    assert all(isinstance(radii, Tensor) and radii.shape == (3,) and radii.dtype == torch.float32 for radii in drawn)
