"""The published data sets: what comes out, that checksums bite, and one line for each way a file can be wrong."""

import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import tarfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from components.data.splits import Source, require_source
from components.datasets import DATASETS, digits
from components.foundation.errors import InputError
from components.foundation.params import member

REAL = os.environ.get("TEMPER_TEST_DATA")


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def load(name: str, root: Path, **fields: Any) -> Source:
    return require_source(member(DATASETS, {"name": name, **fields}, "dataset").load(root), name)


@pytest.fixture
def offline(monkeypatch):
    """A machine without a network: each address asked for is recorded and fails."""
    asked = []

    def refuse(url: str, *_: object) -> None:
        asked.append(url)
        raise URLError("no network here")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    return asked


def test_digits_are_the_published_images(tmp_path):
    source = load("digits", tmp_path)
    assert source.train.images.shape == (1797, 1, 8, 8) and source.test is None
    assert source.train.counts(10) == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The first scan of the file is a zero; its upper row is 0 0 5 13 9 1 0 0 of 16 grey levels.
    assert source.train.images[0, 0, 0].tolist() == [round(level * 255 / 16) for level in (0, 0, 5, 13, 9, 1, 0, 0)]
    assert source.train.labels[0] == 0
    assert set(source.train.images.unique().tolist()) == {round(level * 255 / 16) for level in range(17)}


@pytest.mark.parametrize("which", [0, 1])
def test_digits_with_another_checksum_are_refused(monkeypatch, tmp_path, which):
    arrays = digits._arrays()
    arrays[which].flat[99] += 1
    monkeypatch.setattr(digits, "_arrays", lambda: arrays)
    with pytest.raises(InputError, match=r"^digits: checksum of scikit-learn's"):
        load("digits", tmp_path)


def test_digits_without_scikit_learn_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^digits: needs scikit-learn"):
        load("digits", tmp_path)


def test_digits_are_those_of_scikit_learn():
    (images, labels), (levels, numbers) = load_digits(return_X_y=True), digits._arrays()
    assert (levels.reshape(-1, 64) == images).all() and (numbers == labels).all()


# Published files, in small: the same layout and formats, with checksums to match.


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_fashion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Twenty train and ten test images in four idx files under `folder`."""
    folder.mkdir(parents=True)
    rng, arrays, resources = np.random.default_rng(0), {}, []
    for part, num in (("train", 20), ("t10k", 10)):
        arrays[f"{part}-images-idx3-ubyte.gz"] = rng.integers(0, 256, (num, 28, 28), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte.gz"] = (np.arange(num) % 10).astype(np.uint8)
    for name, array in arrays.items():
        (folder / name).write_bytes(gzip.compress(idx(array)))
        resources.append((name, md5((folder / name).read_bytes())))
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    return arrays


@pytest.mark.parametrize("layout", ["FashionMNIST/raw", "fashion-mnist"])
def test_fashion_mnist_reads_both_layouts(tmp_path, monkeypatch, offline, layout):
    arrays = write_fashion(tmp_path / layout, monkeypatch)
    source = load("fashion_mnist", tmp_path)
    assert source.test is not None and not offline
    assert np.array_equal(source.train.images[:, 0].numpy(), arrays["train-images-idx3-ubyte.gz"])
    assert np.array_equal(source.test.images[:, 0].numpy(), arrays["t10k-images-idx3-ubyte.gz"])
    assert source.test.labels.tolist() == list(range(10))
    assert source.classes[9] == "Ankle boot"


def python2_batch(images: np.ndarray, key: str, labels: list[int]) -> bytes:
    """A pickle as Python 2 wrote it: protocol 2, text as byte strings, the array as `_reconstruct` and its state."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    shape = b"".join(b"M" + struct.pack("<H", size) for size in images.shape) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R(K\x03" + text("|") + b"NNNJ" + b"\xff" * 4
    dtype += b"J" + b"\xff" * 4 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R(K\x01" + shape
    array += dtype + b"\x89T" + struct.pack("<I", images.size) + images.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text("data") + array + text(key) + numbers + b"u."


class Batches:
    """CIFAR in small: each batch holds every class twice, its images told apart by a constant."""

    def __init__(self, published: type[CIFAR10], monkeypatch: pytest.MonkeyPatch) -> None:
        self.published = published
        self.num_classes, key = (100, "fine_labels") if published is CIFAR100 else (10, "labels")
        names = [f"class {label}" for label in range(self.num_classes)]
        self.files = {published.meta["filename"]: pickle.dumps({published.meta["key"]: names}, protocol=2)}
        labels = list(range(self.num_classes)) * 2
        for number, name in enumerate([name for name, _ in published.train_list + published.test_list]):
            images = np.full((len(labels), 3072), number, np.uint8)
            images[:, 1024:2048] += 100
            self.files[name] = python2_batch(images, key, labels)
        self.sign(monkeypatch)

    def sign(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes the present bytes the published ones."""
        sums = {name: md5(data) for name, data in self.files.items()}
        for table in ("train_list", "test_list"):
            listed = [[name, sums[name]] for name, _ in getattr(self.published, table)]
            monkeypatch.setattr(self.published, table, listed)
        meta = self.published.meta
        monkeypatch.setattr(self.published, "meta", meta | {"md5": sums[meta["filename"]]})

    def write(self, root: Path) -> Path:
        folder = root / self.published.base_folder
        folder.mkdir(parents=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder

    def pack(self, root: Path) -> bytes:
        archive = root / self.published.filename
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive, "w:gz") as tar:
            for name, data in self.files.items():
                entry = tarfile.TarInfo(f"{self.published.base_folder}/{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        return archive.read_bytes()


CIFARS = [("cifar10", CIFAR10), ("cifar100", CIFAR100)]


def check_cifar(source: Source, batches: Batches) -> None:
    num_train = len(batches.published.train_list)
    assert source.test is not None and source.classes[1] == "class 1"
    assert source.train.counts(batches.num_classes) == [2 * num_train] * batches.num_classes
    assert source.train.images[-1, :, 0, 0].tolist() == [num_train - 1, num_train + 99, num_train - 1]
    assert source.test.images[0, :, 31, 31].tolist() == [num_train, num_train + 100, num_train]


@pytest.mark.parametrize(("name", "published"), CIFARS)
def test_cifar_reads_the_folder_and_the_archive(tmp_path, monkeypatch, offline, name, published):
    batches = Batches(published, monkeypatch)
    batches.write(tmp_path / "folder")
    monkeypatch.setattr(published, "tgz_md5", md5(batches.pack(tmp_path / "archive")))
    check_cifar(load(name, tmp_path / "folder"), batches)
    check_cifar(load(name, tmp_path / "archive"), batches)
    assert not offline


def test_a_download_is_kept_and_used_again(tmp_path, monkeypatch):
    batches = Batches(CIFAR10, monkeypatch)
    packed, asked = batches.pack(tmp_path / "server"), []
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(packed))

    def serve(url: str, folder: Path, filename: str, _md5: str) -> None:
        asked.append(url)
        (folder / filename).write_bytes(packed)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", serve)
    for _ in range(2):
        check_cifar(load("cifar10", tmp_path / "downloads"), batches)
    assert asked == [CIFAR10.url]
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["cifar-10-python.tar.gz"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte.gz"),
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
    ],
)
def test_without_network_and_files_the_message_says_what_goes_where(tmp_path, offline, name, first):
    with pytest.raises(
        InputError, match=r"not downloaded .*no network here.*; put the .* into .*TEMPER_DATA"
    ) as caught:
        load(name, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / first}: not there")
    assert "\n" not in str(caught.value)
    assert len(offline) == 1 and not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_wrong_checksum_names_the_file(tmp_path, monkeypatch, offline):
    write_fashion(tmp_path / "FashionMNIST/raw", monkeypatch)
    broken = tmp_path / "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"^{re.escape(str(broken))}: wrong checksum, MD5 [0-9a-f]{{32}}, want"):
        load("fashion_mnist", tmp_path)
    folder = Batches(CIFAR10, monkeypatch).write(tmp_path)
    (folder / "data_batch_3").write_bytes(b"")
    with pytest.raises(InputError, match=f"^{re.escape(str(folder / 'data_batch_3'))}: wrong checksum"):
        load("cifar10", tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(InputError, match=f"^{re.escape(str(folder / 'data_batch_3'))}: No such file"):
        load("cifar10", tmp_path)


def test_a_broken_archive_names_the_file(tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"half")
    with pytest.raises(InputError, match=r"cifar-100-python\.tar\.gz: wrong checksum"):
        load("cifar100", tmp_path)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_batch_that_would_run_code_is_refused_although_its_checksum_is_right(tmp_path, monkeypatch):
    batches = Batches(CIFAR10, monkeypatch)
    batches.files["test_batch"] = pickle.dumps({"data": Evil(tmp_path / "owned")}, protocol=2)
    batches.sign(monkeypatch)
    batches.write(tmp_path)
    with pytest.raises(InputError, match=r"^test_batch: asks for \S+, which no batch of images needs$"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "owned").exists()


# The published files themselves, where they are at hand.

PUBLISHED = {
    "fashion_mnist": (1, [0.2860], [0.3530]),
    "cifar10": (3, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
}


@pytest.mark.skipif(not REAL, reason="TEMPER_TEST_DATA names no folder with FashionMNIST/raw and cifar-10-batches-py")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_images_have_the_published_statistics(offline, name):
    channels, mean, spread = PUBLISHED[name]
    source = load(name, Path(REAL or ""))
    assert source.test is not None and source.test.counts(10) == [1000] * 10
    assert source.train.images.shape[1] == channels and len(set(source.train.counts(10))) == 1
    pixels = source.train.images.double() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(mean, abs=5e-5)
    assert pixels.std((0, 2, 3)).tolist() == pytest.approx(spread, abs=5e-5)
