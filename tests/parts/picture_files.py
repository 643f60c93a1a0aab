"""Image files of every kind that a folder may hold, with the pixels that they show, computed without a decoder."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SHAPES = ((1, 1), (1, 300), (300, 1), (2, 3), (7, 7), (16, 16), (40, 13))
"""Heights and widths."""
NAMES = ("{}.png", "{}.jpg", "{}.JPEG", "{}.jfif", "{}.bmp", "{}.GIF", "{}.tif", "{}.webp")
EXIF_KINDS = ("JPEG", "PNG", "TIFF", "WEBP")
ORIENTATION = 0x0112
BROKEN_NOTES = (b"Exif\0\0", b"Exif\0\0garbage!", b"Exif\0\0II*\0\x08\0\0\0\x05\0", b"Exif\0\0II*\0\xff\xff\xff\xff")
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda rows: rows,
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: np.rot90(rows, -1),
    7: lambda rows: rows[::-1, ::-1].swapaxes(0, 1),
    8: lambda rows: np.rot90(rows),
}
"""What EXIF's orientations ask for, of an array [H, W, ...]."""


class Picture(NamedTuple):
    """A file, what it is, and its pixels as seen: [H, W, 3] in 0..255; None where the format is lossy."""

    kind: str
    data: bytes
    pixels: np.ndarray | None


def pictures(seed: int, count: int) -> Iterator[tuple[str, Picture]]:
    """So many files with names for them; kinds in turn, all else drawn. Suffixes tell the truth one time in two."""
    rng = random.Random(seed)
    kinds = [*SAVED, *WRITTEN]
    for number in range(count):
        kind, shape = kinds[number % len(kinds)], rng.choice(SHAPES)
        pixels = np.random.default_rng(rng.getrandbits(32))
        picture = _written(kind, shape, pixels) if kind in WRITTEN else _saved(kind, shape, pixels, rng)
        template = rng.choice(NAMES) if rng.random() < 0.5 else "{}." + kind.split("-")[0]
        yield template.format(f"{number:04d}"), picture


def over_white(levels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours [H, W, C] with a share of opacity in 0..1, [H, W], as seen over white."""
    return levels * alpha[..., None] + 255 * (1 - alpha[..., None])


def _levels(rng: np.random.Generator, shape: tuple[int, int], channels: int, top: int = 256) -> np.ndarray:
    return rng.integers(0, top, (*shape, channels), np.uint16 if top > 256 else np.uint8)


def _grey(levels: np.ndarray) -> np.ndarray:
    return levels[..., :1].repeat(3, 2).astype(float)


def _plain(mode: str, channels: int) -> Callable[..., tuple[Image.Image, np.ndarray]]:
    """Pictures of a mode with 8 bits a channel, where the last of 2 or 4 channels is alpha."""

    def make(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
        levels = _levels(rng, shape, channels)
        seen = levels[..., :3].astype(float) if channels > 2 else _grey(levels)
        if channels in (2, 4):
            seen = over_white(seen, levels[..., -1] / 255)
        image = Image.frombytes(mode, (shape[1], shape[0]), levels.tobytes())
        return image, seen

    return make


def _bits(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    levels = _levels(rng, shape, 1, 2) * 255
    return Image.fromarray(levels[..., 0]).convert("1"), _grey(levels)


def _deep(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    levels = _levels(rng, shape, 1, 65536)
    return Image.fromarray(levels[..., 0]), _grey(levels / 257)


def _palette(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """Of 16 colours, the first of them transparent where the format is told so."""
    colours, places = rng.integers(0, 256, (16, 3), np.uint8), rng.integers(0, 16, shape, np.uint8)
    image = Image.fromarray(places)
    image.putpalette(colours.tobytes())
    return image, colours[places].astype(float)


def _glass(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """A palette whose first colour is marked as transparent."""
    image, seen = _palette(rng, shape)
    image.info["transparency"] = 0
    seen[np.asarray(image) == 0] = 255
    return image, seen


def _inks(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """Cyan, magenta and yellow without black."""
    inks = _levels(rng, shape, 4)
    inks[..., 3] = 0
    return Image.frombytes("CMYK", (shape[1], shape[0]), inks.tobytes()), 255.0 - inks[..., :3]


L, LA, RGB, RGBA = _plain("L", 1), _plain("LA", 2), _plain("RGB", 3), _plain("RGBA", 4)
LOSSLESS: dict[str, Any] = {"lossless": True, "exact": True}
# What pillow writes: suffix and a word, to format, picture and options.
SAVED: dict[str, tuple[str, Callable[..., tuple[Image.Image, np.ndarray]], dict[str, Any]]] = {
    **{
        f"png-{word}": ("PNG", make, {})
        for word, make in {
            "bits": _bits, "l": L, "la": LA, "rgb": RGB, "rgba": RGBA, "deep": _deep, "p": _palette, "glass": _glass,
        }.items()
    },
    **{f"jpeg-{word}": ("JPEG", make, {}) for word, make in {"l": L, "rgb": RGB, "cmyk": _inks}.items()},
    "jpg-progressive": ("JPEG", RGB, {"progressive": True, "quality": 30}),
    **{f"webp-{word}": ("WEBP", make, LOSSLESS) for word, make in {"rgb": RGB, "rgba": RGBA}.items()},
    "webp-lossy": ("WEBP", RGBA, {"quality": 40}),
    **{f"gif-{word}": ("GIF", make, {}) for word, make in {"l": L, "p": _palette, "glass": _glass}.items()},
    **{f"bmp-{word}": ("BMP", make, {}) for word, make in {"bits": _bits, "l": L, "rgb": RGB, "p": _palette}.items()},
    **{f"ppm-{word}": ("PPM", make, {}) for word, make in {"bits": _bits, "l": L, "rgb": RGB, "deep": _deep}.items()},
    **{
        f"tiff-{word}": ("TIFF", make, {"compression": compression})
        for word, make, compression in (
            ("bits", _bits, "group4"), ("l", L, None), ("la", LA, "tiff_lzw"), ("rgb", RGB, "tiff_deflate"),
            ("rgba", RGBA, None), ("p", _palette, "packbits"), ("deep", _deep, None), ("cmyk", _inks, "tiff_lzw"),
        )
    },
    **{
        f"{suffix}-animated": (kind, make, {"save_all": True, **options})
        for suffix, kind, make, options in (
            ("gif", "GIF", _palette, {}), ("png", "PNG", RGB, {}), ("apng", "PNG", RGBA, {}),
            ("webp", "WEBP", RGBA, LOSSLESS), ("tif", "TIFF", RGB, {}),
        )
    },
}  # fmt: skip


def _saved(kind: str, shape: tuple[int, int], pixels: np.random.Generator, rng: random.Random) -> Picture:
    file_format, make, options = SAVED[kind]
    image, seen = make(pixels, shape)
    if "save_all" in options:
        options = options | {"append_images": [make(pixels, shape)[0] for _ in range(2)]}
    elif file_format in EXIF_KINDS:
        exif = Image.Exif()
        exif[ORIENTATION] = turned = rng.choice(list(UPRIGHT))
        if file_format != "TIFF" and rng.random() < 0.2:
            exif, turned = rng.choice(BROKEN_NOTES), 1
        options, seen = options | {"exif": exif}, UPRIGHT[turned](seen)
    packed = io.BytesIO()
    image.save(packed, file_format, **options)
    exact = file_format != "JPEG" and kind != "webp-lossy"
    return Picture(f"{kind} {shape}", packed.getvalue(), seen if exact else None)


def png(depth: int, color_type: int, rows: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG of packed rows, uint8 [H, bytes], whose width fits them, with such chunks before the pixels."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    header = struct.pack(">IIBBBBB", rows.shape[1] * 8 // (depth * samples), len(rows), depth, color_type, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = {"IHDR": header, **chunks, "IDAT": packed, "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), data) for name, data in parts.items())


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(levels: np.ndarray, bits: int, order: str = "<", **tags: int) -> bytes:
    """A grey TIFF of unsigned levels [H, W], each of 8, 12 or 16 bits, with other values of such TAGS."""
    height, width = levels.shape
    if bits == 12:
        # Each row begins with a new byte.
        rows = bytes.fromhex("".join("".join(f"{level:03x}" for level in row) + "0" * (width % 2) for row in levels))
    else:
        rows = levels.astype(f"{order}u{bits // 8}").tobytes()
    usual = {"width": width, "height": height, "bits": bits, "packing": 1, "meaning": 1, "place": 8, "channels": 1}
    values = usual | {"rows": height, "bytes": len(rows)} | tags
    entries = [struct.pack(f"{order}HHI", TAGS[name], 4, 1) + struct.pack(f"{order}I", values[name]) for name in values]
    first = struct.pack(f"{order}HI", 42, 8 + len(rows))
    return (
        (b"II" if order == "<" else b"MM")
        + first
        + rows
        + struct.pack(f"{order}H", len(entries))
        + b"".join(entries)
        + bytes(4)
    )


TAGS = {"width": 256, "height": 257, "bits": 258, "packing": 259, "meaning": 262, "place": 273, "channels": 277,
        "rows": 278, "bytes": 279, "planes": 284, "numbers": 339}  # fmt: skip

# What pillow cannot write: suffix and a word, to channels, highest level and what is marked as transparent.
WRITTEN = {
    "png-deep-rgb": (3, 65536), "png-deep-rgba": (4, 65536), "png-deep-la": (2, 65536), "png-hole-rgb": (3, 256),
    "png-hole-l": (1, 256), "tif-twelve": (1, 4096), "tif-white-deep": (1, 65536), "tif-white": (1, 256),
}  # fmt: skip


def _written(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> Picture:
    channels, top = WRITTEN[kind]
    levels = _levels(rng, shape, channels, top)
    seen = levels[..., :3].astype(float) if channels > 2 else _grey(levels)
    if "hole" in kind:
        hole = levels[0, 0]
        seen[(levels == hole).all(2)] = 255
        data = png(8, {1: 0, 3: 2}[channels], levels.reshape(len(levels), -1), tRNS=hole.astype(">u2").tobytes())
        return Picture(f"{kind} {shape}", data, seen)
    if kind.startswith("tif"):
        bits, white = top.bit_length() - 1, "white" in kind
        seen = _grey(levels / (top - 1) * 255)
        data = tiff(levels[..., 0], bits, meaning=0 if white else 1)
        return Picture(f"{kind} {shape}", data, 255 - seen if white else seen)
    # Both roundings of 16 bits to 8 are within one level.
    seen /= 257
    if channels in (2, 4):
        seen = over_white(seen, levels[..., -1] / 65535)
    rows = levels.astype(">u2").view(np.uint8).reshape(len(levels), -1)
    return Picture(f"{kind} {shape}", png(16, {2: 4, 3: 2, 4: 6}[channels], rows), seen)
