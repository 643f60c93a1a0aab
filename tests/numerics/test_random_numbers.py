"""Random numbers that belong to an image, and the model that decides whether an image is fooled."""

import math
from hashlib import sha256

import pytest
import torch
from torch import Tensor, nn

from components.attacks.parts.victim import Victim, confirm, exact
from components.numerics.random_numbers import Noise, derived, normal, shared, subset, uniform

PLACES = torch.tensor([40, 7, 3, 1000])
IMAGES = torch.zeros(4, 1, 5, 5)


def splitmix64(state: int) -> int:
    """The finalizer in unbounded integers, as its authors' C code has it in 64 bits."""
    state &= 2**64 - 1
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def test_seeds_by_name_never_meet_by_arithmetic():
    """Of many runs, uses and epochs no two share a stream; the same use of the same run has the same one."""
    uses: list[tuple[int, tuple[str | int, ...]]] = [
        (seed, (name, epoch)) for seed in range(30) for name in ("order", "validation", "1") for epoch in range(60)
    ]
    uses += [(seed, ("weights",)) for seed in range(30)]
    seeds = {derived(seed, *names) for seed, names in uses}
    assert len(seeds) == len(uses) and all(0 <= seed < 2**62 for seed in seeds)
    assert derived(3, "order", 7) == derived(3, "order", 7)
    assert derived(0, "validation", 1) != derived(0, "validation", "1") != derived(0, "validation1")


def test_seeds_by_name_stay_what_they_are():
    """Results of earlier runs can be made again only while this holds."""
    assert derived(0, "order", 3) == int.from_bytes(sha256(b'[0, "order", 3]').digest()[:8], "big") >> 2


def test_numbers_are_those_of_splitmix64():
    """The n-th number: the 24 high bits of a hash of seed, image and n alone."""
    golden = -0x61C8864680B583EB
    drawn = Noise(3, PLACES).uniform((6,))
    for row, place in enumerate(PLACES.tolist()):
        key = splitmix64(splitmix64(place + 1) + 3 * golden % 2**62)
        want = [(splitmix64(key + n * golden) >> 40) / 2**24 for n in range(1, 7)]
        assert drawn[row].tolist() == want


def test_neighbours_and_order_do_not_matter():
    whole = Noise(1, PLACES)
    first, second = uniform(whole, IMAGES), normal(whole, IMAGES)
    for row in range(4):
        alone = Noise(1, PLACES[row : row + 1])
        assert torch.equal(uniform(alone, IMAGES[:1]), first[row : row + 1])
        assert torch.equal(normal(alone, IMAGES[:1]), second[row : row + 1])


def test_position_counts_numbers_and_not_calls():
    once, twice = Noise(1, PLACES), Noise(1, PLACES)
    assert torch.equal(once.uniform((9,)), torch.cat([twice.uniform((4,)), twice.uniform((5,))], 1))
    assert torch.equal(once.uniform((2,)), Noise(1, PLACES, position=9).uniform((2,)))


def test_other_seeds_images_and_positions_give_other_numbers():
    base = Noise(1, PLACES).uniform((50,))
    for other in (Noise(2, PLACES), Noise(1, PLACES + 1), Noise(1, PLACES, position=50)):
        assert (other.uniform((50,)) != base).float().mean() > 0.99
    assert len(base.flatten().unique()) > 195


def test_a_subset_goes_on_where_it_stood():
    noise = Noise(1, PLACES)
    noise.uniform((3,))
    chosen = torch.tensor([False, True, False, True])
    part = subset(noise, chosen)
    again = subset(noise, torch.tensor([1, 3]))
    ahead = noise.uniform((4,))
    assert torch.equal(uniform(part, IMAGES[chosen], (4,)), ahead[chosen])
    assert torch.equal(uniform(again, IMAGES[chosen], (4,)), ahead[chosen])
    generator = torch.Generator()
    assert subset(generator, chosen) is generator


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_moments(seed):
    """200 images of 500 numbers: 100,000 draws, so means are within 5 standard errors of theirs."""
    rng = Noise(seed, torch.arange(200))
    flat, bell = rng.uniform((500,)).double(), rng.normal((500,)).double()
    error = 1 / math.sqrt(flat.numel())
    assert flat.min() >= 0 and flat.max() < 1
    assert flat.mean().item() == pytest.approx(0.5, abs=5 * error * math.sqrt(1 / 12))
    assert flat.var().item() == pytest.approx(1 / 12, abs=5 * error * math.sqrt(1 / 180))
    assert flat.flatten().histc(10, 0, 1).sub(1e4).abs().max() < 5 * math.sqrt(9e3)
    assert bell.mean().item() == pytest.approx(0, abs=5 * error)
    assert bell.var().item() == pytest.approx(1, abs=5 * error * math.sqrt(2))
    assert (bell**4).mean().item() == pytest.approx(3, abs=5 * error * math.sqrt(96))


def test_streams_are_unrelated():
    """Correlations along a stream, between neighbouring images and between neighbouring seeds are chance."""
    first, second = (Noise(seed, torch.arange(200)).uniform((500,)).double() - 0.5 for seed in (0, 1))
    pairs = [(first[:, 1:], first[:, :-1]), (first[1:], first[:-1]), (first, second), (first[1:], second[:-1])]
    for a, b in pairs:
        assert abs((a * b).mean().item()) < 5 / 12 / math.sqrt(a.numel())


def test_shapes_and_generators():
    for rng in (Noise(0, PLACES), torch.Generator().manual_seed(0)):
        assert uniform(rng, IMAGES).shape == normal(rng, IMAGES).shape == IMAGES.shape
        assert uniform(rng, IMAGES, ()).shape == (4,) and normal(rng, IMAGES, (2, 3)).shape == (4, 2, 3)
        assert uniform(rng, IMAGES).dtype == normal(rng, IMAGES).dtype == torch.float32


def test_shared_choices_do_not_depend_on_the_images():
    def draw(rng: Noise | torch.Generator) -> list[int]:
        return torch.randint(100, (20,), generator=shared(rng)).tolist()

    assert draw(Noise(5, PLACES)) == draw(Noise(5, PLACES[:1])) != draw(Noise(6, PLACES))
    generator = torch.Generator().manual_seed(5)
    first = draw(generator)
    assert first == draw(torch.Generator().manual_seed(5)) != draw(generator)


class Constant(nn.Module):
    """Logits that favour one class, and a count of the images that came."""

    def __init__(self, winner: int) -> None:
        super().__init__()
        self.winner, self.seen = winner, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return nn.functional.one_hot(torch.full((len(images),), self.winner), 3).float()


SUSPECTED = torch.tensor([True, False, True, False])
LABELS = torch.tensor([0, 0, 1, 1])


def test_a_fast_search_needs_confirmation():
    slow, fast = Constant(winner=1), Constant(winner=2)
    victim = Victim(slow, fast)
    assert victim(IMAGES).argmax(1).tolist() == [2, 2, 2, 2] and slow.seen == 0
    # The deciding model sees the suspects alone, and calls class 1 for both: wrong for the first, right for the other.
    assert confirm(victim, IMAGES, LABELS, SUSPECTED).tolist() == [True, False, False, False]
    assert slow.seen == 2
    assert not confirm(victim, IMAGES, LABELS, torch.zeros_like(SUSPECTED)).any() and slow.seen == 2
    assert exact(victim) is slow and victim.networks == (slow, fast)


def test_an_exact_search_is_believed():
    model = Constant(winner=0)
    for victim in (model, Victim(model), Victim(model, model)):
        assert torch.equal(confirm(victim, IMAGES, LABELS, SUSPECTED), SUSPECTED)
        assert exact(victim) is model
    assert model.seen == 0 and Victim(model).networks == (model,)
