"""Random numbers for attacks: one stream per batch while training, one stream per *image* while evaluating.

An image's stream depends on the seed and the image's number alone. So an evaluation gives the same adversarial images
whatever the batch size, the order, the number of processes, the kind of device, and whether it was killed in between.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# The increment and the two multipliers of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), as signed 64-bit numbers.
_INCREMENT, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
_BITS = 24  # of a float32's mantissa: every value is exact, on every device


def derived(seed: int, *names: str | int) -> int:
    """A seed for one use of a run's seed, 0 to 2**62 - 1: the same for the same names, unrelated for any others.

    So no two uses share a stream because of how their numbers add up: `derived(0, "validation", 1)` and
    `derived(1, "validation", 0)` have nothing in common.
    """
    text = json.dumps([seed, *names]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 2


class Noise:
    """Streams of random numbers, one for each image."""

    def __init__(self, seed: int, images: Tensor, position: int = 0) -> None:
        """One stream for each of these images (int64 [N], their indices in the test set)."""
        self.seed, self.images, self.position = seed, images, position

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """The next numbers of each stream, float32 [N, *shape] in [0, 1)."""
        return self._bits(math.prod(shape)).to(torch.float32).div_(2**_BITS).view(-1, *shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next standard normal numbers of each stream, float32 [N, *shape] (Box and Muller, 1958)."""
        count = math.prod(shape)
        radius = (self._bits(count).to(torch.float32) + 0.5).div_(2**_BITS).log_().mul_(-2).sqrt_()
        angle = self._bits(count).to(torch.float32).mul_(2 * math.pi / 2**_BITS)
        return radius.mul_(angle.cos_()).view(-1, *shape)

    def of(self, chosen: Tensor) -> "Noise":
        """The streams of some of the images (indices or a mask), from their present position on."""
        return Noise(self.seed, self.images[chosen], self.position)

    def _bits(self, count: int) -> Tensor:
        places = torch.arange(self.position + 1, self.position + count + 1, device=self.images.device)
        self.position += count
        keys = _mix(_mix(self.images + 1) + self.seed * _INCREMENT % 2**62)
        return _shifted(_mix(keys[:, None] + places * _INCREMENT), 64 - _BITS)


class Part:
    """One stream for a batch that several processes share: each draws for the whole batch and keeps its own rows.

    So the numbers of an image do not depend on the number of processes, and the generators of all processes stay in
    the same state.
    """

    def __init__(self, generator: torch.Generator, places: slice | Tensor, total: int) -> None:
        """For the images at these `places` of a batch of `total`; the generator is the same on every process."""
        self.generator, self.places, self.total = generator, places, total

    @classmethod
    def share(cls, generator: torch.Generator, rank: int, ranks: int, total: int) -> "Part":
        """The stream of process number `rank`, which has the rows rank, rank + ranks, … of the batch."""
        return cls(generator, slice(rank, None, ranks), total)

    def alike(self, places: slice) -> "Part":
        """A stream for some of the images from a copy of the generator: it draws for them what this one would."""
        generator = torch.Generator(self.generator.device)
        generator.set_state(self.generator.get_state())
        own = torch.arange(self.total, device=generator.device)[self.places][places]
        return Part(generator, own, self.total)

    def drawn(self, draw: Callable[..., Tensor], images: Tensor, shape: Sequence[int]) -> Tensor:
        """`draw(size, generator=…, device=…)` for the whole batch, then the rows of `images`, [N, *shape]."""
        rows = draw((self.total, *shape), generator=self.generator, device=images.device)[self.places]
        if len(rows) != len(images):
            raise ValueError(f"got {len(images)} images, want the {len(rows)} that this draws for: take a subset first")
        return rows

    def of(self, chosen: Tensor) -> "Part":
        """A new stream for some of the images (indices or a mask). However much is drawn from it, this stream moves by
        one number only."""
        device = self.generator.device
        seed = int(torch.randint(2**62, (), generator=self.generator, device=device))
        places = torch.arange(self.total, device=device)[self.places][chosen]
        return Part(torch.Generator(device).manual_seed(seed), places, self.total)


Rng = torch.Generator | Noise | Part
"""What an attack draws from."""


def uniform(rng: Rng, images: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Numbers in [0, 1) for each of `images`: [N, *shape], by default one for each pixel."""
    return _drawn(rng, images, shape, torch.rand, Noise.uniform)


def normal(rng: Rng, images: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Standard normal numbers for each of `images`: [N, *shape], by default one for each pixel."""
    return _drawn(rng, images, shape, torch.randn, Noise.normal)


def _drawn(
    rng: Rng, images: Tensor, shape: Sequence[int] | None, draw: Callable[..., Tensor], stream: Callable[..., Tensor]
) -> Tensor:
    shape = images.shape[1:] if shape is None else shape
    match rng:
        case Noise():
            return stream(rng, shape)
        case Part():
            return rng.drawn(draw, images, shape)
        case torch.Generator():
            return draw((len(images), *shape), generator=rng, device=images.device)


def subset(rng: Rng, chosen: Tensor) -> Rng:
    """The random numbers for the `chosen` images alone (indices or a mask)."""
    return rng if isinstance(rng, torch.Generator) else rng.of(chosen)


def seed_of(rng: Rng) -> int:
    """The seed that determines everything drawn from `rng`."""
    if isinstance(rng, Noise):
        return rng.seed
    return (rng.generator if isinstance(rng, Part) else rng).initial_seed()


def shared(rng: Rng) -> torch.Generator:
    """A generator on the CPU for choices that all images share, such as the windows of a query-based attack."""
    if isinstance(rng, Noise):
        return torch.Generator().manual_seed(derived(rng.seed, "shared by all images"))
    if isinstance(rng, Part):
        rng = rng.generator
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=rng, device=rng.device)))


def _mix(values: Tensor) -> Tensor:
    """The finalizer of SplitMix64: neighbouring numbers -> unrelated ones. Products wrap around, as they should."""
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, places: int) -> Tensor:
    """A shift to the right that fills with zeros; torch's own shift of signed numbers copies the sign."""
    return (values >> places) & ((1 << (64 - places)) - 1)
