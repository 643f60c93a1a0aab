"""Image files to pixels, in worker processes ahead of their use.

The pixels are a function of the files, a seed and the images' places. So neither the number of workers nor a stop and
a new start changes a pixel.
"""

import os
import random
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.data.listing import LabelledFiles
from components.data.picture import decode
from components.data.splits import LabelledImages, Split
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.memory import free_main_memory

# Shards that each worker has ready or in hand.
AHEAD = 2
# Images of a shard where no step waits for a batch of its own size.
CHUNK = 64
# What torch's error says of a worker that ended without an answer.
LOST = "DataLoader worker (pid"
# Below this number of images, decoding in this process is faster than starting workers.
WORTH_WORKERS = 2_000


class FileGroup(NamedTuple):
    """Files to decode together, by their places in a listing; with a seed, cropped at random where that is wanted."""

    places: list[int]
    seed: int | None


def in_memory(split: Split, remedy: str) -> LabelledImages:
    """The split with its images decoded. Errors: as `decode_shard`; they would take more than half of the free memory,
    and `remedy` says what can be done about it.
    """
    if isinstance(split, LabelledImages):
        return split
    shape = (len(split), *split.image_shape)
    require_memory(torch.Size(shape).numel(), f"{len(split)} decoded images of {shape[1:]}", remedy)
    images = torch.empty(shape, dtype=torch.uint8)
    begin = 0
    for decoded in chunks(split):
        images[begin : begin + len(decoded)] = decoded
        begin += len(decoded)
    return LabelledImages(images, split.labels, split.names)


def require_memory(size: int, what: str, remedy: str) -> None:
    """Refuses `what`, of `size` bytes, if that is more than half of the memory that this process may still take."""
    free = free_main_memory()
    if size > free / 2:
        raise InputError(
            f"{what} take {size / 2**20:,.0f} MiB, want at most half of the {free / 2**20:,.0f} MiB that are free for "
            f"this process ({remedy})"
        )


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
        self._plan, self._files = _Pending(), files
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
        """Each shard's images, uint8 [N, C, H, W], in their order. Errors: as `decode_shard`; a worker that is lost."""
        self._plan.begin(shards)
        batches = self._started()
        while True:
            try:
                images = next(batches, None)
            except RuntimeError as error:
                if LOST not in str(error):
                    raise
                raise InputError(self._lost(str(error))) from None
            if images is None:
                return
            if isinstance(images, InputError):
                raise images
            self._plan.in_hand.popleft()
            yield images

    def _started(self) -> Iterator[Tensor | InputError]:
        """A pass through what is planned. A lost worker raises where a batch is waited for, and nowhere else."""
        before = signal.getsignal(signal.SIGCHLD)
        batches = iter(self._loader)
        # torch's own handler raises in whatever line is running, where nobody knows which files were in hand.
        if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
            signal.signal(signal.SIGCHLD, before)
        return batches

    def _lost(self, reason: str) -> str:
        places = [place for shard in self._plan.in_hand for place in shard.places]
        files = f"{one_line(self._files.path(places[0]))} or one of the {len(places) - 1} files after it"
        return (
            f"a process that decodes images was lost with {files} in hand ({reason.strip().rstrip('.')}); out of "
            "memory, or of shared memory? TEMPER_WORKERS=0 decodes without such processes"
        )


def num_workers() -> int:
    """`TEMPER_WORKERS`, or one for each processor but one; 0 decodes in the process that trains.

    It is no parameter, since it depends on the machine and changes no result. Error: the variable holds no number.
    """
    text = os.environ.get("TEMPER_WORKERS") or str(max(1, len(os.sched_getaffinity(0)) - 1))
    if not text.isdecimal():
        raise InputError(f"TEMPER_WORKERS: got {text!r}, want a number of processes, 0 or more")
    return int(text)


class _Pending:
    """What the workers are to decode next, new with each pass while they stay, and what of it they have in hand."""

    def __init__(self) -> None:
        self.begin(())

    def begin(self, shards: Iterable[FileGroup]) -> None:
        self._shards, self.in_hand = shards, deque[FileGroup]()

    def __iter__(self) -> Iterator[FileGroup]:
        for shard in self._shards:
            self.in_hand.append(shard)
            yield shard


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
    for image, place in zip(images, shard.places, strict=True):
        # Text as a seed is hashed, so neighbouring places and seeds have nothing in common.
        rng = None if shard.seed is None else random.Random(f"{shard.seed} {place}")
        data = files.read(place)
        try:
            image.copy_(decode(data, files.decoding, rng))
        except ValueError as error:
            raise InputError(f"{one_line(files.path(place))}: not readable as an image: {error}") from None
    return images
