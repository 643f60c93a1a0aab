"""Models and images from outside: what is read is what was saved, and nothing in a file is run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from components.data.splits import LabelledImages, Splits, write_splits
from components.evaluation.outside.models import (
    Foreign,
    OutsideImages,
    read_images,
)
from components.foundation.errors import InputError
from components.foundation.storage import sha256
from components.numerics.tensor_files import write_tensors
from components.tracking.download import fetch_model
from tests.parts.outside_files import (
    ARCHITECTURE,
    CLASSES,
    NORMALIZATION,
    bomb,
    digits,
    loaded,
    network,
    pixels,
    same,
    save,
)

CPU = torch.device("cpu")
NOTHING = Foreign(None, None)
OURS = Foreign(ARCHITECTURE, ((0.3,), (0.4,)))


def some(count: int = 20, classes: tuple[str, ...] = CLASSES) -> OutsideImages:
    images, labels = digits()
    return OutsideImages("digits", classes, LabelledImages(images[:count], labels[:count]), None)


# --- references ---


def test_our_own_file_says_everything_itself(tmp_path):
    path = save(tmp_path / "one.safetensors")
    found = loaded("mine", str(path), some(), NOTHING, CPU)
    assert same(found.model, network(), pixels()) and found.classes == CLASSES and not found.model.training
    assert found.facts == {
        "file": str(path),
        "sha256": sha256(path),
        "checkpoint": "best",
        "of": "mine",
        "num_parameters": sum(p.numel() for p in network().parameters()),
        "architecture": ARCHITECTURE,
        "epoch": 3,
        "upstream": {},
    }


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.module.model.{name}": tensor for name, tensor in state.items()},
        lambda state: {name: tensor for name, tensor in state.items() if "num_batches" not in name},
        lambda state: {name: tensor for name, tensor in state.items() if not name.startswith("normalize.")},
    ],
    ids=["plain", "data parallel", "compiled", "no counters", "no normalisation"],
)
def test_a_state_dict_with_an_architecture(tmp_path, wrapped):
    save_file(wrapped({n: t.contiguous() for n, t in network().state_dict().items()}), tmp_path / "s.safetensors")
    found = loaded("mine", str(tmp_path / "s.safetensors"), some(), OURS, CPU)
    assert same(found.model, network(), pixels()) and found.facts["architecture"] == ARCHITECTURE


def test_half_precision_weights_decide_in_float32(tmp_path):
    state = {n: t.half() if t.is_floating_point() else t for n, t in network().state_dict().items()}
    save_file(state, tmp_path / "s.safetensors")
    found = loaded("mine", str(tmp_path / "s.safetensors"), some(), OURS, CPU)
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    with torch.no_grad():
        assert torch.allclose(found.model(pixels()), network()(pixels()), atol=0.1)


def test_normalisation_is_the_first_layer(tmp_path):
    save_file({n: t for n, t in network().state_dict().items() if "normalize" not in n}, tmp_path / "s.safetensors")
    path = str(tmp_path / "s.safetensors")
    plain = loaded("a", path, some(), Foreign(ARCHITECTURE, ((), ())), CPU).model
    normalised = loaded("a", path, some(), OURS, CPU).model
    with torch.no_grad():
        assert torch.allclose(plain((pixels() - 0.3) / 0.4), normalised(pixels()), atol=1e-4)


@pytest.mark.parametrize(
    ("foreign", "change", "message"),
    [
        (NOTHING, {}, "a state dict without a model card, say --architecture '{name: …, …}'"),
        (
            Foreign(ARCHITECTURE, None),
            {},
            "a state dict without normalisation, say --normalization identity or MEAN:STD",
        ),
        (OURS, {"head.2.bias": torch.zeros(3)}, "head.2.bias is float32[3], want float32[10]"),
        (OURS, {"extra": torch.zeros(3)}, "weights do not fit the model card: unexpected extra"),
        (OURS, {"head.2.bias": None}, "weights do not fit the model card: missing head.2.bias"),
        (Foreign({"name": "nope"}, ((), ())), {}, "architecture.name: unknown 'nope' (allowed: mobilenet_v2, "),
        (Foreign(ARCHITECTURE, ((0.1,) * 3, (0.2,) * 3)), {}, "normalises 3 channels, the images have 1"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_in_one_line(tmp_path, foreign, change, message):
    state: dict[str, Any] = {n: t for n, t in network().state_dict().items() if "normalize" not in n} | change
    save_file({n: t for n, t in state.items() if t is not None}, tmp_path / "s.safetensors")
    with pytest.raises(InputError) as refused:
        loaded("mine", str(tmp_path / "s.safetensors"), some(), foreign, CPU)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl", ".bin"])
def test_pickles_are_refused_by_name_and_never_opened(tmp_path, suffix):
    (tmp_path / f"m{suffix}").write_bytes(bomb(tmp_path))
    with pytest.raises(InputError, match="is a pickle, and pickles are not read"):
        loaded("mine", str(tmp_path / f"m{suffix}"), some(), OURS, CPU)
    assert not (tmp_path / "exploded").exists()


def test_a_model_of_other_images_or_classes(tmp_path):
    path = str(save(tmp_path / "one.safetensors"))
    images, labels = digits()
    wide = OutsideImages("d", CLASSES, LabelledImages(images[:9].repeat(1, 1, 2, 1), labels[:9]), None)
    with pytest.raises(InputError, match=r"takes images of \[1, 8, 8\], the data has \[1, 16, 8\]"):
        loaded("mine", path, wide, NOTHING, CPU)
    with pytest.raises(InputError, match="made for classes 0, 1, 2, 3, 4, …, the data has a, b, c, d, e, …"):
        loaded("mine", path, some(classes=tuple("abcdefghij")), NOTHING, CPU)
    # Labels alone say how many classes there are at least.
    nine = OutsideImages("d", (), LabelledImages(images[:9], labels[:9].clamp_max(5)), None)
    assert loaded("mine", path, nine, NOTHING, CPU).classes == CLASSES
    with pytest.raises(InputError, match=r"gives \[1, 10\] for one image, want \[1, at least 29\] logits"):
        loaded("mine", path, nine._replace(test=LabelledImages(images[:9], labels[:9] + 20)), NOTHING, CPU)


# --- models that MLflow keeps ---


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["MLmodel", "data/model.pt2"], "model.pt2"),
        (["MLmodel", "code/components/x.py", "data/student.safetensors"], "student.safetensors"),
        (
            ["MLmodel", "data/model.pth"],
            InputError("neither safetensors nor a torch.export program"),
        ),
        (
            ["a.safetensors", "b.safetensors"],
            InputError("several files that may be the model (a.safetensors, b"),
        ),
    ],
    ids=str,
)
def test_the_one_readable_file_of_a_model_is_fetched(tmp_path, files, found):
    def download(uri: str, folder: Path) -> Path:
        assert uri == "models:/m/1"
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        return folder

    if isinstance(found, InputError):
        with pytest.raises(InputError) as refused:
            fetch_model("models:/m/1", tmp_path / "to", download)
        assert str(found) in str(refused.value) and not (tmp_path / "to").exists()
    else:
        assert fetch_model("models:/m/1", tmp_path / "to", download) == found
        assert (tmp_path / "to" / found).exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_registered_model_of_someone_else(tmp_path, monkeypatch, request):
    mlflow = pytest.importorskip("mlflow")
    from mlflow.pytorch import log_model

    from tests.parts.pipeline_files import ROOT

    place = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    mlflow.set_tracking_uri(place)
    # It is the whole process's, and other tests have stores of their own.
    request.addfinalizer(lambda: mlflow.set_tracking_uri(None))
    form: dict[str, Any] = {"input_example": pixels(3).numpy()}
    with mlflow.start_run() as run:
        log_model(network(), name="m", registered_model_name="theirs", **form, serialization_format="pt2")
        log_model(network(), name="p", registered_model_name="old", **form, serialization_format="pickle")
        mlflow.log_artifact(str(save(tmp_path / "one.safetensors")), "kept")
    mlflow.MlflowClient(place).set_registered_model_alias("theirs", "champion", "1")
    for uri in ("models:/theirs/1", "models:/theirs@champion", f"runs:/{run.info.run_id}/kept/one.safetensors"):
        found = loaded("a", uri, some(), NOTHING, CPU)
        assert same(found.model, network(), pixels()) and found.facts["file"] == uri
    with pytest.raises(InputError, match="pickles are not read"):
        loaded("a", "models:/old/1", some(), NOTHING, CPU)
    with pytest.raises(InputError, match="version=7"):
        loaded("a", "models:/theirs/7", some(), NOTHING, CPU)


# --- images ---


def test_the_test_split_of_our_data_and_its_validation_split(tmp_path):
    images, labels = digits()
    parts = {
        name: LabelledImages(images[start : start + 30], labels[start : start + 30])
        for name, start in (("train", 0), ("validation", 30), ("test", 60))
    }
    write_splits(tmp_path / "n.safetensors", Splits("digits", CLASSES, normalization=NORMALIZATION, **parts))
    found = read_images(tmp_path / "n.safetensors")
    assert (found.name, found.classes, found.shape) == ("digits", CLASSES, (1, 8, 8))
    assert torch.equal(found.test.images, images[60:90]) and found.held_out is not None
    assert torch.equal(found.held_out.images, images[30:60])


@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.float() / 255, lambda x: (x.float() / 255).half()])
def test_images_and_labels_of_any_file(tmp_path, form):
    images, labels = digits()
    save_file({"images": form(images[:30]), "labels": labels[:30].int()}, tmp_path / "mine.safetensors")
    found = read_images(tmp_path / "mine.safetensors")
    assert (found.name, found.classes, found.num_classes) == ("mine", (), 10) and found.held_out is None
    assert found.test.labels.dtype == torch.int64 and torch.equal(found.test.labels, labels[:30])
    assert found.test.images.dtype == (torch.uint8 if form(images).dtype == torch.uint8 else torch.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"images": pixels() * 2 - 1}, "images: pixels in [-1.000, 1.000], want [0, 1] (normalisation is the model's"),
        ({"images": pixels() * 255}, "images: pixels in [0.000, 255.000], want [0, 1]"),
        ({"images": pixels() * torch.nan}, "pixels in [nan, nan], want [0, 1]"),
        ({"images": pixels().long()}, "images are torch.int64 [20, 1, 8, 8], want torch.uint8 [N, C, H, W]"),
        ({"images": pixels()[:, 0]}, "want torch.uint8 [N, C, H, W]"),
        ({"labels": torch.zeros(19).long()}, "labels are torch.int64 [19], want torch.int64 [20], one per image"),
        ({"labels": torch.zeros(20)}, "labels are torch.float32 [20], want torch.int64 [20]"),
        ({"labels": torch.full((20,), -1)}, "label -1 of image 0 is not in 0..9"),
        ({"held_out.images": pixels()}, "no tensor 'held_out.labels', want images and labels"),
        ({"images": pixels(0), "labels": torch.zeros(0).long()}, "no images at all"),
        ({"images": None}, "no tensor 'images', want images and labels (found: labels)"),
    ],
)
def test_images_of_another_form(tmp_path, tensors, message):
    given = {"images": pixels(), "labels": digits()[1][:20]} | tensors
    path = tmp_path / "mine.safetensors"
    write_tensors(path, {name: t for name, t in given.items() if t is not None}, {"classes": CLASSES})
    with pytest.raises(InputError) as refused:
        read_images(path)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)


def test_some_images_and_others_to_check_on():
    images, labels = digits()
    alone = OutsideImages("d", CLASSES, LabelledImages(images[:200], labels[:200]), None)
    few, many = alone.limited(50, 0, seed=0), alone.limited(50, 512, seed=0)
    # Which images are attacked does not depend on how they are searched, as long as there are enough.
    assert len(few.test) == 50 and few.held_out is None and torch.equal(few.test.images, many.test.images)
    assert many.held_out is not None and len(many.held_out) == 150
    assert sorted(few.test.labels.unique().tolist()) == list(range(10))
    whole = alone.limited(None, 512, seed=0)
    assert len(whole.test) == 180 and whole.held_out is not None and len(whole.held_out) == 20
    keys = [{image.numpy().tobytes() for image in part.images} for part in (whole.test, whole.held_out)]
    assert not keys[0] & keys[1]
    assert len(alone.limited(None, 0, seed=0).test) == len(alone.limited(999, 0, seed=0).test) == 200
    assert not torch.equal(alone.limited(50, 0, seed=1).test.images, few.test.images)
    given = alone._replace(held_out=LabelledImages(images[200:300], labels[200:300]))
    assert len(given.limited(None, 60, seed=0).test) == 200
    checked = given.limited(None, 60, seed=0).held_out
    assert checked is not None and len(checked) == 60 and given.limited(None, 0, seed=0).held_out is None


@pytest.mark.parametrize("asked", [{"name": "resnet18"}, {"name": "small_cnn", "width": 1e9}, {}, {"name": ["x"]}])
def test_another_architecture_than_a_file_says_of_itself_is_refused(tmp_path, asked):
    path = save(tmp_path / "one.safetensors")
    with pytest.raises(InputError, match=r"a small_cnn by its own words, asked for is .*leave --architecture out"):
        loaded("mine", str(path), some(), Foreign(asked, None), CPU)
    assert loaded("mine", str(path), some(), Foreign({"name": ARCHITECTURE["name"]}, None), CPU).facts["epoch"] == 3
