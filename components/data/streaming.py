"""Batches of a split that does not fit into memory, decoded on the way from its files to the device."""

from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from components.data.augmentation import Augmentation, augmented
from components.data.batch import Batch
from components.data.decoding import FileGroup, Stream, decode_shard, num_workers
from components.data.listing import LabelledFiles
from components.data.loader import Loader
from components.data.mixing import Mixture
from components.data.pixels import to_pixels
from components.data.splits import Splits
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.numerics import parallel


def loader_of(
    splits: Splits, batch_size: int, augmentation: Augmentation, device: torch.device, extra_share: Ratio
) -> "Loader | StreamedLoader":
    """Batches of the train split on `device`: from memory, or decoded on the way where the split is files.

    `extra_share` of each batch are images of the second source. Errors: a share of a source that there is not, or
    beside files; one that is less than half an image an epoch.
    """
    train, extra, num_classes = splits.train, splits.extra, len(splits.classes)
    if not extra_share:
        if isinstance(train, LabelledFiles):
            return StreamedLoader(train, batch_size, augmentation, num_classes, device)
        return Loader(train.images.to(device), train.labels.to(device), batch_size, augmentation, num_classes)
    if extra is None or isinstance(train, LabelledFiles):
        want = "fetch_data.extra" if extra is None else "a train split in memory (fetch_data.dataset.streamed: null)"
        raise InputError(f"recipe.extra_share: got {extra_share}, want {want} for it")
    mixture = Mixture(len(train), len(extra), extra_share)
    if not mixture.extra_per_epoch:
        least = f"0, or more than 1/{2 * len(train)}"
        raise InputError(f"recipe.extra_share: got {extra_share}, which is no image of {len(train)}, want {least}")
    images, labels = torch.cat([train.images, extra.images]), torch.cat([train.labels, extra.labels])
    return Loader(images.to(device), labels.to(device), batch_size, augmentation, num_classes, mixture)


class StreamedLoader:
    """`Loader` for a set that stays in its files: the same order, the same batches, the same augmentation."""

    def __init__(
        self, files: LabelledFiles, batch_size: int, augmentation: Augmentation, num_classes: int, device: torch.device
    ) -> None:
        self.images, self.labels = StreamedImages(files, device), files.labels.to(device)
        self.augmentation, self.num_classes, self.device = augmentation, num_classes, device
        self.num_batches = max(1, -(-len(files) // batch_size))
        self.largest_batch = -(-len(files) // self.num_batches)
        self._stream = Stream(files, num_workers(), pinned=device.type == "cuda")

    def clean(self, num_batches: int) -> Iterator[Tensor]:
        """The pixels of the first batches of the set as it is: no order, no augmentation, no random numbers."""
        places = torch.arange(len(self.labels)).tensor_split(self.num_batches)[:num_batches]
        for images in self._stream.decoded(FileGroup(_mine(batch).tolist(), None) for batch in places):
            yield to_pixels(images.to(self.device, non_blocking=True))

    def epoch(self, order_seed: int, rng: torch.Generator) -> Generator[Batch]:
        """One pass: order and random crops are a function of `order_seed` alone, the augmentation draws from `rng`.

        Where processes train together, each gets its part of every batch, and decodes no more than it needs.
        """
        batches = Mixture(len(self.labels)).order(self.num_batches, order_seed).tensor_split(self.num_batches)
        shards = (FileGroup(self._needed(places).tolist(), order_seed) for places in batches)
        for places, images in zip(batches, self._stream.decoded(shards), strict=True):
            chosen, images = places.to(self.device), images.to(self.device, non_blocking=True)
            if len(images) < len(chosen):
                # The random numbers of an image depend on its index in the whole batch; the other rows are never read.
                whole = images.new_zeros((len(chosen), *images.shape[1:]))
                _mine(whole).copy_(images)
                images = whole
            batch = augmented(images, self.labels[chosen], chosen, self.augmentation, self.num_classes, rng)
            yield batch._replace(num_images=len(self.labels)).part(parallel.rank(), parallel.world_size())

    def _needed(self, places: Tensor) -> Tensor:
        """The part of a batch that this process must decode: with CutMix all, since boxes come from any image."""
        return places if self.augmentation.cutmix else _mine(places)


class StreamedImages:
    """Used like a tensor of all images: indexing decodes the chosen ones, without augmentation."""

    def __init__(self, files: LabelledFiles, device: torch.device) -> None:
        self.files, self.device = files, device

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        """The images at the places `chosen`, int64 [n], as uint8 [n, C, H, W] on the device."""
        return decode_shard(self.files, FileGroup(chosen.tolist(), None)).to(self.device)


def _mine(batch: Tensor) -> Tensor:
    """This process's part of a batch, where several train together (see `Batch.part`)."""
    return batch[parallel.rank() :: parallel.world_size()]
