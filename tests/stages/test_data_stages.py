"""The stages fetch_data and normalize_data: files, metrics, equal bytes, and one line for a wrong parameter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from PIL import Image

from components.data.splits import LabelledImages, Source, read_source, read_splits
from components.foundation.errors import InputError
from components.foundation.params import Params
from components.foundation.storage import read_json, sha256
from components.stages import fetch_data, normalize_data
from components.tracking.journal import Journal

NORMALIZE = {"validation": 0.1, "test": "1/5", "duplicates": "drop", "method": "standardize"}
NORMALIZE |= {"train_limit": None, "test_limit": None}


def run_stages(dataset: dict[str, Any], cascade: str = "none", **changes: Any) -> Any:
    """Both stages in the present folder; gives the journal, which remembers what it was told."""
    journal = create_autospec(Journal, instance=True)
    fetch = {"dataset": dataset, "files": dataset.get("folder", "no_files.txt")}
    sections = {"fetch_data": fetch, "normalize_data": NORMALIZE | changes}
    params = Params({"seed": 0, **sections, "evaluate_attacks": {"attacks": {}, "cascade": cascade}})
    fetch_data.main(params, journal)
    normalize_data.main(params, journal)
    return journal


def test_stages_write_data_and_metrics_and_the_same_bytes_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = run_stages({"name": "digits"})
    outputs = [Path("data/raw.safetensors"), Path("data/normalized.safetensors"), Path("metrics/data.json")]
    sums = [sha256(path) for path in outputs]
    splits, record = read_splits(outputs[1]), read_json(outputs[2])
    assert [record[part]["n"] for part in ("train", "validation", "test")] == [1259, 179, 359]
    assert record["test"]["per_class"] == splits.test.counts(10)
    pixels = splits.train.images.double() / 255
    assert record["normalization"]["offset"] == pytest.approx([pixels.mean().item()], rel=1e-12)
    assert splits.normalization.scale == pytest.approx([pixels.std(unbiased=False).item()], rel=1e-12)
    assert journal.dataset.call_args.args[1] == record["digest"]
    assert journal.note.call_count == 2
    assert journal.upstream.call_args.args[0] == {"raw": sums[0]}
    run_stages({"name": "digits"})
    assert [sha256(path) for path in outputs] == sums


def test_stages_drop_and_count_or_refuse_duplicates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"train/{name}/{number}.png" for name in ("ant", "bee") for number in range(4)]
    for grey, path in enumerate(map(Path, [*names, "test/ant/0.png", "test/bee/0.png"])):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), grey).save(path)
    Path("train/ant/0.png").write_bytes(Path("test/bee/0.png").read_bytes())
    dataset = {
        "name": "image_folder",
        "folder": ".",
        "image_size": 8,
        "color": "gray",
        "resize": "crop",
        "streamed": None,
    }
    run_stages(dataset, validation="1/2")
    record = read_json("metrics/data.json")
    assert record["train"]["duplicates_dropped"] + record["validation"]["duplicates_dropped"] == 1
    assert record["test"] == {"n": 2, "duplicates_dropped": 0, "per_class": [1, 1]}
    with pytest.raises(InputError, match="1 duplicate image"):
        run_stages(dataset, validation="1/2", duplicates="refuse")


@dataclass(frozen=True, kw_only=True)
class Nearby:
    """A data set whose class names tell where it was asked to look."""

    def load(self, root: Path) -> Source:
        images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
        return Source(LabelledImages(images, torch.tensor([0, 0, 1, 1])), None, (str(root), "other"))


@pytest.mark.parametrize(("value", "want"), [(None, ".temper/downloads"), ("", ".temper/downloads"), ("mine", "mine")])
def test_fetch_data_looks_where_temper_data_says(tmp_path, monkeypatch, value, want):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(fetch_data.DATASETS, "nearby", Nearby)
    monkeypatch.delenv("TEMPER_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("TEMPER_DATA", value)
    params = Params({"fetch_data": {"dataset": {"name": "nearby"}, "files": "no_files.txt"}})
    fetch_data.main(params, create_autospec(Journal, instance=True))
    assert read_source("data/raw.safetensors")[1].classes[0] == want


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": "1/2", "test": "1/2"}, "normalize_data: got validation 1/2 and test 1/2"),
        ({"validation": 0}, "normalize_data.validation: got 0, want more than 0"),
        ({"train_limit": 0}, "normalize_data.train_limit: got 0, want at least 1"),
        ({"duplicates": "keep"}, "normalize_data.duplicates: input should be 'drop' or 'refuse'"),
        ({"method": "zscore"}, "normalize_data.method: input should be"),
        ({"test": "a fifth"}, "normalize_data.test: got 'a fifth', want a fraction"),
        ({"limit": 3}, "normalize_data.limit: unknown key"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run_stages({"name": "digits"}, **changes)


def test_an_unknown_data_set_lists_the_valid_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    allowed = "cifar10, cifar100, digits, fashion_mnist, image_folder"
    with pytest.raises(InputError, match=rf"fetch_data\.dataset\.name: unknown 'mnist' \(allowed: {allowed}\)"):
        run_stages({"name": "mnist"})
