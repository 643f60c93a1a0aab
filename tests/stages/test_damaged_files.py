"""Whatever a file holds that a stage reads, it is one line with the file's name, status 2, and nothing has changed."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.foundation.process import USER_ERROR
from components.numerics.tensor_files import read_tensors, write_tensors
from components.stages.resume import KeptWork
from tests.parts.pipeline_files import hashes, partial_files, run_here

Damage = Callable[[Path], None]
Refused = Callable[[str, str, Damage], None]
EVALUATE = "evaluate_attacks"
JSON = [
    ("evaluation/evaluation.json", "report"),
    ("metrics/data.json", "report"),
    ("metrics/student.json", EVALUATE),
    ("metrics/student.teachers.json", EVALUATE),
    ("curves/student.sentinel.json", "report"),
]
TENSORS = [
    ("data/raw.safetensors", "normalize_data"),
    ("data/normalized.safetensors", EVALUATE),
    ("models/student.safetensors", EVALUATE),
    ("evaluation/outcomes.safetensors", "report"),
    ("evaluation/gallery.safetensors", "report"),
]
CURVES = [("curves/clean_teacher.csv", "report")]
BYTES = {
    "empty": b"",
    "binary": bytes(range(256)),
    "half": b'{"schema": ',
    "null": b"null",
    "list": b"[]",
    "text": b'"x"',
    "nan": b"NaN",
    "deep": b"[" * 100_000,
    "other encoding": '{"a": "\u00e4"}'.encode("utf-16"),
}


@pytest.fixture
def refused(project: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Damages a file of the project, runs the stage that reads it, and puts the file back."""

    def look(name: str, stage: str, damage: Callable[[Path], None]) -> None:
        path = project / name
        content = path.read_bytes()
        try:
            damage(path)
            before = hashes_but(project, name)
            capfd.readouterr()
            with pytest.raises(SystemExit) as caught:
                run_here(project, stage)
            error = capfd.readouterr().err
            assert caught.value.code == USER_ERROR and error.count("\n") == 1, error
            assert error.startswith(f"{stage}: error: {name}"), error
            assert hashes_but(project, name) == before and not partial_files(project)
        finally:
            if path.is_dir():
                path.rmdir()
            path.write_bytes(content)

    return look


def hashes_but(folder: Path, name: str) -> dict[str, str]:
    hidden = folder / "hidden"
    (folder / name).rename(hidden)
    try:
        return hashes(folder)
    finally:
        hidden.rename(folder / name)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(("name", "stage"), [*JSON, *TENSORS, *CURVES])
def test_files_of_another_kind(name, stage, refused):
    for content in BYTES.values():
        refused(name, stage, lambda path, content=content: path.write_bytes(content))
    refused(name, stage, as_folder)


def damaged(value: Any, rng: random.Random) -> tuple[Any, str]:
    """A JSON value with one of its parts taken away or replaced by one of another type, and where."""
    places = list(_places(value))
    *above, last = places[rng.randrange(len(places))]
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in above:
        inner = inner[key]
    old = inner[last]
    others = [one for one in (None, [], {}, "x", -1.5, True) if type(one) is not type(old)]
    inner[last] = rng.choice(others)
    return copy, ".".join(map(str, [*above, last]))


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from _places(inner, (*above, key))


# Parts that every reader needs, each with what must not be in its place.
NEEDED = {
    "evaluation/evaluation.json": ("schema", "models", "classes", "num_images", "threat", "evidence", "cost"),
    "metrics/student.json": ("passes",),
    "metrics/student.teachers.json": ("num_images", "cascade", "roles"),
    "curves/student.sentinel.json": ("events",),
}


@pytest.mark.parametrize(("name", "stage"), [pair for pair in JSON if pair[0] in NEEDED])
def test_parts_of_another_type_or_missing(name, stage, project, refused):
    content = json.loads((project / name).read_text())
    for key in NEEDED[name]:
        without = {other: value for other, value in content.items() if other != key}
        wrong = [without, *(content | {key: value} for value in (None, "x", -1.5, [None], True))]
        for value in wrong:
            refused(name, stage, lambda path, value=value: path.write_text(json.dumps(value)))


def test_a_document_of_an_evaluation_with_any_part_exchanged(project, refused):
    """Documents are checked to their leaves; a few keys are free, since nobody but a person reads them."""
    name, rng = "evaluation/evaluation.json", random.Random(5)
    content, tried = json.loads((project / name).read_text()), 0
    while tried < 30:
        value, where = damaged(content, rng)
        free = ("evidence.", "params", "provenance", "architecture", "epoch")
        # Of what may be absent, null says that it is.
        if where.endswith("upstream") or "precision" in where or where == "teachers":
            continue
        if any(part in where for part in free):
            continue
        tried += 1
        refused(name, "report", lambda path, value=value: path.write_text(json.dumps(value)))


def changed(change: Callable[[dict[str, torch.Tensor], Any], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors, metadata = read_tensors(path)
        told = change(tensors, metadata)
        write_tensors(path, tensors, metadata if told is None else told)

    return damage


def test_tensors_of_another_form(refused):
    name = "evaluation/outcomes.safetensors"
    for key in ("labels", "student/clean", "student/worst_case", "student/pgd_50"):
        for form in (
            lambda tensor: tensor * 0 + 7,
            lambda tensor: tensor[:-1],
            lambda tensor: tensor.float(),
            lambda tensor: tensor[None],
            lambda tensor: tensor.flip(0) ^ 1,
        ):
            refused(name, "report", changed(lambda data, _, key=key, form=form: data.update({key: form(data[key])})))
        refused(name, "report", without(key))


def without(key: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors, metadata = read_tensors(path)
        del tensors[key]
        write_tensors(path, tensors, metadata)

    return damage


@pytest.mark.parametrize(
    ("name", "stage", "keys"),
    [
        ("evaluation/gallery.safetensors", "report", ("indices", "labels", "attack", "clean", "adversarial")),
        ("data/raw.safetensors", "normalize_data", ("dataset", "classes")),
        ("data/normalized.safetensors", EVALUATE, ("dataset", "classes", "normalization")),
        ("models/student.safetensors", EVALUATE, ("architecture", "classes", "image_shape", "normalization")),
    ],
)
def test_metadata_of_another_type(name, stage, keys, refused):
    for key in keys:
        for value in (None, 10, "x" if key not in ("attack", "dataset") else 3, [[]], {"a": None}, -8):
            refused(name, stage, changed(lambda _, told, key=key, value=value: told | {key: value}))


@pytest.mark.parametrize("shape", [(0, 8, 8), (1, -8, 8), (1, 8, 8, 8), (1, 8), ("1", 8, 8)])
def test_a_card_of_impossible_images(shape, refused):
    damage = changed(lambda _, told: told | {"image_shape": shape})
    refused("models/student.safetensors", EVALUATE, damage)


def test_a_card_of_an_impossible_width(refused):
    damage = changed(lambda _, told: told | {"architecture": told["architecture"] | {"width": 1e9}})
    refused("models/student.safetensors", EVALUATE, damage)


@pytest.mark.parametrize("value", ["nan", "inf", "x"])
@pytest.mark.parametrize("column", [0, 1, -1])
def test_curves_of_no_numbers(column, value, refused):
    def damage(path: Path) -> None:
        lines = path.read_text().splitlines()
        cells = lines[-1].split(",")
        cells[column] = value
        path.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")

    refused("curves/student.csv", "report", damage)


def test_a_model_that_was_not_evaluated_is_not_registered(project, refused):
    other = (project / "models/clean_teacher.safetensors").read_bytes()
    refused("models/student.safetensors", "report", lambda path: path.write_bytes(other))


@pytest.mark.parametrize("content", [*BYTES.values(), b'{"a": 1}', b"{}"])
@pytest.mark.parametrize("file", ["finished.json", "inputs.json"])
def test_broken_notes_of_finished_work_count_as_absent(file, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out").write_text("result")
    kept = KeptWork("stage", {"seed": "1"})
    kept.begin(print)
    kept.finish(["out"])
    (kept.folder / file).write_bytes(content)
    said: list[str] = []
    again = KeptWork("stage", {"seed": "1" if file == "finished.json" else "2"})
    assert not again.published_again()
    again.begin(said.append)
    assert Path("out").read_text() == "result"
