"""How fast image files become batches: pillow, which decodes them, against torchvision, and what worker processes add.

    python benchmarks/streaming_speed.py --images 512 --rounds 3

The files are generated: 500x375 JPEGs of quality 90, about as many bytes as photographs in ImageNet. Each becomes
3x224x224: its middle square. `decode_shard` is what every reader does with it: read, compare the SHA-256, decode with
pillow, crop, resize. `torchvision` does the same with its own decoder; it is not used, since it dies of damaged PNGs
and takes fewer kinds of files. Both are one process and one thread, and take turns; workers run beside a training that
needs its own processor. Files come from the page cache, so no disk is measured.
"""

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision.io import ImageReadMode, decode_image  # noqa: E402
from torchvision.transforms.v2 import functional  # noqa: E402

from components.data.decoding import FileGroup, Stream, decode_shard  # noqa: E402
from components.data.listing import LabelledFiles  # noqa: E402
from components.datasets.image_folder import ImageFolder, Streamed  # noqa: E402

SIZE, IMAGE_SIZE, BATCH = (500, 375), 224, 64
# Of the grey noise that brings a smooth picture to the 110 kB of a photograph.
NOISE = 18


def write_files(folder: Path, count: int) -> float:
    """The files, in two classes; their mean size in kB."""
    rng, sizes = np.random.default_rng(0), []
    for number in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + rng.normal(0, NOISE, (SIZE[1], SIZE[0], 1))
        packed = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(packed, "JPEG", quality=90)
        path = folder / "train" / f"class{number % 2}" / f"{number:05d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.getvalue())
        sizes.append(len(packed.getvalue()))
    return sum(sizes) / count / 1000


def listed(folder: Path) -> LabelledFiles:
    """The files of the data set; decodes each once."""
    fields = {"image_size": IMAGE_SIZE, "color": "rgb", "resize": "crop", "streamed": Streamed(random_crop=None)}
    train = ImageFolder(folder=str(folder), **fields).load(folder).train
    assert isinstance(train, LabelledFiles)
    return train


def with_torchvision(data: bytes) -> torch.Tensor:
    """The pixels of a JPEG, by its decoder."""
    with warnings.catch_warnings():
        # Its decoders are to move to another package.
        warnings.simplefilter("ignore", DeprecationWarning)
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = decode_image(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
    side = min(image.shape[1:])
    return functional.resize(functional.center_crop(image, [side]), [IMAGE_SIZE], antialias=True)


def entrants(files: LabelledFiles) -> dict[str, Callable[[], object]]:
    """By name: all images once, in this process."""
    places = range(len(files))
    return {
        "decode_shard": lambda: decode_shard(files, FileGroup(list(places), None)),
        "torchvision": lambda: [with_torchvision(files.read(place)) for place in places],
    }


def seconds(work: Callable[[], object]) -> dict[str, float]:
    """Wall and processor seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def with_workers(files: LabelledFiles, workers: int, rounds: int) -> list[float]:
    """Images per second of each pass through the files; processes are up before the first that counts."""
    stream = Stream(files, workers, pinned=False)
    shards = [FileGroup(places.tolist(), None) for places in torch.arange(len(files)).split(BATCH)]
    rates = []
    for _ in range(rounds + 1):
        took = seconds(lambda: [None for _ in stream.decoded(shards)])["wall"]
        rates.append(len(files) / took)
    return rates[1:]


def measure(images: int, rounds: int, workers: list[int]) -> dict[str, Any]:
    """Everything, as it is written."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kilobytes = write_files(folder, images)
        files = listed(folder)
        runs = entrants(files)
        for work in runs.values():
            work()
        took: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for turn in range(rounds):
            for name in sorted(runs, reverse=bool(turn % 2)):
                took[name].append(seconds(runs[name]))
        return {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: version(name) for name in ("torch", "torchvision", "pillow")},
            "files": {"count": images, "pixels": SIZE, "mean_kilobytes": kilobytes, "image_size": IMAGE_SIZE},
            "images_per_cpu_second": {name: [images / one["cpu"] for one in all_] for name, all_ in took.items()},
            "images_per_second_by_workers": {count: with_workers(files, count, rounds) for count in workers},
        }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/streaming_speed.json")
    options = parser.parse_args(arguments)
    found = measure(options.images, options.rounds, options.workers)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{'one process':24} images per processor second")
    for name, rates in found["images_per_cpu_second"].items():
        print(f"{name:24} {median(rates):8.0f}  ({min(rates):.0f} to {max(rates):.0f})")
    print(f"{'workers':24} images per second")
    for count, rates in found["images_per_second_by_workers"].items():
        print(f"{count:<24} {median(rates):8.0f}  ({min(rates):.0f} to {max(rates):.0f})")


if __name__ == "__main__":
    main()
