"""Batches of two sources: what each batch holds, and that the first source alone is drawn as ever."""

from collections import Counter
from fractions import Fraction

import pytest
import torch

from components.data.augmentation import Augmentation
from components.data.loader import Loader
from components.data.mixing import Mixture
from components.data.normalization import Normalization
from components.data.splits import LabelledImages, Splits
from components.data.streaming import loader_of
from components.foundation.errors import InputError
from components.foundation.params import Ratio

STILL = Augmentation(crop=0, flip=False, cutmix=0, rand_augment=None)
OWN, BATCH = 45, 8


def loader(extra: int, share: str) -> Loader:
    images = torch.arange(OWN + extra, dtype=torch.uint8).view(-1, 1, 1, 1)
    labels = torch.cat([torch.zeros(OWN), torch.ones(extra)]).long()
    return Loader(images, labels, BATCH, STILL, 2, Mixture(OWN, extra, Ratio(share)))


def epoch(of: Loader, seed: int) -> list[list[int]]:
    return [batch.indices.tolist() for batch in of.epoch(seed, torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("share", ["1/80", "1/20", "3/10", "0.5", "7/10", "0.99"])
@pytest.mark.parametrize("extra", [1, 10, 200])
def test_each_batch_has_its_share_of_both(extra, share):
    mixed = loader(extra, share)
    batches = epoch(mixed, 3)
    alone = Loader(mixed.images[:OWN], mixed.labels[:OWN], BATCH, STILL, 2)
    assert [len(batch) for batch in batches] == [len(batch) for batch in epoch(alone, 3)]
    counts = [sum(index >= OWN for index in batch) for batch in batches]
    # Half an image, and the rest of the batch before.
    assert all(abs(n - Fraction(share) * len(batch)) <= 1 for n, batch in zip(counts, batches, strict=True))
    assert sum(counts) == round(Fraction(share) * OWN) > 0
    drawn = Counter(index for batch in batches for index in batch)
    own = [count for index, count in drawn.items() if index < OWN]
    others = [drawn[index] for index in range(OWN, OWN + extra)]
    assert all(count == 1 for count in own)
    assert max(others) - min(others) <= 1


def test_a_share_below_half_an_image_an_epoch_is_one_line():
    """One of 45 images an epoch is trained on, though no batch of 8 is owed half an image."""
    images = torch.zeros(OWN, 1, 2, 2, dtype=torch.uint8)
    some = LabelledImages(images, torch.arange(OWN) % 2)
    splits = Splits(
        "toy", ("a", "b"), some, some, some, Normalization(method="none", offset=(0.5,), scale=(0.5,)), some
    )
    device = torch.device("cpu")
    assert len(list(loader_of(splits, BATCH, STILL, device, Ratio(1, 89)).epoch(0, torch.Generator()))) == 6
    line = "^recipe.extra_share: got 1/90, which is no image of 45, want 0, or more than 1/90$"
    with pytest.raises(InputError, match=line):
        loader_of(splits, BATCH, STILL, device, Ratio(1, 90))


def test_within_a_batch_the_two_sources_are_shuffled():
    """Else a method that attacks the first images of a batch, or a part of a batch, would see one source alone."""
    mixed = loader(200, "1/2")
    batches = [batch for seed in range(60) for batch in epoch(mixed, seed)]
    first = [index >= OWN for batch in batches for index in batch[: len(batch) // 2]]
    last = [index >= OWN for batch in batches for index in batch[len(batch) // 2 :]]
    # About 1,300 images each; five standard deviations are 0.07.
    assert abs(sum(first) / len(first) - 0.5) < 0.07 and abs(sum(last) / len(last) - 0.5) < 0.07


def test_the_order_is_a_function_of_the_seed():
    assert epoch(loader(100, "1/2"), 5) == epoch(loader(100, "1/2"), 5) != epoch(loader(100, "1/2"), 6)


def test_over_epochs_every_image_comes():
    mixed = loader(100, "1/2")
    assert {index for seed in range(40) for batch in epoch(mixed, seed) for index in batch} == set(range(OWN + 100))


def test_images_labels_and_places_belong_together():
    for batch in loader(100, "7/10").epoch(1, torch.Generator().manual_seed(0)):
        assert torch.equal((batch.images.flatten() * 255).round().long(), batch.indices)
        assert torch.equal(batch.labels, (batch.indices >= OWN).long())
        assert batch.num_images == OWN + 100


def test_without_a_share_the_second_source_changes_nothing():
    with_it, without = loader(100, "0"), loader(0, "0")
    assert epoch(with_it, 4) == epoch(without, 4)
    order = torch.randperm(OWN, generator=torch.Generator().manual_seed(4)).tolist()
    assert [index for batch in epoch(without, 4) for index in batch] == order


def test_images_as_they_are_are_those_of_the_first_source():
    mixed = loader(100, "7/10")
    shown = torch.cat(list(mixed.clean(mixed.num_batches)))
    assert (shown.flatten() * 255).round().long().tolist() == list(range(OWN))
