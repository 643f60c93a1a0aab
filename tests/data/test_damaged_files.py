"""Damaged image files: refused by name before anything is trained, or read the same each time; no process dies."""

import multiprocessing
import random
import re
import time
from collections import Counter
from collections.abc import Callable

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
from tests.parts.streamed_files import listed, write_folder

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
# Of an animation the first picture is read, so the rest may be missing; and pillow needs no end mark.
MAY_LACK_ITS_END = ("animated", "bits")


def answer(data: bytes) -> torch.Tensor | None:
    """The pixels, or None for a file that is refused. Any other end is an error of the test."""
    try:
        return decode(data, DECODING, None)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
        return None


@pytest.mark.filterwarnings("ignore")  # pillow's remarks, as in the readers
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


@pytest.mark.parametrize("streamed", [None, {"random_crop": None}], ids=["in_memory", "streamed"])
def test_one_flipped_bit_in_a_png_ends_the_first_stage_with_its_name(tmp_path, capfd, streamed):
    folder = tmp_path / "photos"
    for number, (name, picture) in enumerate(pictures(seed=2, count=len(SAVED))):
        path = folder / "train" / ("ant", "bee")[number % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.data)
    victim = next(path for path in sorted(folder.rglob("*")) if path.is_file() and path.read_bytes()[1:4] == b"PNG")
    data = bytearray(victim.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    victim.write_bytes(data)
    fields = {"name": "image_folder", "folder": str(folder), "image_size": 8, "color": "rgb", "resize": "crop"}
    project = make_project(tmp_path / "project", **{"fetch_data.dataset": {**fields, "streamed": streamed}})
    with pytest.raises(SystemExit) as caught:
        run_here(project, "fetch_data")
    assert caught.value.code == USER_ERROR
    line = f"fetch_data: error: {re.escape(str(victim))}: not readable as an image: broken PNG file .*\n"
    assert re.fullmatch(line, capfd.readouterr().err)
    assert not (project / "data").exists()


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
