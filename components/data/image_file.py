"""The bytes of one image file to a picture, with pillow: the one way for whoever looks at files. No torch here."""

import io
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from components.foundation.lines import one_line
from components.foundation.memory import lack_of_memory

if TYPE_CHECKING:
    from PIL.Image import Image

# The only formats that are parsed: PIL also knows formats (EPS, PDF) that start other programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
BACKGROUND = "white"
STDERR = 2
# Bytes of a PNG that say what its pixels are; grey and colour without alpha; the depths whose transparent colour pillow
# compares with the pixels as they are stored.
PNG_DEPTH, PNG_COLOR, PLAIN, COMPARABLE = 24, 25, (0, 2), (1, 8)
# Tags of a TIFF: bits of a channel; whether 0 is white; whether channels are apart; whether numbers have signs.
BITS, MEANING, PLANES, NUMBERS = 258, 262, 284, 339
WHITE_IS_ZERO, APART, SIGNED = 0, 2, 2
# The tag of EXIF that says which side is up, and what each of its values but 1 asks for.
ORIENTATION = 0x0112
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def picture(data: bytes, mode: Literal["RGB", "L"]) -> "Image":
    """The image, in colour or grey, 8 bits a channel; of an animation its first picture.

    Upright as the camera noted, transparent parts white, more bits to 8. Errors: ValueError, in one line, for what is
    no whole image of the formats above, or has grey levels without a known range.
    """
    with _in_one_line():
        return _eight_bits(_turned(_whole(data))).convert(mode)


def size(path: Path) -> tuple[int, int]:
    """Width and height, as the first bytes of the file say. Errors: ValueError, in one line; OSError."""
    from PIL import Image

    with path.open("rb") as file, _in_one_line(), Image.open(file, formats=FORMATS) as image:
        return image.size


@contextmanager
def _in_one_line() -> Generator[None]:
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"):
            # pillow's remarks on a file name no file, and what matters of them is an error.
            yield
    except Image.UnidentifiedImageError:
        raise ValueError(f"want a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    except Exception as error:  # a broken file may raise anything inside a decoder
        said = lack_of_memory(error) or one_line(" ".join(str(error).split()))
        raise ValueError(said or type(error).__name__) from None


def _whole(data: bytes) -> "Image":
    """The image with all that its file holds of it, and grey levels that use all of their bits."""
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.format == "PNG":
        # Compares every checksum of the file, which decoding does not, and so leaves the image unusable.
        image.verify()
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if "transparency" in image.info and data[PNG_COLOR] in PLAIN and data[PNG_DEPTH] not in COMPARABLE:
            raise ValueError(f"a transparent colour of {data[PNG_DEPTH]} bits, want 8 or an alpha channel")
    if image.format != "TIFF":
        image.load()
        return image
    _require_strips(image)
    with _without_remarks():
        image.load()
    return _with_all_bits(image)


def _require_strips(image: "Image") -> None:
    """Refuses a TIFF whose strips or tiles, by their sizes, leave a part of it empty: pillow would show it black."""
    tiles = image.tile  # pyright: ignore[reportAttributeAccessIssue]
    areas = [(right - left) * (low - top) for _, (left, top, right, low), _, _ in tiles]
    planes = len(image.getbands()) if image.tag_v2.get(PLANES, 1) == APART else 1  # pyright: ignore
    if not any(tile[0] == "libtiff" for tile in tiles) and sum(areas) < image.width * image.height * planes:
        raise ValueError(f"{len(areas)} strips or tiles, want more")


def _with_all_bits(image: "Image") -> "Image":
    """A TIFF in the levels that its tags mean: pillow overlooks some where there are neither 8 nor 32 bits."""
    from PIL import Image

    tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    bits = max(tags.get(BITS, (8,)))
    if SIGNED in tags.get(NUMBERS, ()) and bits <= 16:
        raise ValueError(f"{bits}-bit levels with signs, want levels without")
    if image.mode.startswith("I;16"):
        top = 2**bits - 1
        levels = np.asarray(image).astype(np.int64)
        levels = top - levels if tags.get(MEANING) == WHITE_IS_ZERO else levels
        return Image.fromarray((levels * 65535 // top).clip(0, 65535).astype(np.uint16))
    return image


@contextmanager
def _without_remarks() -> Generator[None]:
    """Keeps libtiff from writing to the terminal past Python: what it says names no file, and is an error as well."""
    kept, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(nowhere)


def _turned(image: "Image") -> "Image":
    """The image as the camera's note of which side is up asks for, which is part of the image. Unreadable: no note."""
    from PIL import Image

    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # notes are written by any program, and read by decoders that raise anything
        return image
    return image if turn is None else image.transpose(Image.Transpose[turn])


def _eight_bits(image: "Image") -> "Image":
    """The image with 8 bits a channel and no transparency (composed over white), in a mode PIL converts by itself."""
    from PIL import Image

    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("32-bit grey levels, want 8 or 16 bits")
        # PIL would clip 16 bits at 255.
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point grey levels, want 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer)
    return image
