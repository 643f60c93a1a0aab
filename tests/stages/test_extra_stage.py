"""Training on two sources in the stages: nothing of the held-out images gets in, and a stop changes nothing."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch

from components.commands import check_params
from components.data.splits import read_splits
from components.foundation.errors import InputError
from components.foundation.params import Params
from components.foundation.storage import read_json, sha256
from components.stages import fetch_data, normalize_data, training_stage
from components.stages.train_robust_teacher import read
from components.tracking.journal import Journal
from tests.parts.pipeline_files import changed, make_project, run_here, small_params

STAGE = "train_robust_teacher"
DATA = ("fetch_data", "normalize_data")
NEW = 60
CHANGES = {"fetch_data.extra": "e.npz", f"{STAGE}.recipe.extra_share": "1/2", f"{STAGE}.recipe.epochs": 3}
MEP = {"name": "fgsm_mep", "step_size": "epsilon", "momentum": 0.3, "reset_every": 40, "weight": 10}
MEP |= {"label_smoothing": "4/9", "align": False, "batch_norm": "train", "craft": "smoothed"}


@pytest.fixture(scope="module")
def mixed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a second source: new images, and two of each split."""
    folder = make_project(tmp_path_factory.mktemp("extra") / "project", **CHANGES)
    splits = read_splits(project / "data/normalized.safetensors")
    known = torch.cat([part.images[:2] for part in splits.parts.values()])
    new = np.random.default_rng(0).integers(256, size=(NEW, *splits.image_shape), dtype=np.uint8)
    images = np.concatenate([known.numpy(), new])
    np.savez(folder / "e.npz", images=images, labels=np.arange(len(images)) % len(splits.classes))
    run_here(folder, *DATA)
    return folder


def test_images_of_the_splits_are_dropped_from_the_second_source(mixed, project):
    splits, alone = (read_splits(folder / "data/normalized.safetensors") for folder in (mixed, project))
    record = read_json(mixed / "metrics/data.json")
    assert splits.extra is not None and alone.extra is None
    assert (record["extra"]["n"], record["extra"]["duplicates_dropped"]) == (NEW, 6) == (len(splits.extra), 6)
    assert sum(record["extra"]["per_class"]) == NEW
    others = {key for part in alone.parts.values() for key in part.keys()}  # noqa: SIM118
    assert not others & set(splits.extra.keys())
    for name, part in alone.parts.items():
        assert torch.equal(splits.parts[name].images, part.images), name
    assert splits.normalization == alone.normalization
    assert record["digest"] != read_json(project / "metrics/data.json")["digest"]


@pytest.mark.parametrize("method", [{}, {f"{STAGE}.method": MEP}], ids=["as_it_is", "remembers_images"])
def test_training_goes_on_as_if_it_had_never_stopped(method, mixed, project, tmp_path, monkeypatch):
    """A method that remembers each image has room for those of the second source."""
    written = []
    for stops in (False, True):
        folder = make_project(shutil.copytree(mixed, tmp_path / str(stops)), **CHANGES | method)
        shutil.copytree(project / "models", folder / "models", dirs_exist_ok=True)
        if stops:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(training_stage, "progress", stopping_at(1))
                run_here(folder, STAGE)
        run_here(folder, STAGE)
        written.append(sha256(folder / "models/robust_teacher.last.safetensors"))
    assert written[0] == written[1] != sha256(project / "models/robust_teacher.last.safetensors")


def stopping_at(epoch: int) -> Callable[..., str]:
    def progress(record: Mapping[str, float], *_: float) -> str:
        if record["epoch"] == epoch:
            raise KeyboardInterrupt
        return ""

    return progress


def test_a_share_of_nothing_is_one_line():
    with pytest.raises(InputError, match=f"{STAGE}.recipe.extra_share: got 1/4, but fetch_data.extra is null"):
        read(Params(changed(small_params(), {f"{STAGE}.recipe.extra_share": 0.25})))
    for share in (1, -0.1, "most"):
        with pytest.raises(InputError, match=f"{STAGE}.recipe.extra_share"):
            read(Params(changed(small_params(), {f"{STAGE}.recipe.extra_share": share, "fetch_data.extra": "e.npz"})))


def test_a_second_source_that_nothing_trains_on_is_one_warning(mixed, tmp_path, monkeypatch):
    """And none where a section takes a share of it, however it writes the others' nothing."""
    monkeypatch.chdir(mixed)
    unused = "warning: nothing trains on fetch_data.extra: recipe.extra_share is 0 in every section (params.yaml)"
    for share, lines in ((0, [unused]), ("0/7", [unused]), ("1/9", [])):
        values = changed(
            small_params(**CHANGES), {f"{STAGE}.recipe.extra_share": share, "fetch_data.extra_files": "e.npz"}
        )
        assert [line for line in notes_of(fetch_data.main, values) if "warning" in line] == lines
        assert [line for line in check_params.check(Params(values)) if "extra" in line] == [
            line.removeprefix("warning: ") for line in lines
        ]


@pytest.mark.parametrize("content", [None, b"PK no archive"], ids=["missing", "broken"])
def test_a_bad_file_is_one_line_that_names_the_key(content, tmp_path, monkeypatch):
    """Not after a warning that DVC watches something else."""
    monkeypatch.chdir(tmp_path)
    if content:
        Path("e.npz").write_bytes(content)
    journal = create_autospec(Journal, instance=True)
    with pytest.raises(InputError, match=r"^fetch_data\.extra: e\.npz: ") as caught:
        fetch_data.main(Params(small_params(**CHANGES)), journal)
    assert "\n" not in str(caught.value) and not journal.note.called and not Path("data").exists()


def test_a_second_source_of_duplicates_alone_is_refused_before_anything_is_written(project, tmp_path, monkeypatch):
    """Else the file is written, and every later stage refuses it."""
    monkeypatch.chdir(tmp_path)
    splits = read_splits(project / "data/normalized.safetensors")
    np.savez("e.npz", images=splits.test.images[:5].numpy(), labels=splits.test.labels[:5].numpy())
    values = small_params(**CHANGES)
    notes_of(fetch_data.main, values)
    line = r"^fetch_data\.extra: all 5 images are in train, validation or test too \(want others, or null\)$"
    with pytest.raises(InputError, match=line):
        notes_of(normalize_data.main, values)
    assert not Path("data/normalized.safetensors").exists() and not Path("metrics").exists()


def notes_of(main: Callable[[Params, Journal], None], values: dict[str, Any]) -> list[str]:
    """What a stage says, in the present folder."""
    journal = create_autospec(Journal, instance=True)
    main(Params(values), journal)
    return [call.args[0] for call in journal.note.call_args_list]


def test_streamed_files_are_not_mixed():
    streamed = {"name": "image_folder", "folder": "f", "image_size": 8, "color": "rgb", "resize": "crop"}
    changes = {"fetch_data.dataset": streamed | {"streamed": {"random_crop": None}}, "fetch_data.extra": "e.npz"}
    with pytest.raises(InputError, match=r"fetch_data.extra: got e.npz beside streamed files, want null"):
        fetch_data.read(Params(changed(small_params(), changes)))
