"""Damaged image files: refused by name before anything is trained, or read the same each time; no process dies."""

import multiprocessing
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from PIL import Image

from components.data.decoding import FileGroup, Stream
from components.data.listing import Decoding
from components.data.picture import decode
from components.foundation.errors import InputError
from components.foundation.process import USER_ERROR
from tests.parts.picture_files import SAVED, WRITTEN, pictures
from tests.parts.pipeline_files import make_project, run_here
from tests.parts.streamed_files import jpeg, listed, write_folder

DECODING = Decoding(folder="", image_size=16, color="rgb", resize="crop", random_crop=None)


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def zero(data: bytearray, rng: random.Random) -> None:
    begin, length = rng.randrange(len(data)), rng.choice((1, 8, 64))
    data[begin : begin + length] = bytes(len(data[begin : begin + length]))


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def drop(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data))
    del data[begin : begin + rng.choice((1, 8, 64))]


def head(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(min(len(data), 200))] = rng.randrange(256)


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, zero, cut, drop, head)


def answer(data: bytes) -> torch.Tensor | None:
    """The pixels, or None for a file that is refused. Any other end is an error of the test."""
    try:
        return decode(data, DECODING, None)
    except ValueError as error:
        assert str(error) and str(error).isprintable()
        return None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_or_has_the_same_pixels_each_time(damage, monkeypatch):
    # A damaged header may ask for much time and memory, which is no matter here.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    rng, counts = random.Random(f"{damage.__name__} 2"), Counter[str]()
    for _, picture in pictures(seed=5, count=4 * len([*SAVED, *WRITTEN])):
        for _ in range(3):
            broken = bytearray(picture.data)
            damage(broken, rng)
            first = answer(bytes(broken))
            # What is in memory must not show.
            spoilt = [torch.full((4096,), value, dtype=torch.uint8) for value in range(8)]
            second = answer(bytes(broken))
            del spoilt
            counts["refused" if first is None else "taken"] += 1
            assert (first is None) == (second is None)
            assert first is None or second is None or torch.equal(first, second), picture.kind
            if first is None or bytes(broken) == picture.data:
                continue
            kept = torch.equal(first, decode(picture.data, DECODING, None))
            assert kept or not picture.data.startswith(b"\x89PNG"), f"{picture.kind}: a PNG has checksums"
            assert kept or damage is not cut, f"{picture.kind}: cut at {len(broken)} of {len(picture.data)} bytes"
    assert counts["refused"] > counts.total() / 8


@pytest.fixture
def said(tmp_path, capfd) -> Callable[[bytes, dict | None], str]:
    """What `fetch_data` says of a folder in which one file holds such bytes; it must end with one line and status 2."""
    victim = tmp_path / "photos/train/bee/2.png"
    for name in ("ant/1.jpg", "ant/2.jpg", "bee/1.jpg", "bee/2.png"):
        path = tmp_path / "photos/train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(1))

    def look(data: bytes, streamed: dict | None) -> str:
        victim.write_bytes(data)
        fields = {"name": "image_folder", "folder": str(tmp_path / "photos"), "image_size": 8, "color": "rgb"}
        spec = {**fields, "resize": "crop", "streamed": streamed}
        project = make_project(tmp_path / "project", **{"fetch_data.dataset": spec})
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            run_here(project, "fetch_data")
        assert caught.value.code == USER_ERROR and not (project / "data").exists()
        line = re.fullmatch(r"fetch_data: error: (.*): not readable as an image: (.*)\n", capfd.readouterr().err)
        assert line is not None and line.group(1) == str(victim)
        return line.group(2)

    return look


def test_a_damaged_file_ends_the_first_stage_with_one_line_and_its_name(said):
    kinds, readers, flipped = len([*SAVED, *WRITTEN]), cycle((None, {"random_crop": None})), 0
    for _, picture in pictures(seed=2, count=kinds):
        # Of several pictures in a file the first counts, and the others may be missing.
        if not picture.kind.startswith(("gif-animated", "tif-animated")):
            assert said(picture.data[: len(picture.data) // 2], next(readers)), picture.kind
    for _, picture in pictures(seed=3, count=kinds):
        begin = picture.data.find(b"IDAT") + 10
        if picture.data.startswith(b"\x89PNG"):
            bit = bytes([picture.data[begin] ^ 1])
            assert "checksum" in said(picture.data[:begin] + bit + picture.data[begin + 1 :], next(readers))
            flipped += 1
    assert flipped > 8


@pytest.mark.slow
def test_a_worker_that_is_lost_is_one_line(tmp_path):
    files = listed(write_folder(tmp_path, train=300))
    stream, shards = Stream(files, 2, pinned=False), torch.arange(len(files)).split(10)
    images = stream.decoded(FileGroup(places.tolist(), None) for places in shards)
    next(images)
    for worker in multiprocessing.active_children():
        worker.kill()
    # While this process is busy with something else: an error is for where the images are wanted.
    time.sleep(0.5)
    line = "a process that decodes images was lost with .*/ant/.* files after it in hand .DataLoader worker"
    with pytest.raises(InputError, match=line) as error:
        list(images)
    assert "\n" not in str(error.value)
