"""The bytes of one image file to pixels, with pillow: the one way, for a set in memory and for a streamed one."""

import io
import math
import os
import random
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from components.data.listing import Decoding
from components.foundation.lines import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

# The only formats that are parsed: PIL also knows formats (EPS, PDF) that start other programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
BACKGROUND = "white"
STDERR = 2
# Bytes of a PNG that say what its pixels are; grey and colour without alpha; the depths whose transparent colour pillow
# compares with the pixels as they are stored.
PNG_DEPTH, PNG_COLOR, PLAIN, COMPARABLE = 24, 25, (0, 2), (1, 8)
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
# Aspect ratios of random crops, and how often one that does not fit is drawn again (arXiv 1409.4842, section 6).
NARROWEST, WIDEST = 3 / 4, 4 / 3
ATTEMPTS = 10


def decode(data: bytes, decoding: Decoding, rng: random.Random | None) -> Tensor:
    """One image, uint8 [C, size, size]; `rng` places a random crop. Of an animation: its first picture.

    Upright as the camera noted, transparent parts white, 16 bits to 8. Errors: ValueError for what is no whole image of
    the formats above, or has grey levels without a known range.
    """
    from PIL import Image

    try:
        image = _upright(data).convert("RGB" if decoding.color == "rgb" else "L")
    except Image.UnidentifiedImageError:
        raise ValueError(f"want a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    except Exception as error:  # a broken file may raise anything inside a decoder
        raise ValueError(one_line(" ".join(str(error).split())) or type(error).__name__) from None
    top, left, height, width = _window(image.height, image.width, decoding, rng)
    # Cut before it is resized: what is outside of the window must not mix into its edge.
    cut = torch.from_numpy(np.array(image.crop((left, top, left + width, top + height))))
    pixels = cut.view(1, height, width, -1).permute(0, 3, 1, 2)
    return interpolate(pixels, (decoding.image_size, decoding.image_size), mode="bilinear", antialias=True)[0]


def _upright(data: bytes) -> "Image":
    """The whole image, upright, with 8 bits a channel and no transparency."""
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.format == "PNG":
        # Compares every checksum of the file, which decoding does not, and so leaves the image unusable.
        image.verify()
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if "transparency" in image.info and data[PNG_COLOR] in PLAIN and data[PNG_DEPTH] not in COMPARABLE:
            raise ValueError(f"a transparent colour of {data[PNG_DEPTH]} bits, want 8 or an alpha channel")
    with _without_remarks() if image.format == "TIFF" else nullcontext():
        image.load()
    return _eight_bits(_turned(image))


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
    """The image as the camera's note of which side is up asks for, which is part of the image."""
    from PIL import Image

    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception as error:
        raise ValueError(f"its EXIF data cannot be read: {error}") from None
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
