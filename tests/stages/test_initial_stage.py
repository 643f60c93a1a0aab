"""Initial weights in a stage: what is measured first is the file's model, and another file is another run."""

import shutil
from pathlib import Path

import pytest
import torch

from components.data.pixels import to_pixels
from components.data.splits import read_splits
from components.foundation.errors import InputError
from components.foundation.params import Params
from components.foundation.process import WORK
from components.foundation.storage import read_csv
from components.models.parts.model_file import load_model
from components.numerics.tensor_files import read_tensors, write_tensors
from components.stages.train_robust_teacher import read
from components.stages.training_stage import warnings_of
from tests.parts.pipeline_files import changed, make_project, run_here, small_params

STAGE = "train_robust_teacher"
FILE = "start.safetensors"
OFFSET = torch.full((1, 1, 1, 1), 0.25)


@pytest.fixture(scope="module")
def begun(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose robust teacher begins with the clean one, under another normalisation."""
    changes = {f"{STAGE}.initial": {"file": FILE}, f"{STAGE}.recipe.epochs": 1, f"{STAGE}.recipe.average": None}
    folder = make_project(tmp_path_factory.mktemp("initial") / "project", **changes)
    shutil.copytree(project, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("params.yaml", WORK.name))
    tensors = read_tensors(folder / "models/clean_teacher.safetensors")[0]
    write_tensors(folder / FILE, tensors | {"normalize.offset": OFFSET})
    run_here(folder, STAGE)
    return folder


def test_what_is_measured_before_training_is_the_files_model(begun):
    model, _ = load_model(begun / "models/clean_teacher.safetensors")
    model.load_state_dict({"normalize.offset": OFFSET}, strict=False)
    images, labels = read_splits(begun / "data/normalized.safetensors").validation.on(torch.device("cpu"))
    right = model(to_pixels(images)).argmax(1).eq(labels).float().mean().item()
    row = read_csv(begun / "curves/robust_teacher.csv")[0]
    assert float(row["clean_accuracy"]) == pytest.approx(right, abs=1e-6) and row["epoch"] == "0"


def test_the_card_says_how_the_model_normalises(begun):
    model, card = load_model(begun / "models/robust_teacher.safetensors")
    assert card.normalization.offset == (0.25,)
    assert torch.equal(model.state_dict()["normalize.offset"], OFFSET)


def test_another_file_is_another_run(begun, tmp_path, capsys):
    folder = tmp_path / "again"
    shutil.copytree(begun, folder)
    run_here(folder, STAGE)
    assert "published again" in capsys.readouterr().out
    write_tensors(folder / FILE, read_tensors(folder / FILE)[0] | {"normalize.offset": OFFSET * 2})
    run_here(folder, STAGE)
    out = capsys.readouterr().out
    assert "starts anew, it was finished for other inputs: initial weights: " in out and "published again" not in out


def test_a_file_that_does_not_fit_is_one_line_and_leaves_the_model(begun, tmp_path, capsys):
    folder = tmp_path / "mistaken"
    shutil.copytree(begun, folder)
    write_tensors(folder / FILE, {"a": torch.ones(1, 2)})
    with pytest.raises(SystemExit) as ended:
        run_here(folder, STAGE)
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n")) == (2, 1) and "none of its 1 tensors fits the model" in err
    assert f"params.yaml: {STAGE}.initial: {FILE}" in err
    assert (folder / "models/robust_teacher.safetensors").exists()


def test_two_origins_of_weights_are_refused():
    both = {f"{STAGE}.initial": {"file": FILE}, f"{STAGE}.warm_start": True}
    with pytest.raises(InputError, match="got warm_start and initial weights, want one of them"):
        read(Params(changed(small_params(), both)))


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"decay": 0.5, "frozen_epochs": 0}, "get a smaller rate"),
        ({"decay": 1, "frozen_epochs": 1}, "wait"),
        ({"decay": 1, "frozen_epochs": 0}, None),
        (None, None),
    ],
)
def test_layers_of_random_weights_that_learn_slowly_are_told(layers, said):
    line = f"{STAGE}.recipe.layers: layers with random weights {said} (set initial, or layers: null)"
    for origin in ({}, {f"{STAGE}.initial": {"file": FILE}}, {f"{STAGE}.warm_start": True}):
        changes = {f"{STAGE}.recipe.layers": layers, f"{STAGE}.warm_start": False, **origin}
        told = warnings_of(read(Params(small_params(**changes))).training, STAGE)
        assert [one for one in told if "layers" in one] == ([line] if said and not origin else [])


def test_a_file_that_dvc_does_not_watch_is_told():
    settings = read(Params(small_params(**{f"{STAGE}.initial": {"file": FILE}}))).training
    assert any(f"set {STAGE}.files to that" in line for line in warnings_of(settings, STAGE))
    watched = {f"{STAGE}.initial": {"file": FILE}, f"{STAGE}.files": FILE}
    assert not any("DVC" in line for line in warnings_of(read(Params(small_params(**watched))).training, STAGE))
