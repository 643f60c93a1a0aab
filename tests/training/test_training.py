"""The loop: resume is exact, selection and divergence behave, averages follow their formula."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.data.augmentation import Augmentation, augment
from components.data.batch import Batch
from components.data.loader import Loader
from components.foundation.errors import InputError
from components.methods.parts.contract import Loss, Method
from components.methods.pgd_at import PgdAt
from components.methods.standard import Standard
from components.models.parts.averaging import Ema, MovingAverage
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.numerics.cost import PassCounter
from components.optimizers.adamw import AdamW
from components.optimizers.sgd import Sgd
from components.schedules.cyclic import Cyclic
from components.schedules.linear import Linear
from components.schedules.one_cycle import OneCycle
from components.training.layers import Layers
from components.training.loop import Plan, Recipe, fit, start
from components.training.validation import Validation
from tests.parts.method_members import ATTACK, MEMBERS, WRAPPED
from tests.parts.tiny_net import TinyNet

SGD = Sgd(momentum=0.9, nesterov=True, weight_decay=5e-4, decay_norms=True)
ADAMW = AdamW(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05, decay_norms=False)
STILL = Augmentation(crop=0, flip=False, cutmix=0.0, rand_augment=None)


def recipe(**changes) -> Recipe:
    fields = {
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 0.1,
        "optimizer": SGD,
        "gradient_clip": 1.0,
        "average": Ema(name="ema", decay=0.9),
        "augmentation": Augmentation(crop=1, flip=True, cutmix=0.0, rand_augment=None),
        "precision": "float32",
        "select_by": "mean_accuracy",
        "patience": None,
    }
    return Recipe(**fields | changes)


def data(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=rng, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        images[index, 0, 2 * label : 2 * label + 3] += 120  # a bright band says which class
    return images, labels


def new_run(method, linf, folder: Path, plan_recipe: Recipe):
    images, labels = data()
    torch.manual_seed(1)
    probe = KernelProbe(ProbeSchedule(epochs=(0, 1, 3, 4), size=6, directions=4), images, labels, 3, seed=0)
    validation = Validation(images[:10], labels[:10], ATTACK, linf, 4, probe, seed=0)
    state = start(TinyNet(), method, validation, plan_recipe, seed=0)
    loader = Loader(images, labels, plan_recipe.batch_size, plan_recipe.augmentation, num_classes=3)
    plan = Plan(plan_recipe, OneCycle(start=0.1, peak=0.3), linf, seed=0)
    return state, fit(state, loader, plan, folder)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MEMBERS | WRAPPED)
def test_stopped_and_continued_equals_uninterrupted(name, precision, linf, tmp_path):
    """Weights, average, momentum, method state, generator, history and best epoch, all bit for bit."""
    stopped_and_continued(name, linf, tmp_path, recipe(precision=precision))


@pytest.mark.parametrize("name", ["standard", "lbgat"])
@pytest.mark.parametrize("layers", [None, Layers(decay=0.5, frozen_epochs=3)], ids=str)
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_optimizers_and_layers_go_on_where_they_were(name, layers, optimizer, linf, tmp_path):
    """Also where layers have waited before the stop, or wait after it."""
    stopped_and_continued(name, linf, tmp_path, recipe(optimizer=optimizer, layers=layers, learning_rate=0.01))


def stopped_and_continued(name: str, linf, tmp_path: Path, fields: Recipe) -> None:
    whole, steps = new_run((MEMBERS | WRAPPED)[name](), linf, tmp_path / "whole", fields)
    assert len(list(steps)) == 5
    for _ in range(2):  # killed after two epochs, twice; what was in memory is lost
        _, steps = new_run((MEMBERS | WRAPPED)[name](), linf, tmp_path / "cut", fields)
        for _ in range(2):
            next(steps)
        del steps
        torch.manual_seed(999)
    again, steps = new_run((MEMBERS | WRAPPED)[name](), linf, tmp_path / "cut", fields)
    assert len(list(steps)) == 1
    assert again.history == whole.history and again.best_epoch == whole.best_epoch and again.passes == whole.passes
    assert [list(record) for record in again.history] == [list(record) for record in whole.history]  # the CSV's columns
    left, right = whole._tensors(), again._tensors()
    assert left.keys() == right.keys() and any(key.startswith("optimizer/m") for key in left)
    assert all(torch.equal(left[key], right[key]) for key in left)
    best = [state.best_weights(folder) for state, folder in ((whole, tmp_path / "whole"), (again, tmp_path / "cut"))]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])
    assert len(list((tmp_path / "cut").glob("best-*"))) == 1


def test_it_learns(linf, tmp_path):
    state, steps = new_run(Standard(label_smoothing=0.0).build(), linf, tmp_path, recipe(epochs=8))
    records = list(steps)
    assert records[-1]["clean_accuracy"] > 0.9 > records[0]["clean_accuracy"]
    assert state.best_score == max(record["mean_accuracy"] for record in records)
    assert "ntk_clean_distance_first" in records[3] and "ntk_clean_distance_first" not in records[2]


class NanAtStepFour(Method):
    """A loss that stops being finite at its fourth step."""

    steps = 0

    def loss(self, model, batch, threat, rng) -> Loss:
        self.steps += 1
        total = model(batch.images).square().mean() * (math.nan if self.steps == 4 else 1.0)
        return Loss(total, {"part": total.detach()})


def test_non_finite_loss_stops_with_what_led_to_it(linf, tmp_path):
    _, steps = new_run(NanAtStepFour(), linf, tmp_path, recipe())
    next(steps)
    with pytest.raises(InputError, match=r"loss became nan in epoch 1, step 4, at learning rate .*gradient norm"):
        next(steps)


def test_a_foreign_checkpoint_is_refused_in_one_line(linf, tmp_path):
    _, steps = new_run(Standard(label_smoothing=0.0).build(), linf, tmp_path, recipe())
    next(steps)
    images, labels = data()
    probe = KernelProbe(ProbeSchedule(epochs=(), size=6, directions=4), images, labels, 3, seed=0)
    validation = Validation(images, labels, ATTACK, linf, 8, probe, seed=0)
    state = start(TinyNet(classes=5), Standard(label_smoothing=0.0).build(), validation, recipe(), seed=0)
    with pytest.raises(InputError, match="does not fit this run"):
        state.load(tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(InputError, match="truncated"):
        state.load(tmp_path)


def test_average_follows_its_formula():
    torch.manual_seed(0)
    model = TinyNet()
    average = MovingAverage(model, decay=0.5)
    want = model.head.bias.detach().clone()
    for step in range(1, 20):
        with torch.no_grad():
            model.head.bias.add_(1)
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        want = decay * want + (1 - decay) * model.head.bias.detach()
    averaged = average.model.state_dict()
    assert torch.allclose(averaged["head.bias"], want)
    assert torch.equal(averaged["features.1.num_batches_tracked"], model.state_dict()["features.1.num_batches_tracked"])


def test_epochs_visit_every_image_once_in_even_batches():
    images, labels = data(41)
    loader = Loader(images, labels, batch_size=8, augmentation=STILL, num_classes=3)
    batches = list(loader.epoch(order_seed=3, rng=torch.Generator()))
    sizes = [len(batch.labels) for batch in batches]
    assert sum(sizes) == 41 and max(sizes) <= 8 and max(sizes) - min(sizes) <= 1
    seen = torch.cat([batch.indices for batch in batches])
    assert sorted(seen.tolist()) == list(range(41))
    for batch in batches:
        assert torch.equal(batch.images, images[batch.indices].float() / 255)
        assert torch.equal(batch.labels, labels[batch.indices])
    other = torch.cat([b.indices for b in loader.epoch(order_seed=4, rng=torch.Generator())])
    assert not torch.equal(seen, other)


def test_augmentation_shifts_and_flips_whole_images(rng):
    images, _ = data(30)
    moved, placement = augment(images, replace(STILL, crop=2, flip=True), rng)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    shifts = set()
    for before, after in zip(padded, moved, strict=True):
        crops = {(dy, dx): before[:, dy : dy + 8, dx : dx + 8] for dy in range(5) for dx in range(5)}
        both = [(*at, flip, crop.flip(2) if flip else crop) for at, crop in crops.items() for flip in (False, True)]
        found = [(dy, dx, flip) for dy, dx, flip, crop in both if torch.equal(after, crop)]
        assert found
        shifts.add(found[0])
    assert len(shifts) > 10
    # What is moved along with an image comes back to its place, but for what was cut off.
    before = torch.zeros_like(images)
    returned = placement.back(moved, before)
    seen = placement.back(torch.ones_like(moved), before).bool()
    assert torch.equal(returned[seen], images[seen]) and not returned[~seen].any()
    assert 0.5 < seen.float().mean() < 1
    assert torch.equal(augment(images, STILL, rng)[0], images)


def test_passes_are_counted(tiny, images, labels, linf):
    counter = PassCounter(tiny)
    ATTACK(tiny, images, labels, linf, torch.Generator().manual_seed(0))
    assert counter.take() == {"forward": 24, "backward": 24}
    PgdAt(attack=ATTACK, label_smoothing=0.0).build().loss(
        tiny, Batch.of(images, labels), linf, torch.Generator()
    ).total.backward()
    assert counter.take() == {"forward": 36, "backward": 36}
    counter.close()
    tiny(images)
    assert counter.take() == {"forward": 0, "backward": 0}


def test_measuring_more_does_not_change_training(linf, tmp_path):
    one, steps = new_run(PgdAt(attack=ATTACK, label_smoothing=0.0).build(), linf, tmp_path / "a", recipe())
    list(steps)
    other, steps = new_run(PgdAt(attack=ATTACK, label_smoothing=0.0).build(), linf, tmp_path / "b", recipe())
    assert isinstance(other.measure, Validation)
    other.measure.images, other.measure.labels = data()
    list(steps)
    weights = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in weights)


def test_the_first_step_of_a_warm_up_moves_the_weights(linf, tmp_path, monkeypatch):
    """Two epochs of five steps, the first of which is the warm-up."""
    plan_recipe, rates = recipe(epochs=2, learning_rate=0.1, optimizer=SGD), list[float]()
    state, _ = new_run(Standard(label_smoothing=0.0).build(), linf, tmp_path / "unused", plan_recipe)
    step = state.optimizer.step

    def noted(rate: float, momentum: float) -> None:
        rates.append(rate)
        step(rate, momentum)

    monkeypatch.setattr(state.optimizer, "step", noted)
    loader = Loader(*data(), plan_recipe.batch_size, STILL, num_classes=3)
    assert len(list(fit(state, loader, Plan(plan_recipe, Linear(warmup=1), linf, 0), tmp_path / "own"))) == 3
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02])


def test_each_step_has_the_momentum_of_its_schedule(linf, tmp_path, monkeypatch):
    """Two epochs of five steps, the peak at the middle; both forms of momentum get it."""
    for nesterov in (False, True):
        plan_recipe = recipe(epochs=2, optimizer=replace(SGD, nesterov=nesterov))
        state, _ = new_run(Standard(label_smoothing=0.0).build(), linf, tmp_path / "unused", plan_recipe)
        used: list[float] = []
        step = state.optimizer.step

        def noted(rate: float, momentum: float, step: Any = step, used: list[float] = used) -> None:
            used.append(momentum)
            step(rate, momentum)

        monkeypatch.setattr(state.optimizer, "step", noted)
        images, labels = data()
        loader = Loader(images, labels, plan_recipe.batch_size, STILL, num_classes=3)
        plan = Plan(plan_recipe, Cyclic(peak=0.5, momentum_at_peak=0.8), linf, seed=0)
        assert len(list(fit(state, loader, plan, tmp_path / f"own {nesterov}"))) == 3
        assert used == pytest.approx([0.9, 0.88, 0.86, 0.84, 0.82, 0.8, 0.82, 0.84, 0.86, 0.88])
