"""A user's mistake ends in one line that says where and what is allowed, exit status 2, and no half-written file."""

import errno
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.foundation.process import USER_ERROR
from components.models.parts.batch_norm import BatchNorm
from components.models.parts.model_file import load_model, save_model
from components.models.small_cnn import SmallCnn
from components.numerics.tensor_files import read_tensors, write_tensors
from components.stages import STAGES
from tests.parts.pipeline_files import (
    finish,
    hashes,
    make_project,
    outputs,
    partial_files,
    run_here,
    start,
    start_stage,
)

MODELS = "mobilenet_v2, preact_resnet18, resnet18, resnet56, small_cnn, timm, torchvision, wide_resnet"
CLEAN, STUDENT, EVALUATE = "train_clean_teacher", "distill_student", "evaluate_attacks"
RECIPE = f"{CLEAN}.recipe"


Refused = Callable[..., str]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a stage that must refuse its input, looks after what it leaves behind, and returns its one line."""

    def run_and_look(folder: Path, stage: str) -> str:
        before = hashes(folder)
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            run_here(folder, stage)
        error = capfd.readouterr().err
        assert caught.value.code == USER_ERROR and error.count("\n") == 1, error
        assert error.startswith(f"{stage}: error: ")
        assert hashes(folder) == before and not partial_files(folder)
        return error.removeprefix(f"{stage}: error: ").rstrip("\n")

    return run_and_look


READS = [
    ("data/raw.safetensors", "normalize_data"),
    ("data/normalized.safetensors", CLEAN),
    ("data/normalized.safetensors", EVALUATE),
    ("models/clean_teacher.safetensors", STUDENT),
    ("models/robust_teacher.safetensors", STUDENT),
    ("models/student.last.safetensors", EVALUATE),
    ("metrics/student.json", EVALUATE),
    ("metrics/student.teachers.json", EVALUATE),
    ("curves/student.csv", "report"),
    ("metrics/data.json", "report"),
    ("evaluation/evaluation.json", "report"),
    ("evaluation/outcomes.safetensors", "report"),
    ("evaluation/gallery.safetensors", "report"),
]


@pytest.mark.parametrize(("path", "stage"), READS)
def test_missing_files(path, stage, copied, refused):
    (copied / path).unlink()
    assert refused(copied, stage) == f"{path}: no such file"


@pytest.mark.parametrize(("path", "stage"), [pair for pair in READS if not pair[0].endswith(".csv")])
@pytest.mark.parametrize("left", [0, 0.01, 0.5])
def test_truncated_files(path, stage, left, copied, refused):
    content = (copied / path).read_bytes()
    (copied / path).write_bytes(content[: int(len(content) * left)])
    assert refused(copied, stage).startswith(f"{path}: ")


@pytest.mark.parametrize("left", [0, -100])
def test_truncated_curves(left, copied, refused):
    path = copied / "curves/student.csv"
    path.write_text(path.read_text()[:left])
    assert refused(copied, "report") == "curves/student.csv: truncated, or no CSV table"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_shape": (1, 16, 16)}, "(1, 16, 16)"),
        ({"image_shape": (3, 8, 8)}, "(3, 8, 8)"),
        ({"classes": tuple("abcde")}, "classes"),
    ],
)
@pytest.mark.parametrize(("path", "stage"), [READS[3], READS[5]])
def test_models_made_for_something_else(change, message, path, stage, copied, refused):
    _, card = load_model(copied / path)
    fields = {name: getattr(card, name) for name in card.__dataclass_fields__} | change
    channels = fields["image_shape"][0]
    normalization = type(card.normalization)(method="none", offset=(0.0,) * channels, scale=(1.0,) * channels)
    card = type(card)(**fields | {"normalization": normalization})
    architecture = SmallCnn(width=0.25, batch_norm=BatchNorm(estimator="running", momentum=0.1))
    model = architecture.build(len(card.classes), card.image_shape, card.normalization)
    save_model(copied / path, model.state_dict(), card)
    error = refused(copied, stage)
    assert error.startswith(f"{path}: ") and message in error


def test_model_of_an_unknown_architecture_or_without_a_card(copied, refused):
    path = "models/clean_teacher.safetensors"
    tensors, card = read_tensors(copied / path)
    write_tensors(copied / path, tensors, card | {"architecture": {"name": "vgg"}})
    assert f"{path}: architecture.name: unknown 'vgg' (allowed: {MODELS})" in refused(copied, STUDENT)
    write_tensors(copied / path, tensors)
    assert refused(copied, STUDENT).startswith(f"{path}: no model card in the file")
    write_tensors(copied / path, {name: tensors[name] for name in list(tensors)[1:]}, card)
    assert refused(copied, STUDENT).startswith(f"{path}: weights do not fit the model card: missing ")


DATA = "data/normalized.safetensors"


def rewrite_data(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], path: str = DATA) -> None:
    tensors, metadata = read_tensors(folder / path)
    change(tensors)
    write_tensors(folder / path, tensors, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["train.labels"].__setitem__(5, 10), "train: label 10 of image 5 is not in 0..9"),
        (lambda data: data["test.labels"].__setitem__(0, -1), "test: label -1 of image 0 is not in 0..9"),
        (lambda data: data.update({"train.images": data["train.images"].float()}), "train: images are torch.float32"),
        (lambda data: data.update({"train.labels": data["train.labels"][:-1]}), "train: labels are torch.int64 [179]"),
        (lambda data: data.pop("validation.images"), "no tensor 'validation.images'"),
        (
            lambda data: data.update({"test.images": data["test.images"][:, :, :4]}),
            "train images are [1, 8, 8], test images [1, 4, 8], want one shape",
        ),
        (
            lambda data: data.update(
                {f"validation.{key}": data[f"validation.{key}"][:0] for key in ("images", "labels")}
            ),
            "validation: no images at all",
        ),
    ],
)
def test_broken_data(change, message, copied, refused):
    rewrite_data(copied, change)
    error = refused(copied, CLEAN)
    assert error.startswith(DATA) and message in error


def test_a_class_without_training_images_is_refused(copied, refused):
    def drop(data: dict[str, torch.Tensor]) -> None:
        kept = data["train.labels"] != 4
        data.update({key: data[key][kept] for key in ("train.images", "train.labels")})

    rewrite_data(copied, drop, "data/raw.safetensors")
    assert "class '4' has no images" in refused(copied, "normalize_data")


def test_more_probe_images_than_training_images(copied, refused):
    make_project(copied, **{"ntk.size": 1000})
    assert refused(copied, CLEAN).startswith("ntk.size: got 1000, but there are only 180 images")
    make_project(copied, **{"ntk.size": 1000, "ntk.epochs": []})
    run_here(copied, CLEAN)


def test_more_limit_than_images_and_larger_batches_than_sets_work(copied):
    make_project(copied, **{f"{RECIPE}.batch_size": 5000, f"{EVALUATE}.batch_size": 5000})
    run_here(copied, CLEAN, EVALUATE)


def test_a_limit_below_the_number_of_classes(copied, refused):
    make_project(copied, **{"normalize_data.train_limit": 12})
    assert "train" in refused(copied, "normalize_data")
    make_project(copied, **{"normalize_data.test_limit": 5})
    assert "test" in refused(copied, "normalize_data")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(copied, refused):
    make_project(copied, **{"compute.device": "cuda"})
    error = refused(copied, CLEAN)
    assert error == "params.yaml: compute.device: got 'cuda', but no GPU is visible here (allowed: auto, cpu)"


def test_a_diverging_run_says_what_led_to_it(copied, refused):
    changes = {f"{RECIPE}.learning_rate": 4e9, f"{RECIPE}.average": None, f"{RECIPE}.epochs": 4, "ntk.epochs": [0]}
    make_project(copied, **changes)
    error = refused(copied, CLEAN)
    assert "training: loss became" in error and "Lower learning_rate" in error


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("finished", [False, True])
def test_disk_full_or_read_only(finished, stage, copied, refused, monkeypatch):
    """Every write of a declared output fails as it does on such a disk, after the file was begun.

    Also where a stage that is finished already is only published again, and where it goes on from its last state.
    """
    if not finished:
        shutil.rmtree(copied / ".temper")

    def fail(self: Path, *args: Any, **kwargs: Any) -> None:
        if ".temper" in self.parts:
            return original[type(args[0])](self, *args, **kwargs)
        self.touch()
        raise OSError(codes[-1], "the disk's own words", str(self))

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        declared = "w" in mode and ".temper" not in self.parts
        return fail(self, b"") if declared else to_open(self, mode, *args, **kwargs)

    codes: list[int] = []
    to_open = Path.open
    original: dict[type, Any] = {str: Path.write_text, bytes: Path.write_bytes}
    monkeypatch.setattr(Path, "write_text", fail)
    monkeypatch.setattr(Path, "write_bytes", fail)
    monkeypatch.setattr(Path, "open", opened)
    for code in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        codes.append(code)
        assert refused(copied, stage).endswith(": the disk's own words")


@pytest.mark.parametrize("content", ["", "seed: [1\n", "- 1\n", "1: 2\n"])
def test_unreadable_params(content, copied, refused):
    (copied / "params.yaml").write_text(content)
    assert refused(copied, "fetch_data").startswith("params.yaml: ")


@pytest.mark.slow
def test_processes_end_alike(copied):
    """What `run` does in a real process, and the check before a run."""
    make_project(copied, **{f"{RECIPE}.epocs": 3})
    before = hashes(copied)
    for process in (
        start_stage(CLEAN, copied),
        start([sys.executable, "-m", "temper", "params", "check"], copied),
    ):
        status, out, err = finish(process)
        assert (status, out) == (USER_ERROR, "")
        assert err.count("\n") == 1 and f"error: params.yaml: {RECIPE}.epocs: unknown key (allowed: " in err
    assert hashes(copied) == before and all((copied / path).exists() for path in outputs())
