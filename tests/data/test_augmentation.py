"""RandAugment and CutMix: shares, boxes and probabilities as their papers say, functions of the generator alone."""

from dataclasses import replace

import pytest
import torch

from components.data.augmentation import Augmentation, RandAugment, cut_mixed, rand_augmented
from components.data.loader import Loader
from components.foundation.errors import InputError
from components.foundation.params import typed
from components.methods.parts.contract import one_class
from components.methods.standard import Standard
from components.numerics.losses import hard
from tests.parts.method_members import MEMBERS
from tests.training.test_training import new_run, recipe

STILL = Augmentation(crop=0, flip=False, cutmix=0.0, rand_augment=None)
STRONG = Augmentation(crop=1, flip=True, cutmix=0.5, rand_augment=RandAugment(num_ops=2, magnitude=9))


def constants(count: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Image n is n everywhere, and of class n % 5."""
    values = torch.arange(count, dtype=torch.uint8)
    return values.view(-1, 1, 1, 1).expand(-1, 3, size, size).contiguous(), torch.arange(count) % 5


def test_cutmix_takes_one_box_and_its_share_of_the_label(rng):
    images, labels = constants(200)
    mixed, probabilities = cut_mixed(images, labels, 1.0, 5, rng)
    shares = []
    for index, image in enumerate(mixed):
        foreign = image[0] != index
        assert all(torch.equal(channel != index, foreign) for channel in image)
        share = foreign.sum().item() / 256
        want = torch.zeros(5)
        want[labels[index]] = 1 - share
        if share:
            rows, columns = foreign.any(1), foreign.any(0)
            assert torch.equal(foreign, rows[:, None] & columns[None, :])  # one whole rectangle ...
            assert all(side.nonzero().diff(dim=0).eq(1).all() for side in (rows, columns))
            (other,) = image[0][foreign].unique().tolist()  # ... from one other image
            want[labels[other]] += share
        assert torch.allclose(probabilities[index], want, atol=1e-6)
        shares.append(share)
    assert max(shares) > 0.6 and len(set(shares)) > 50


def test_cutmix_boxes_have_uniform_areas_before_the_border_cuts_them(rng):
    """With the middle uniform, a segment of length s keeps s - s²/4 of its side on average; area s², uniform."""
    images, _ = constants(160, 128)
    each = torch.arange(160)
    shares = torch.cat([1 - cut_mixed(images, each, 1.0, 160, rng)[1].diagonal() for _ in range(40)])
    side = torch.linspace(0, 1, 100_001, dtype=torch.float64).sqrt()
    assert shares.double().mean() == pytest.approx(float(((side - side**2 / 4) ** 2).mean()), abs=0.015)


def test_cutmix_mixes_with_its_chance(rng):
    images, labels = constants(250)
    _, probabilities = cut_mixed(images, torch.arange(250), 0.3, 250, rng)
    touched = (probabilities.diagonal() < 1).float().mean()
    assert 0.15 < touched < 0.4
    assert torch.equal(cut_mixed(images, labels, 0.0, 5, rng)[0], images)
    assert torch.allclose(probabilities.sum(1), torch.ones(250))


def test_rand_augment_is_per_image_and_a_function_of_the_generator():
    torch.manual_seed(5)
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    images = image.expand(40, -1, -1, -1)
    fields = RandAugment(num_ops=2, magnitude=9)
    before = torch.get_rng_state()
    changed = rand_augmented(images, fields, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(rand_augmented(images, fields, torch.Generator().manual_seed(1)), changed)
    assert not torch.equal(rand_augmented(images, fields, torch.Generator().manual_seed(2)), changed)
    assert changed.dtype == torch.uint8 and changed.shape == images.shape
    assert len({bytes(one.numpy().tobytes()) for one in changed}) > 20


@pytest.mark.parametrize("channels", [1, 3])
def test_loader_applies_all_of_it(channels, rng):
    images, labels = constants(30)
    images = images[:, :channels]
    loader = Loader(images, labels, 8, STRONG, num_classes=5)
    batches = list(loader.epoch(order_seed=1, rng=rng))
    assert all(batch.labels.shape == (len(batch.images), 5) and batch.labels.is_floating_point() for batch in batches)
    assert all(batch.images.min() >= 0 and batch.images.max() <= 1 for batch in batches)
    unmixed = Loader(images, labels, 8, replace(STRONG, cutmix=0.0), num_classes=5).epoch(1, rng)
    assert all(torch.equal(batch.labels, labels[batch.indices]) for batch in unmixed)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_method_trains_on_probabilities_or_refuses_them_in_one_line(name, precision, linf, tmp_path):
    _, steps = new_run(MEMBERS[name](), linf, tmp_path, recipe(precision=precision, epochs=1, augmentation=STRONG))
    try:
        assert len(list(steps)) == 2
    except InputError as error:
        assert "cutmix" in str(error) and "\n" not in str(error)


def test_stopped_and_continued_equals_uninterrupted(linf, tmp_path):
    method = Standard(label_smoothing=0.1).build()
    whole, steps = new_run(method, linf, tmp_path / "whole", recipe(augmentation=STRONG))
    list(steps)
    for _ in range(2):
        again, steps = new_run(method, linf, tmp_path / "cut", recipe(augmentation=STRONG))
        for _ in range(2):
            next(steps)
        torch.manual_seed(999)
    again, steps = new_run(method, linf, tmp_path / "cut", recipe(augmentation=STRONG))
    list(steps)
    left, right = whole.model.state_dict(), again.model.state_dict()
    assert again.history == whole.history and all(torch.equal(left[key], right[key]) for key in left)


def test_one_class_is_demanded_in_one_line():
    labels = torch.tensor([0, 2])
    assert one_class(labels, "mart") is labels
    probabilities = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    assert hard(probabilities).tolist() == [1, 0]
    with pytest.raises(
        InputError, match=r"^recipe\.augmentation\.cutmix: mart needs one class for each image, want 0$"
    ):
        one_class(probabilities, "mart")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutmix": 1.5}, "augmentation.cutmix: got 1.5, want at most 1"),
        ({"crop": -1}, "augmentation.crop: got -1, want at least 0"),
        ({"rand_augment": {"num_ops": 0, "magnitude": 9}}, "num_ops: got 0, want at least 1"),
        ({"rand_augment": {"num_ops": 1, "magnitude": 31}}, "magnitude: got 31, want at most 30"),
        ({"rand_augment": {"num_ops": 1}}, "rand_augment.magnitude: missing"),
    ],
)
def test_wrong_fields_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        typed(Augmentation, {"crop": 0, "flip": False, "cutmix": 0, "rand_augment": None} | changes, "augmentation")
