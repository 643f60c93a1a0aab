"""DVC watches the folder of images that a change of params.yaml names."""

import pytest

from pipelines.parameters.change import delta_of
from pipelines.parameters.watched import with_files

FOLDER = "{name: image_folder, folder: my/images, image_size: 8, streamed: null}"


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
