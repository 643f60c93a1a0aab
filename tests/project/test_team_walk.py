"""A team's networks of timm through all stages, at toy size; the whole size is `benchmarks/team_walk.py`."""

from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("jinja2")

from benchmarks.team_walk import STAGES, draw, numbers, recipe, walk


@pytest.mark.slow
def test_networks_of_timm_go_through_all_stages(tmp_path: Path) -> None:
    images = tmp_path / "images"
    draw(images, 30, 32)
    seconds = walk(tmp_path, recipe(images, 32, "test_convnext", "test_vit", epochs=1, threads=1))
    assert tuple(seconds) == STAGES
    found = numbers(tmp_path)
    assert set(found) >= {"clean_teacher", "robust_teacher", "student"}
    assert all(row["worst case"] <= row["clean"] for row in found.values())
