"""A team's networks of timm through all stages, at toy size; the whole size is `benchmarks/team_walk.py`."""

from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("jinja2")

from benchmarks.team_walk import SMALL, STAGES, Effort, Networks, draw, network, numbers, peaks, recipe, walk


@pytest.mark.slow
def test_networks_of_timm_go_through_all_stages(tmp_path: Path) -> None:
    images = tmp_path / "images"
    draw(images, 30, 32)
    networks = Networks(network("test_convnext"), network("timm:test_vit"), SMALL)
    effort = Effort(side=32, epochs=1, batch_size=16, micro_batch=8, cascade="none", threads=1)
    seconds = walk(tmp_path, recipe(images, networks, effort))
    assert tuple(seconds) == STAGES == tuple(peaks(tmp_path)) and min(peaks(tmp_path).values()) > 50
    found = numbers(tmp_path)
    assert set(found) >= {"clean_teacher", "robust_teacher", "student"}
    assert all(row["worst case"] <= row["clean"] for row in found.values())
