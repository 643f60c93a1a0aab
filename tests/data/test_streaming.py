"""A split that stays in its files: the same batches as from memory, whatever decodes them and whenever it stops."""

import hashlib
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch

from benchmarks import streaming_speed
from components.data import decoding, picture
from components.data.augmentation import Augmentation, RandAugment
from components.data.batch import Batch
from components.data.listing import LabelledFiles
from components.data.loader import Loader
from components.data.splits import LabelledImages, read_source, read_splits
from components.data.streaming import StreamedLoader
from components.foundation.errors import InputError
from components.foundation.params import Params
from components.foundation.storage import read_csv, read_json, sha256
from components.methods.standard import Standard, StandardMethod
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.numerics import parallel
from components.schedules.one_cycle import OneCycle
from components.stages import fetch_data, normalize_data, train_clean_teacher
from components.tracking.journal import Journal
from components.training.loop import Plan, fit, start
from components.training.validation import Validation
from tests.parts.method_members import ATTACK
from tests.parts.pipeline_files import ROOT, small_params
from tests.parts.streamed_files import CLASSES, listed, write_folder
from tests.parts.tiny_net import TinyNet
from tests.training.test_training import recipe

CPU = torch.device("cpu")
STILL = Augmentation(crop=0, flip=False, cutmix=0.0, rand_augment=None)
STRONG = Augmentation(crop=1, flip=True, cutmix=0.5, rand_augment=RandAugment(num_ops=1, magnitude=9))


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    """Decoding in this process, unless a test asks for more."""
    monkeypatch.setenv("TEMPER_WORKERS", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), train=60, val=12)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loader(files: LabelledFiles, augmentation: Augmentation = STRONG, batch_size: int = 16) -> StreamedLoader:
    return StreamedLoader(files, batch_size, augmentation, len(CLASSES), CPU)


def in_order(epoch: list[Batch]) -> torch.Tensor:
    """The images of an epoch in the order of their places."""
    places = torch.cat([batch.indices for batch in epoch])
    return torch.cat([batch.images for batch in epoch])[places.argsort()]


def equal(left: Batch, right: Batch) -> bool:
    pairs = zip((*left[:3], *left.placement[1:]), (*right[:3], *right.placement[1:]), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("augmentation", [STILL, STRONG], ids=["still", "strong"])
def test_batches_are_those_of_the_decoded_set(folder, augmentation):
    files = listed(folder, random_crop=None)
    images = decoding.in_memory(files, "").images
    whole, streamed = Loader(images, files.labels, 16, augmentation, 3), loader(files, augmentation)
    assert streamed.num_batches == whole.num_batches == 4
    for seed in (1, 2):
        pairs = list(zip(whole.epoch(seed, rng()), streamed.epoch(seed, rng()), strict=True))
        assert all(equal(left, right) for left, right in pairs) and len(pairs) == 4
    assert all(torch.equal(*pair) for pair in zip(whole.clean(3), streamed.clean(3), strict=True))
    chosen = torch.tensor([3, 50, 7])
    assert torch.equal(streamed.images[chosen], images[chosen])


def test_random_crops_are_a_function_of_epoch_and_image(folder):
    files = listed(folder)
    first, again, other = (list(loader(files, STILL).epoch(seed, rng())) for seed in (1, 1, 2))
    assert all(equal(left, right) for left, right in zip(first, again, strict=True))
    by_image = [
        torch.cat([b.images for b in epoch])[torch.cat([b.indices for b in epoch]).argsort()]
        for epoch in (first, other)
    ]
    assert ((by_image[0] - by_image[1]).abs().amax((1, 2, 3)) > 0).float().mean() > 0.9
    # The batch it is decoded in does not matter.
    alone = decoding.decode_shard(files, decoding.FileGroup([int(first[0].indices[5])], 1))
    assert torch.equal(alone[0].float() / 255, first[0].images[5])
    # Nor is anything random where it is not asked for.
    middle = decoding.decode_shard(files, decoding.FileGroup([0, 1], None))
    assert torch.equal(middle, decoding.decode_shard(listed(folder, random_crop=None), decoding.FileGroup([0, 1], 9)))


def test_random_crops_keep_their_share_of_the_area(folder):
    fields = listed(folder, random_crop=0.3).decoding
    draws = [picture._window(300, 400, fields, random.Random(seed)) for seed in range(2000)]
    areas = torch.tensor([height * width / 120_000 for _, _, height, width in draws])
    aspects = torch.tensor([width / height for _, _, height, width in draws])
    assert 0.29 < areas.min() < 0.32 and areas.max() <= 1
    assert 0.745 < aspects.min() < 0.78 and 1.28 < aspects.max() < 1.34
    assert all(top >= 0 and left >= 0 and top + h <= 300 and left + w <= 400 for top, left, h, w in draws)
    # Nothing of that area fits into a strip: the middle square is what is left.
    assert picture._window(10, 1000, fields, random.Random(0)) == (0, 495, 10, 10)


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(folder, monkeypatch):
    files, batches, clean = listed(folder), {}, {}
    for workers in (0, 1, 2):
        monkeypatch.setenv("TEMPER_WORKERS", str(workers))
        torch.manual_seed(5)
        made = loader(files)
        abandoned = made.epoch(3, rng())
        next(abandoned)
        abandoned.close()
        batches[workers] = [*made.epoch(1, rng()), *made.epoch(2, rng())]
        assert torch.equal(torch.get_rng_state(), torch.manual_seed(5).get_state())
        clean[workers] = torch.cat(list(made.clean(2)))
        assert torch.equal(clean[workers], clean[0])
    assert len(batches[0]) == 8
    for workers in (1, 2):
        assert all(equal(left, right) for left, right in zip(batches[0], batches[workers], strict=True))


@pytest.mark.parametrize("augmentation", [STRONG, replace(STRONG, cutmix=0.0)], ids=["mixed", "unmixed"])
def test_processes_share_a_batch_and_decode_no_more_than_they_need(folder, monkeypatch, augmentation):
    files = listed(folder)
    whole = list(loader(files, augmentation).epoch(1, rng()))
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    decoded, decode_shard = [], decoding.decode_shard
    monkeypatch.setattr(decoding, "decode_shard", lambda *args: decoded.extend(args[1].places) or decode_shard(*args))
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        for batch, part in zip(whole, loader(files, augmentation).epoch(1, rng()), strict=True):
            assert equal(part, batch.part(rank, 2)) and part.total == len(batch.images)
    assert len(decoded) == (120 if augmentation.cutmix else 60)
    assert sum(len(images) for images in loader(files, augmentation).clean(4)) == 28  # of four times 15


def new_run(files: LabelledFiles, linf, folder: Path):
    """A training run of which the batches come from files."""
    torch.manual_seed(1)
    plan_recipe = recipe(epochs=3, augmentation=STRONG, batch_size=16)
    batches = StreamedLoader(files, 16, STRONG, 3, CPU)
    probe = KernelProbe(ProbeSchedule(epochs=(0, 2), size=6, directions=4), batches.images, batches.labels, 3, seed=0)
    held_out = decoding.in_memory(files.take(torch.arange(0, 60, 5)), "")
    validation = Validation(held_out.images, held_out.labels, ATTACK, linf, 4, probe, seed=0)
    state = start(TinyNet(), Standard(label_smoothing=0.1).build(), validation, plan_recipe, seed=0)
    return state, fit(state, batches, Plan(plan_recipe, OneCycle(start=0.1, peak=0.3), linf, seed=0), folder)


class Killed(Exception):
    """What stops a run in the middle of an epoch."""


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_stopped_and_continued_equals_uninterrupted(folder, linf, tmp_path, monkeypatch, workers):
    files = listed(folder)
    whole, steps = new_run(files, linf, tmp_path / "whole")
    assert len(list(steps)) == 4
    monkeypatch.setenv("TEMPER_WORKERS", workers)
    _, steps = new_run(files, linf, tmp_path / "cut")
    assert [record["epoch"] for record in (next(steps), next(steps))] == [0, 1]
    with monkeypatch.context() as patch:  # killed at the third step of the second epoch
        calls = iter(range(100))

        def loss(*arguments):
            if next(calls) == 2:
                raise Killed
            return standard(*arguments)

        standard = StandardMethod.loss
        patch.setattr(StandardMethod, "loss", loss)
        with pytest.raises(Killed):
            next(steps)
    torch.manual_seed(999)
    again, steps = new_run(files, linf, tmp_path / "cut")
    assert len(list(steps)) == 2
    left, right = whole._tensors(), again._tensors()
    assert again.history == whole.history and left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


def dataset(folder: Path, image_size: int) -> dict:
    fields = {"image_size": image_size, "color": "rgb", "resize": "crop", "streamed": {"random_crop": 0.3}}
    return {"name": "image_folder", "folder": str(folder), **fields}


def pipeline(folder: Path, image_size: int, **changes) -> None:
    """fetch_data, normalize_data and one epoch of train_clean_teacher, in the present folder."""
    values = small_params(**{"fetch_data.dataset": dataset(folder, image_size), **changes})
    values["normalize_data"]["train_limit"] = None
    values["train_clean_teacher"]["recipe"] |= {"epochs": 1}
    for stage in (fetch_data, normalize_data, train_clean_teacher):
        stage.main(Params(values), create_autospec(Journal, instance=True))


def test_the_stages_take_a_streamed_set(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "photos", train=200, val=30)
    # One picture of train is in val too, and so must go.
    (folder / "train/ant/00000.JPEG").write_bytes((folder / "val/bee/00001.JPEG").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(normalize_data, "STATISTICS_IMAGES", 90)
    pipeline(folder, 16)
    name, source = read_source("data/raw.safetensors")
    assert name == "photos" and source.classes == CLASSES and source.test is not None
    assert (len(source.train), len(source.test)) == (200, 30)
    assert source.train.path(0) == folder / "train/ant/00000.JPEG"
    assert Path("data/raw.safetensors").stat().st_size < 40_000
    splits = read_splits("data/normalized.safetensors")
    assert isinstance(splits.train, LabelledFiles) and splits.image_shape == (3, 16, 16)
    assert isinstance(splits.validation, LabelledImages) and splits.validation.images.shape[1:] == (3, 16, 16)
    assert splits.test.images.shape == (30, 3, 16, 16) and splits.test.counts(3) == [10, 10, 10]
    assert len(splits.train) + len(splits.validation) == 199
    paths = [splits.train.path(index) for index in range(len(splits.train))]
    assert len(set(paths)) == len(paths) and folder / "train/ant/00000.JPEG" not in paths
    assert [path.parent.name for path in paths] == [CLASSES[label] for label in splits.train.labels]
    record = read_json("metrics/data.json")
    assert record["train"]["n"] == len(splits.train) and record["normalization"]["method"] == "standardize"
    images = torch.cat(list(decoding.chunks(splits.train))).double() / 255
    assert splits.normalization.offset == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=0.05)
    rows = read_csv("curves/clean_teacher.csv")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    paths = ("data/raw.safetensors", "data/normalized.safetensors", "models/clean_teacher.safetensors")
    sums = [sha256(path) for path in paths]
    pipeline(folder, 16)
    assert [sha256(path) for path in paths] == sums


FLAT = """
import sys, torch
from pathlib import Path
from components.data.loader import Augmentation
from components.data.streaming import StreamedLoader
from tests.parts.streamed_files import listed

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

torch.set_num_threads(1)
files = listed(Path(sys.argv[1]), image_size=64, color="rgb")
files = files.take(torch.arange(int(sys.argv[2])))
augmentation = Augmentation(crop=0, flip=True, cutmix=0.0, rand_augment=None)
loader = StreamedLoader(files, 128, augmentation, 3, torch.device("cpu"))
seen = sum(len(batch.images) for batch in loader.epoch(1, torch.Generator()))
print(seen, peak())
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_files_go_through_the_stages_in_flat_memory(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "photos", train=20_000, val=300)
    peaks = {}
    for count in (2_000, 20_000):
        command = [sys.executable, "-c", FLAT, str(folder), str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        seen, peak = done.stdout.split()
        assert int(seen) == count
        peaks[count] = float(peak)
    # Decoded, 18,000 more images of 64x64 would be 210 MiB.
    assert peaks[20_000] - peaks[2_000] < 30, peaks
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEMPER_WORKERS", "2")
    monkeypatch.setattr(normalize_data, "STATISTICS_IMAGES", 2_500)
    pipeline(folder, 8, **{"normalize_data.validation": "1/100"})
    splits = read_splits("data/normalized.safetensors")
    assert len(splits.train) + len(splits.validation) == 20_000 and len(splits.validation) == 201
    assert [row["epoch"] for row in read_csv("curves/clean_teacher.csv")] == ["0", "1"]


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_missing_changed_and_broken_files_are_named(tmp_path, monkeypatch, workers):
    folder = write_folder(tmp_path, train=12)
    broken = folder / "train/bee/00001.JPEG"
    whole = broken.read_bytes()
    files = listed(folder)
    broken.write_bytes(whole[:300])
    with pytest.raises(InputError, match=f"{re.escape(str(broken))}: not readable as an image: ") as error:
        listed(folder)
    assert one_line(error)
    # Listed nevertheless, as if a decoder of another version took it.
    unread, place = replace(files, hashes=files.hashes.clone()), CLASSES.index("bee") * 4
    assert files.path(place) == broken
    unread.hashes[place] = torch.frombuffer(bytearray(hashlib.sha256(whole[:300]).digest()), dtype=torch.uint8)
    monkeypatch.setenv("TEMPER_WORKERS", workers)
    with pytest.raises(InputError, match=f"{re.escape(str(broken))}: not readable as an image: ") as error:
        list(loader(unread).epoch(1, rng()))
    assert one_line(error)
    with pytest.raises(
        InputError, match=f"{re.escape(str(broken))}: changed since it was listed, run fetch_data again"
    ):
        list(loader(files).epoch(1, rng()))
    broken.unlink()
    with pytest.raises(InputError, match=f"{re.escape(str(broken))}: No such file") as error:
        list(loader(files).epoch(1, rng()))
    assert one_line(error)


def test_what_cannot_be_streamed_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_WORKERS", "some")
    with pytest.raises(InputError, match="TEMPER_WORKERS: got 'some', want a number of processes, 0 or more"):
        loader(listed(folder))
    huge = replace(listed(folder), decoding=replace(listed(folder).decoding, image_size=100_000))
    with pytest.raises(
        InputError, match=r"60 decoded images of \(1, 100000, 100000\) take 572,205 MiB, want at most half of the"
    ):
        decoding.in_memory(huge, "")
    write_folder(tmp_path, train=6, val=3)
    with pytest.raises(InputError, match="random_crop"):
        spec = dataset(tmp_path, 8) | {"streamed": {"random_crop": 2}}
        fetch_data.read(Params({"fetch_data": {"dataset": spec}}))


def test_the_benchmark_measures_both_decoders_and_the_workers(tmp_path, capsys):
    out = tmp_path / "speed.json"
    streaming_speed.main(["--images", "6", "--rounds", "2", "--workers", "0", "--out", str(out)])
    found = read_json(out)
    assert (
        set(found["images_per_cpu_second"]) == {"decode_shard", "torchvision"} and found["files"]["mean_kilobytes"] > 50
    )
    rates = [*found["images_per_cpu_second"].values(), *found["images_per_second_by_workers"].values()]
    assert all(len(one) == 2 and min(one) > 0 for one in rates)
    assert "torchvision" in capsys.readouterr().out
