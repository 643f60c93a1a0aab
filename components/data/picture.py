"""An image file to the pixels of a data set, for a set in memory and for a streamed one."""

import math
import random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from components.data.image_file import picture
from components.data.listing import Decoding

# Aspect ratios of random crops, and how often one that does not fit is drawn again (arXiv 1409.4842, section 6).
NARROWEST, WIDEST = 3 / 4, 4 / 3
ATTEMPTS = 10


def decode(data: bytes, decoding: Decoding, rng: random.Random | None) -> Tensor:
    """The `picture` in `data` as one image, uint8 [C, size, size]; `rng` places a random crop. Errors: its own."""
    image = picture(data, "RGB" if decoding.color == "rgb" else "L")
    top, left, height, width = _window(image.height, image.width, decoding, rng)
    # Cut before it is resized: what is outside of the window must not mix into its edge.
    cut = torch.from_numpy(np.array(image.crop((left, top, left + width, top + height))))
    pixels = cut.view(1, height, width, -1).permute(0, 3, 1, 2)
    return interpolate(pixels, (decoding.image_size, decoding.image_size), mode="bilinear", antialias=True)[0]


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
