"""torchvision's decoders against pillow's: every mode that may be streamed gives the pixels of `image_folder`."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.decoding import chunks
from components.datasets.image_folder import ImageFolder, Streamed
from components.foundation.errors import InputError
from tests.parts.streamed_files import jpeg

RED, GREY, WHITE = (255, 0, 0), (128, 128, 128), (255, 255, 255)
FLAT = {
    "cmyk.jpg": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RED),
    "grey.jpeg": (Image.new("L", (8, 8), 128), GREY),
    "rgb.JPEG": (Image.new("RGB", (8, 8), GREY), GREY),
    "grey.png": (Image.new("L", (8, 8), 128), GREY),
    "bit.png": (Image.new("1", (8, 8), 0), (0, 0, 0)),
    "palette.png": (Image.new("RGB", (8, 8), "red").quantize(4), RED),
    "levels.png": (Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)), GREY),
    "opaque.png": (Image.new("RGBA", (8, 8), "red"), RED),
    "glass.png": (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), WHITE),
    "veil.png": (Image.new("RGBA", (8, 8), (255, 0, 0, 51)), (255, 204, 204)),
    "mist.png": (Image.new("LA", (8, 8), (0, 51)), (204, 204, 204)),
    "clear.png": (Image.new("P", (8, 8), 0), WHITE),
    "rgb.webp": (Image.new("RGB", (8, 8), GREY), GREY),
    "veil.webp": (Image.new("RGBA", (8, 8), (255, 0, 0, 51)), (255, 204, 204)),
}

OPTIONS = {"veil.webp": {"lossless": True}, "clear.png": {"transparency": 0}}


def streamed(folder: Path, color: str = "rgb", resize: str = "crop", image_size: int = 8) -> torch.Tensor:
    return _decoded(folder, color, resize, image_size, Streamed(random_crop=None))


def in_memory(folder: Path, color: str = "rgb", resize: str = "crop", image_size: int = 8) -> torch.Tensor:
    return _decoded(folder, color, resize, image_size, None)


def _decoded(folder: Path, color, resize, image_size: int, how: Streamed | None) -> torch.Tensor:
    member = ImageFolder(folder=str(folder), image_size=image_size, color=color, resize=resize, streamed=how)
    return torch.cat(list(chunks(member.load(folder).train)))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two classes, of which the first has the images that a test adds to it."""
    monkeypatch.setenv("TEMPER_WORKERS", "0")
    for name in ("ant", "bee"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "train" / name / f"z{number}.jpg").write_bytes(jpeg(number, (8, 8)))
    return tmp_path


@pytest.mark.parametrize("name", FLAT)
def test_every_mode_gives_its_colour(folder, name):
    image, want = FLAT[name]
    image.save(folder / "train/ant" / f"a-{name}", **OPTIONS.get(name, {}))
    for color in ("rgb", "gray"):
        found, other = streamed(folder, color)[0].int(), in_memory(folder, color)[0].int()
        assert (found - other).abs().max() <= 1
    assert torch.equal(streamed(folder)[0], torch.tensor(want, dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8))


def test_a_colour_that_stands_for_transparency_is_refused(folder):
    Image.new("L", (8, 8), 7).save(folder / "train/ant/hole.png", transparency=7)
    with pytest.raises(InputError, match=r"hole.png: not readable as an image: one of its colours stands for"):
        streamed(folder)


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (30, 30)], ids=str)
def test_sizes_agree_with_pillow(folder, resize, size):
    (folder / "train/ant/a.jpg").write_bytes(jpeg(4, size))
    found, want = (decode(folder, "rgb", resize, 24)[0].int() for decode in (streamed, in_memory))
    assert found.shape == want.shape == (3, 24, 24)
    assert (found - want).abs().float().mean() < 1.5 and (found - want).abs().max() <= 12


def test_the_camera_says_which_side_is_up(folder):
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))
    turned = Image.Exif()
    turned[0x0112] = 6  # the row 0 is at the right
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=100, exif=turned)
    (folder / "train/ant/a.jpg").write_bytes(packed.getvalue())
    found = streamed(folder)[0]
    assert found[:, :, 5:].min() > 240 and found[:, :, :3].max() < 15
    assert (found.int() - in_memory(folder)[0].int()).abs().max() <= 1
