"""Teachers from outside: fetched, checked, measured, in the same bytes again; and what no student could learn from."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from components.data.splits import read_splits
from components.deployment.pixel_range import Refusing
from components.evaluation.outside.teacher_file import load_taught
from components.foundation.storage import read_json, sha256
from components.models.parts.model_file import ModelCard, load_model, save_model
from components.numerics.compute import Compute
from components.numerics.tensor_files import read_tensors, write_tensors
from tests.evaluation.test_programs import export
from tests.parts.outside_files import ARCHITECTURE, CLASSES, network, pixels
from tests.parts.pipeline_files import changed, hashes, make_project, run_here

STAGE, PLAIN = "fetch_teachers", {"mean": [0.3], "std": [0.4]}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its images; the teachers of these tests learned other digits of the same kind."""
    folder = make_project(tmp_path_factory.mktemp("fetched") / "project")
    run_here(folder, "fetch_data", "normalize_data")
    return folder


@pytest.fixture
def place(data: Path, tmp_path: Path) -> Path:
    shutil.copytree(data, tmp_path / "place")
    return tmp_path / "place"


def state(**changes: Tensor) -> dict[str, Tensor]:
    """The weights of a network without its normalisation, as published code has them."""
    own = {name: tensor for name, tensor in network().state_dict().items() if not name.startswith("normalize.")}
    return own | changes


def bring(folder: Path, **changes: Tensor) -> dict[str, Any]:
    """A state dict in the folder, and what params.yaml says of it."""
    write_tensors(folder / "big.safetensors", state(**changes))
    return {"name": "file", "file": "big.safetensors", "architecture": ARCHITECTURE, "normalization": PLAIN}


def tell(folder: Path, teachers: dict[str, Any], **changes: Any) -> None:
    path = folder / "params.yaml"
    values = changed(yaml.safe_load(path.read_text()), {STAGE: teachers} | changes)
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def refused(folder: Path, capsys: pytest.CaptureFixture[str], stage: str = STAGE) -> str:
    """The line with which a stage ends."""
    with pytest.raises(SystemExit, match="2"):
        run_here(folder, stage)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"{stage}: error: ")
    return error.removeprefix(f"{stage}: error: ").strip()


def program(folder: Path, model: nn.Module | None = None) -> dict[str, Any]:
    """A program in the folder, and what params.yaml says of it."""
    path = export(folder / "big.pt2", model or network())
    return {"name": "file", "file": path.name, "sha256": sha256(path)}


def test_without_teachers_it_computes_nothing_and_needs_no_data(tmp_path, monkeypatch):
    folder = make_project(tmp_path / "empty")
    monkeypatch.setattr(Compute, "prepare", None)  # which measures how fast this machine is, for seconds
    run_here(folder, STAGE)
    assert read_json(folder / "metrics/teachers.json") == {} == read_json(folder / "models/teachers/index.json")
    assert [path.name for path in (folder / "models/teachers").iterdir()] == ["index.json"]


def test_a_state_dict_becomes_a_model_of_the_data(place, capsys):
    tell(place, {"big": bring(place)})
    run_here(place, STAGE)
    out, path = capsys.readouterr().out, place / "models/teachers/big.safetensors"
    splits = read_splits(place / "data/normalized.safetensors")
    model, card = load_model(path)
    digest = sha256(place / "big.safetensors")
    assert (card.classes, card.image_shape, card.upstream) == (splits.classes, splits.image_shape, {"big": digest})
    assert card.normalization.offset == pytest.approx((0.3,)) and card.normalization.scale == pytest.approx((0.4,))
    assert torch.equal(model(pixels()), network()(pixels()))
    entry = read_json(place / "models/teachers/index.json")["big"]
    assert (entry["source"], entry["sha256"]) == ("big.safetensors", digest)
    # Who changes the code of its network fetches it anew, and only then has the student another teacher.
    assert "components/models/small_cnn.py" in entry["code"] and "components/models/resnet18.py" not in entry["code"]
    assert f"warning: DVC does not watch big.safetensors: say its sha256, as above, in {STAGE}.big.sha256" in out
    assert digest in out


def test_its_accuracies_are_those_on_validation_images(place):
    tell(place, {"big": bring(place)})
    run_here(place, STAGE)
    found = read_json(place / "metrics/teachers.json")["big"]
    held_out = read_splits(place / "data/normalized.safetensors").validation
    right = int((network()(held_out.images.float() / 255).argmax(1) == held_out.labels).sum())
    clean, robust = found["clean_accuracy"], found["robust_accuracy"]
    assert (found["n"], clean["value"]) == (len(held_out), right / len(held_out))
    assert clean["low"] < clean["value"] < clean["high"] or clean["value"] in (0, 1)
    assert robust["low"] <= robust["value"] <= robust["high"] and robust["value"] < clean["value"]


def test_the_same_teachers_are_the_same_bytes_and_others_go(place):
    tell(place, {"big": bring(place), "prog": program(place)})
    run_here(place, STAGE)
    first = hashes(place, STAGE)
    assert len(first) == 4
    shutil.rmtree(place / "models")
    run_here(place, STAGE)
    assert hashes(place, STAGE) == first
    tell(place, {"prog": program(place)})
    run_here(place, STAGE)
    assert sorted(path.name for path in (place / "models/teachers").iterdir()) == ["index.json", "prog.safetensors"]


def test_a_program_is_kept_without_a_pickle_and_answers_alike(place):
    tell(place, {"prog": program(place)})
    run_here(place, STAGE)
    path, splits = place / "models/teachers/prog.safetensors", read_splits(place / "data/normalized.safetensors")
    taught = load_taught(path, splits, CPU)
    assert torch.allclose(taught.network(pixels()), network()(pixels()), atol=1e-5)
    assert (taught.architecture, taught.source) == (None, "big.pt2")
    assert not any(parameter.requires_grad for parameter in taught.network.parameters())
    # It stays within the list of operators, whoever changes the file.
    tensors, metadata = read_tensors(path)
    metadata["program"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.set_.source_Tensor"
    write_tensors(path, tensors, metadata)
    with pytest.raises(ValueError, match=r"operator 'torch.ops.aten.set_.source_Tensor' \(allowed: "):
        load_taught(path, splits, CPU)


def bring_ours(place: Path, **changes: Any) -> None:
    """A model file of ours as a teacher, with a card of these data but for the `changes`."""
    splits = read_splits(place / "data/normalized.safetensors")
    fields: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "classes": splits.classes,
        "image_shape": splits.image_shape,
        "normalization": splits.normalization,
        "stage": "train_robust_teacher",
        "epoch": 0,
        "upstream": {},
    }
    save_model(place / "ours.safetensors", network().state_dict(), ModelCard(**fields | changes))
    tell(place, {"ours": {"name": "file", "file": "ours.safetensors"}})


def test_a_model_of_ours_comes_with_its_card(place):
    bring_ours(place, epoch=7)
    run_here(place, STAGE)
    assert load_model(place / "models/teachers/ours.safetensors")[1].epoch == 7


def test_a_registered_version_is_asked_of_the_tracker(place, monkeypatch):
    origin, asked = bring(place), []

    def tracker(*arguments: str, root: Path | None = None) -> str:
        asked.append(arguments)
        (Path(arguments[-1])).mkdir(exist_ok=True)
        shutil.copy(place / "big.safetensors", Path(arguments[-1]) / "weights.safetensors")
        return "weights.safetensors"

    monkeypatch.setattr("components.evaluation.outside.models.ask_temper", tracker)
    told = {key: value for key, value in origin.items() if key != "file"}
    tell(place, {"big": told | {"name": "registry", "model": "models:/team/3"}})
    run_here(place, STAGE)
    assert asked[0][:3] == ("records", "fetch-model", "models:/team/3") and len(asked) == 1
    assert read_json(place / "models/teachers/index.json")["big"]["source"] == "models:/team/3"


def rolled(tensor: Tensor) -> Tensor:
    """Logits that stand for the next class."""
    return tensor.roll(1, 0)


HEAD = next(name for name in state() if name.startswith("head.") and name.endswith(".weight")).removesuffix("weight")
ORDER = {f"{HEAD}{part}": rolled(state()[f"{HEAD}{part}"]) for part in ("weight", "bias")}


def test_another_order_of_classes_is_refused(place, capsys):
    """By what it answers, where the file names no classes."""
    tell(place, {"big": bring(place, **ORDER)})
    line = refused(place, capsys)
    assert line.startswith(f"params.yaml: {STAGE}.big: its classes are in another order than the data's: ")
    assert "% of " in line and "logit 1 is '0', logit 2 is '1', logit 3 is '2', and 7 more" in line
    assert not (place / "models").exists()


def test_another_order_of_classes_is_refused_by_their_names(place, capsys):
    names = (*CLASSES[:7], "8", "7", "9")
    bring_ours(place, classes=names)
    assert refused(place, capsys).endswith("made for the same classes in another order: 7 is '8', in the data '7'")


class Scaled(nn.Module):
    """A network that takes other pixels."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.change = network(), change

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(self.change(images))


def test_other_pixels_are_refused(place, capsys):
    tell(place, {"big": program(place, Scaled(lambda images: images / 255))})
    line = refused(place, capsys)
    assert "validation images right with pixels in [0, 1]," in line and "with pixels of 0 to 255 (want a " in line


def test_a_program_that_asserts_its_pixels_is_welcome(place):
    tell(place, {"big": program(place, Refusing(network()))})
    run_here(place, STAGE)
    assert (place / "models/teachers/big.safetensors").exists()


WANTED: list[tuple[dict[str, Any], str]] = [
    ({"sha256": "0" * 64}, "sha256: big.safetensors has "),
    ({"architecture": None}, "big.safetensors: a state dict without a model card, say architecture: {name: …, …}"),
    (
        {"normalization": None},
        "big.safetensors: a state dict without normalisation, say normalization: identity or {mean",
    ),
    ({"file": "none.safetensors"}, "none.safetensors: no such file"),
    ({"file": "big.pth"}, "big.pth: a .pth file is a pickle"),
    ({"architecture": ARCHITECTURE | {"width": 1}}, "big.safetensors: weights do not fit"),
]


@pytest.mark.parametrize(("change", "line"), WANTED, ids=[line[:20] for _, line in WANTED])
def test_what_is_no_teacher_is_one_line(place, capsys, change, line):
    tell(place, {"big": bring(place) | change})
    assert refused(place, capsys).startswith(f"params.yaml: {STAGE}.big: {line}")
    assert not (place / "models").exists() and not (place / "metrics/teachers.json").exists()


def test_a_program_is_run_only_if_it_is_the_one_that_is_meant(place, capsys):
    origin = program(place)
    tell(place, {"big": {key: value for key, value in origin.items() if key != "sha256"}})
    assert refused(place, capsys).endswith(f"only if it is the one that you mean ({origin['sha256']})")


def test_images_of_another_shape_are_refused(place, capsys):
    class Other(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10] * 2

    path = place / "big.pt2"
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(Other(), (torch.rand(3, 1, 9, 9),), dynamic_shapes=dynamic), path)
    tell(place, {"big": {"name": "file", "file": "big.pt2", "sha256": sha256(path)}})
    assert "big.pt2: takes images of [1, 9, 9], the data has [1, 8, 8]" in refused(place, capsys)
