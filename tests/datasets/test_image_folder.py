"""A user's own images: modes, sizes, transparency, orientation, and one line for each way a folder can be wrong."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.splits import Source, require_source
from components.datasets import DATASETS
from components.foundation.errors import InputError
from components.foundation.params import member

FOLDER = {"image_size": 8, "color": "rgb", "resize": "crop", "streamed": None}


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes, three images each in train and one each in test."""
    folder = tmp_path / "photos"
    for part, num in (("train", 3), ("test", 1)):
        for seed, name in enumerate(("ant", "bee")):
            (folder / part / name).mkdir(parents=True)
            for number in range(num):
                picture(10 * seed + number + len(part)).save(folder / part / name / f"{number}.png")
    return folder


def load_folder(folder: Path, **changes: Any) -> Source:
    spec = {"name": "image_folder", "folder": str(folder), **FOLDER, **changes}
    return require_source(member(DATASETS, spec, "dataset").load(folder / "unused"), "image_folder")


def only(folder: Path, image: Image.Image, name: str = "0.png", **options: Any) -> Path:
    """Replaces the first train image of the first class."""
    (folder / "train/ant/0.png").unlink()
    image.save(folder / "train/ant" / name, **options)
    return folder / "train/ant" / name


def first(folder: Path, **changes: Any) -> torch.Tensor:
    return load_folder(folder, **changes).train.images[0]


@pytest.mark.parametrize(("color", "channels"), [("rgb", 3), ("gray", 1)])
def test_image_folder_gives_classes_by_name(photos, color, channels):
    source = load_folder(photos, color=color)
    assert source.classes == ("ant", "bee") and source.test is not None
    assert source.train.images.shape == (6, channels, 8, 8) and source.test.images.shape == (2, channels, 8, 8)
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and source.test.labels.tolist() == [0, 1]


def test_image_folder_without_test(photos):
    for path in (photos / "test").rglob("*.png"):
        path.unlink()
    for path in (photos / "test/ant", photos / "test/bee", photos / "test"):
        path.rmdir()
    assert load_folder(photos).test is None


def test_images_of_the_right_size_keep_their_pixels(photos):
    image = picture(5, (8, 8))
    only(photos, image)
    for resize in ("crop", "stretch"):
        assert np.array_equal(first(photos, resize=resize).permute(1, 2, 0).numpy(), np.asarray(image))


def test_crop_keeps_the_middle_and_stretch_keeps_everything(photos):
    wide = Image.new("RGB", (32, 16), "black")
    wide.paste("white", (8, 0, 24, 16))
    only(photos, wide)
    # The outermost columns mix with what was cut away, as in any smooth resize.
    assert first(photos)[:, :, 1:7].min() == 255 and first(photos).min() > 200
    stretched = first(photos, resize="stretch")
    assert stretched[:, :, 0].max() == 0 and stretched[:, :, 7].max() == 0 and stretched[:, :, 3:5].min() == 255


def alpha(image: Image.Image) -> Image.Image:
    """Red, wholly transparent on the left half."""
    image.paste((255, 0, 0, 255), (0, 0, 8, 8))
    image.paste((255, 0, 0, 0), (0, 0, 4, 8))
    return image


RED, GREY = [255, 0, 0], [128, 128, 128]
MODES = {
    "1bit.png": (Image.new("1", (8, 8), 1), [255, 255, 255]),
    "L.png": (Image.new("L", (8, 8), 128), GREY),
    "P.gif": (Image.new("RGB", (8, 8), "red").convert("P"), RED),
    "P.png": (Image.new("RGB", (8, 8), "red").quantize(4), RED),
    "LA.png": (Image.new("LA", (8, 8), (128, 255)), GREY),
    "RGBA.webp": (Image.new("RGBA", (8, 8), "red"), RED),
    "RGB.bmp": (Image.new("RGB", (8, 8), "red"), RED),
    "RGB.TIFF": (Image.new("RGB", (8, 8), "red"), RED),
    "CMYK.jpg": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RED),
    "L.jpeg": (Image.new("L", (8, 8), 128), GREY),
    "I16.png": (Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)), GREY),
    "I16.tif": (Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)), GREY),
    "I32.tif": (Image.fromarray(np.full((8, 8), 128 * 257, np.int32)), GREY),
    "L.pgm": (Image.new("L", (8, 8), 128), GREY),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_eight_bit_colour(photos, name):
    image, want = MODES[name]
    only(photos, image, name)
    # Files come in order of their names.
    found = load_folder(photos).train.images[sorted([name, "1.png", "2.png"]).index(name)]
    assert found.float().mean((1, 2)).tolist() == pytest.approx(want, abs=2)
    assert found.float().std((1, 2)).max() < 2


def test_transparent_pixels_become_white(photos):
    only(photos, alpha(Image.new("RGBA", (8, 8))))
    found = first(photos)
    assert found[:, :, :4].min() == 255
    assert found[:, 0, 4:].T.tolist() == [RED] * 4


def test_a_transparent_palette_entry_becomes_white(photos):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([9, 9, 9, 255, 0, 0])
    image.paste(1, (4, 0, 8, 8))
    only(photos, image, transparency=0)
    found = first(photos)
    assert found[:, :, :4].min() == 255
    assert found[:, 0, 4:].T.tolist() == [RED] * 4


def test_the_cameras_orientation_is_applied(photos):
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    only(photos, image, exif=exif)
    assert first(photos)[:, :4].max() == 0 and first(photos)[:, 4:].min() == 255


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["0.jpg", "0.png", "0.gif", "0.webp", "0.bmp", "0.tif"])
def test_a_truncated_image_is_named(photos, name):
    path = only(photos, picture(3, (64, 64)), name)
    cut(path)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: not readable as an image: ") as caught:
        load_folder(photos)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_image_is_named(photos):
    path = photos / "train/bee/1.png"
    path.write_text("not a picture")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: not readable as an image"):
        load_folder(photos)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(np.zeros((8, 8), np.float32)), "floating-point grey levels"),
        (Image.fromarray(np.full((8, 8), 70000, np.int32)), "32-bit grey levels"),
    ],
)
def test_grey_levels_without_a_known_range_are_refused(photos, image, message):
    only(photos, image, "0.tif")
    with pytest.raises(InputError, match=f"0.tif: not readable as an image: {message}"):
        load_folder(photos)


def test_hidden_files_are_left_out_and_others_refused(photos):
    (photos / "train/.cache").mkdir()
    (photos / "train/ant/.DS_Store").write_bytes(b"x")
    assert len(load_folder(photos).train) == 6
    (photos / "train/ant/notes.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"notes\.heic: no known image type \(allowed: \.apng .* \.webp\)"):
        load_folder(photos)


def test_counts_and_classes_are_checked_before_anything_is_decoded(photos):
    (photos / "train/ant/0.png").write_bytes(b"broken")
    (photos / "test/ant/0.png").rename(photos / "test/bee/1.png")
    with pytest.raises(InputError, match="test: class 'ant' has no images, want at least 1"):
        load_folder(photos)
    (photos / "test/ant").rename(photos / "test/cat")
    (photos / "test/bee/1.png").rename(photos / "test/cat/0.png")
    with pytest.raises(InputError, match="2 classes in train, 2 in test, want the same; 'ant' is only in train"):
        load_folder(photos)
    (photos / "train/bee/0.png").unlink()
    (photos / "train/bee/1.png").unlink()
    with pytest.raises(InputError, match="train: class 'bee' has a single image, want at least 2"):
        load_folder(photos)
    (photos / "train/bee/2.png").unlink()
    with pytest.raises(InputError, match="train: class 'bee' has no images, want at least 2"):
        load_folder(photos)


def test_more_test_classes_than_train_classes(photos):
    (photos / "test/cow").mkdir()
    picture(1).save(photos / "test/cow/0.png")
    with pytest.raises(InputError, match="2 classes in train, 3 in test, want the same; 'cow' is only in test"):
        load_folder(photos)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match=r"train: no such folder, want one folder per class"):
        load_folder(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="train: no images at all"):
        load_folder(tmp_path)
    (tmp_path / "train/ant").mkdir()
    for number in range(2):
        picture(number).save(tmp_path / f"train/ant/{number}.png")
    with pytest.raises(InputError, match=r"train: 1 class folder\(s\), want at least 2"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 0}, "image_size: got 0, want at least 1"),
        ({"image_size": "8"}, "image_size"),
        ({"color": "hsv"}, "color: input should be 'rgb' or 'gray', got 'hsv'"),
        ({"resize": "pad"}, "resize: input should be 'crop' or 'stretch', got 'pad'"),
        ({"colour": "rgb"}, r"colour: unknown key \(allowed: color, folder, image_size, resize, streamed\)"),
    ],
)
def test_wrong_fields_are_refused(photos, changes, message):
    with pytest.raises(InputError, match=message):
        load_folder(photos, **changes)
