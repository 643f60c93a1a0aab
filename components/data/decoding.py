"""Image files to pixels, with torchvision's decoders, in worker processes ahead of their use.

The pixels are a function of the files, a seed and the images' places. So neither the number of workers nor a stop and
a new start changes a pixel.
"""

import math
import os
import random
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.data.listing import Decoding, LabelledFiles
from components.data.splits import LabelledImages, Split
from components.foundation.errors import InputError

# Shards that each worker has ready or in hand.
AHEAD = 2
# Images of a shard where no step waits for a batch of its own size.
CHUNK = 64
# Below this number of images, decoding in this process is faster than starting workers.
WORTH_WORKERS = 2_000
JPEG, PNG = b"\xff\xd8", b"\x89PNG"
# The byte of a PNG that says what its pixels are, and some of its values.
COLOR_TYPE, PALETTE, WITH_ALPHA = 25, 3, (4, 6)
# Aspect ratios of random crops, and how often one that does not fit is drawn again (arXiv 1409.4842, section 6).
NARROWEST, WIDEST = 3 / 4, 4 / 3
ATTEMPTS = 10


class FileGroup(NamedTuple):
    """Files to decode together, by their places in a listing; with a seed, cropped at random where that is wanted."""

    places: list[int]
    seed: int | None


def in_memory(split: Split) -> LabelledImages:
    """The split with its images decoded. Error: they would take more than half of the machine's memory."""
    if isinstance(split, LabelledImages):
        return split
    shape = (len(split), *split.image_shape)
    size, memory = torch.Size(shape).numel(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory / 2:
        raise InputError(
            f"{len(split)} decoded images of {shape[1:]} take {size / 2**30:.1f} GiB, want at most half of this "
            f"machine's {memory / 2**30:.1f} (lower normalize_data.validation or test_limit, or image_size)"
        )
    images = torch.empty(shape, dtype=torch.uint8)
    begin = 0
    for decoded in chunks(split):
        images[begin : begin + len(decoded)] = decoded
        begin += len(decoded)
    return LabelledImages(images, split.labels, split.names)


def chunks(split: Split) -> Iterator[Tensor]:
    """All images in order, uint8 [n, C, H, W]: at once where they are in memory, else some decoded at a time."""
    if isinstance(split, LabelledImages):
        return iter([split.images])
    places = torch.arange(len(split)).split(CHUNK)
    stream = Stream(split, num_workers() if len(split) > WORTH_WORKERS else 0, pinned=False)
    return stream.decoded(FileGroup(chunk.tolist(), None) for chunk in places)


class Stream:
    """Shards of a listing, decoded ahead of their use by worker processes; with 0 workers, decoded when used."""

    def __init__(self, files: LabelledFiles, workers: int, pinned: bool) -> None:
        self._plan = _Pending()
        self._loader = DataLoader(
            _Decoded(files),
            batch_size=None,
            sampler=self._plan,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            persistent_workers=workers > 0,
            # A process that uses a GPU or threads must not be forked.
            multiprocessing_context="spawn" if workers else None,
            pin_memory=pinned,
            # A separate one: what it draws for its workers must not move the generator that training draws from.
            generator=torch.Generator(),
        )

    def decoded(self, shards: Iterable[FileGroup]) -> Iterator[Tensor]:
        """Each shard's images, uint8 [N, C, H, W], in their order. Errors: as `decode_shard`."""
        self._plan.shards = shards
        for images in self._loader:
            if isinstance(images, InputError):
                raise images
            yield images


def num_workers() -> int:
    """`TEMPER_WORKERS`, or one for each processor but one; 0 decodes in the process that trains.

    It is no parameter, since it depends on the machine and changes no result. Error: the variable holds no number.
    """
    text = os.environ.get("TEMPER_WORKERS") or str(max(1, len(os.sched_getaffinity(0)) - 1))
    if not text.isdecimal():
        raise InputError(f"TEMPER_WORKERS: got {text!r}, want a number of processes, 0 or more")
    return int(text)


class _Pending:
    """What the workers are to decode next; new with each pass, while they stay."""

    shards: Iterable[FileGroup] = ()

    def __iter__(self) -> Iterator[FileGroup]:
        return iter(self.shards)


class _Decoded(Dataset[Tensor | InputError]):
    def __init__(self, files: LabelledFiles) -> None:
        self.files = files

    def __getitem__(self, shard: FileGroup) -> Tensor | InputError:
        # Returned, since an error that a worker raises arrives as the text of a traceback.
        try:
            return decode_shard(self.files, shard)
        except InputError as error:
            return error


def decode_shard(files: LabelledFiles, shard: FileGroup) -> Tensor:
    """The shard's images, uint8 [N, C, H, W]. Errors, with the file: missing, changed, broken, no image."""
    images = torch.empty((len(shard.places), *files.image_shape), dtype=torch.uint8)
    with warnings.catch_warnings():
        # torchvision plans to move its decoders to another package, and warns at each image.
        warnings.filterwarnings("ignore", "The image decoding and encoding capabilities", DeprecationWarning)
        for image, place in zip(images, shard.places, strict=True):
            # Text as a seed is hashed, so neighbouring places and seeds have nothing in common.
            rng = None if shard.seed is None else random.Random(f"{shard.seed} {place}")
            data = files.read(place)
            try:
                image.copy_(decode(data, files.decoding, rng))
            except (RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise InputError(f"{files.path(place)}: not readable as an image: {reason}") from None
    return images


def decode(data: bytes, decoding: Decoding, rng: random.Random | None) -> Tensor:
    """One image, uint8 [C, size, size]; `rng` places a random crop. Error: RuntimeError for what is no image."""
    # torchvision takes seconds to import, which only those who use it should pay.
    from torchvision.transforms.v2 import functional

    image = _rgb(data)
    top, left, height, width = _window(image.shape[1], image.shape[2], decoding, rng)
    size = [decoding.image_size, decoding.image_size]
    image = functional.resized_crop(image, top, left, height, width, size, antialias=True)
    return image if decoding.color == "rgb" else functional.rgb_to_grayscale(image)


def _rgb(data: bytes) -> Tensor:
    """The whole image, uint8 [3, H, W], upright, transparent parts white."""
    from torchvision.io import ImageReadMode, decode_image

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    # The camera's note of which side is up is part of the image.
    if data.startswith(JPEG):
        return decode_image(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
    mode = ImageReadMode.RGB_ALPHA if _has_alpha(data) else ImageReadMode.RGB
    image = decode_image(encoded, mode, apply_exif_orientation=True)
    if image.dtype == torch.uint16:
        image = ((image.int() + 128) // 257).to(torch.uint8)
    if len(image) == 3:
        return image
    alpha = image[3:].int()
    return ((image[:3].int() * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)


def _has_alpha(data: bytes) -> bool:
    """Whether an image has an alpha channel. Asked for one that a PNG lacks, torchvision gives random numbers."""
    if not data.startswith(PNG):
        return True
    header = data[: data.find(b"IDAT")]
    if b"tRNS" not in header:
        return header[COLOR_TYPE] in WITH_ALPHA
    if header[COLOR_TYPE] != PALETTE:
        # torchvision would show that colour.
        raise ValueError("one of its colours stands for transparency, want an alpha channel")
    return True


def _window(height: int, width: int, decoding: Decoding, rng: random.Random | None) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part that is kept."""
    if rng is not None and decoding.random_crop is not None:
        for _ in range(ATTEMPTS):
            area = height * width * rng.uniform(decoding.random_crop, 1)
            aspect = math.exp(rng.uniform(math.log(NARROWEST), math.log(WIDEST)))
            rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < rows <= height and 0 < columns <= width:
                return rng.randint(0, height - rows), rng.randint(0, width - columns), rows, columns
    if decoding.resize == "stretch":
        return 0, 0, height, width
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
