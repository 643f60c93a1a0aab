"""DVC watches the folder of images that a change of params.yaml names."""

import os
from pathlib import Path

import pytest
import yaml

from pipelines.parameters.change import delta_of
from pipelines.parameters.watched import NO_FILE, NO_FILES, with_files

FOLDER = "{name: image_folder, folder: my/images, image_size: 8, streamed: null}"


TRAINING = ("train_clean_teacher", "train_robust_teacher", "distill_student")


@pytest.mark.parametrize("stage", TRAINING)
@pytest.mark.parametrize(
    ("assignment", "files"),
    [
        ("initial={file: my.safetensors, replace_head: true}", "my.safetensors"),
        ("initial.file=~/my.safetensors", os.path.expanduser("~/my.safetensors")),
        ("initial=null", "components/models/parts/no_file.txt"),
        ("initial.replace_head=false", None),
        ("recipe.epochs=1", None),
    ],
)
def test_the_watched_file_follows_the_initial_weights(stage, assignment, files):
    assert with_files(delta_of([f"{stage}.{assignment}"]), "--set")[stage].get("files") == files
    both = [f"{stage}.{assignment}", f"{stage}.files=mine"]
    assert with_files(delta_of(both), "--set")[stage]["files"] == "mine"


def test_the_file_that_stands_for_none_is_that_of_the_recipe():
    recipe = yaml.safe_load(Path("params.yaml").read_text())
    assert {recipe[stage]["files"] for stage in TRAINING} == {NO_FILE} and Path(NO_FILE).exists()
    assert {recipe["fetch_data"][key] for key in ("files", "extra_files")} == {NO_FILES} and Path(NO_FILES).exists()


@pytest.mark.parametrize(
    ("assignments", "files"),
    [
        (["fetch_data.extra=generated.npz"], "generated.npz"),
        (["fetch_data.extra=~/generated"], os.path.expanduser("~/generated")),
        (["fetch_data.extra=null"], NO_FILES),
        (["fetch_data.extra=a.npz", "fetch_data.extra_files=mine"], "mine"),
        (["fetch_data.extra=3"], None),
        (["seed=1"], None),
    ],
)
def test_the_watched_files_follow_the_second_source(assignments, files):
    assert with_files(delta_of(assignments), "--set").get("fetch_data", {}).get("extra_files") == files


@pytest.mark.parametrize(
    ("assignments", "files"),
    [
        ([f"fetch_data.dataset={FOLDER}"], "my/images"),
        (["fetch_data.dataset.folder=other"], "other"),
        ([f"fetch_data={{dataset: {FOLDER}}}"], "my/images"),
        ([f"fetch_data.dataset={FOLDER}", "fetch_data.files=mine"], "mine"),
        (["fetch_data.dataset={name: image_folder, folder: huge, streamed: {random_crop: null}}"], None),
        (["fetch_data.dataset={name: digits}"], None),
        (["fetch_data.dataset=null"], None),
        (["seed=1"], None),
    ],
)
def test_the_watched_files_follow_the_folder(assignments, files):
    assert with_files(delta_of(assignments), "--set").get("fetch_data", {}).get("files") == files
