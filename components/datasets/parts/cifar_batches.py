"""How both CIFAR sets are read from their publisher's python batches, without trusting a pickle."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.data.splits import LabelledImages, Source
from components.datasets.parts.downloads import fetch, read_verified, verified
from components.foundation.errors import InputError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10


def read_batches(published: "type[CIFAR10]", root: Path, labels_key: str) -> Source:
    """The source from the batches that torchvision's class lists with their checksums."""
    train, test, meta = dict(published.train_list), dict(published.test_list), published.meta
    # Only bytes with the published checksum reach the parser.
    files = _files(published, root, train | test | {meta["filename"]: meta["md5"]})
    return Source(
        train=_labelled([_parse(files[name], name) for name in train], labels_key),
        test=_labelled([_parse(files[name], name) for name in test], labels_key),
        classes=tuple(_parse(files[meta["filename"]], meta["filename"])[meta["key"]]),
    )


def _files(published: "type[CIFAR10]", root: Path, checksums: dict[str, str]) -> dict[str, bytes]:
    """The verified bytes of each file, from the unpacked folder or from inside the archive."""
    folder, archive = root / published.base_folder, root / published.filename
    if folder.is_dir():
        return {name: read_verified(folder / name, md5) for name, md5 in checksums.items()}
    if not archive.exists():
        instead = f"the folder {folder.name} or the file {archive.name} into {root}"
        fetch(published.url, archive, published.tgz_md5, instead)
    with tarfile.open(fileobj=io.BytesIO(read_verified(archive, published.tgz_md5))) as tar:
        members = {name: tar.extractfile(f"{folder.name}/{name}") for name in checksums}
        return {
            name: verified(file.read(), checksums[name], f"{archive}: {name}") for name, file in members.items() if file
        }


def _labelled(batches: list[dict[str, Any]], labels_key: str) -> LabelledImages:
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = [label for batch in batches for label in batch[labels_key]]
    return LabelledImages(torch.from_numpy(images), torch.tensor(labels))


def _parse(data: bytes, name: str) -> dict[str, Any]:
    """The dictionary of a python batch; strings of Python 2 are read as Latin-1, which keeps bytes."""
    try:
        return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise InputError(f"{name}: {error}") from None


def _empty_array(kind: type[np.ndarray], shape: tuple[int, ...], code: str) -> np.ndarray:
    return np.ndarray.__new__(kind, shape, code)


class _ArraysOnly(pickle.Unpickler):
    """Reads numbers, text, lists, dictionaries and numpy arrays, and can call nothing else.

    The batches are pickles that others wrote. Their checksum is compared first, but MD5 is no proof of origin.
    """

    ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which no batch of images needs")
        return self.ALLOWED[module, name]
