"""Broken data and absurd options of `temper evaluate`: one line on stderr, status 2, and no file is changed."""

import copy
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from components.commands.evaluate_options import EvaluateOptions, params_of
from components.data.splits import LabelledImages, Splits, write_splits
from components.foundation.errors import InputError
from components.numerics.tensor_files import METADATA_KEY, read_tensors
from components.stages.tasks import read_suite
from temper.cli import main
from tests.parts.outside_files import CLASSES, NORMALIZATION, PARAMS, digits, make_case

COUNT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, images and a recipe."""
    return make_case(tmp_path_factory.mktemp("bad") / "case", COUNT)


def good() -> dict[str, torch.Tensor]:
    images, labels = (part[:COUNT].clone() for part in digits())
    return {"images": images, "labels": labels}


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: Any) -> None:
    told = {METADATA_KEY: metadata if isinstance(metadata, str) else json.dumps(metadata)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, told)


def changed(**tensors: torch.Tensor | None) -> Callable[[Path], None]:
    kept = {name: tensor for name, tensor in (good() | tensors).items() if tensor is not None}
    return lambda path: write(path, kept, {"classes": CLASSES})


def told(metadata: Any) -> Callable[[Path], None]:
    return lambda path: write(path, good(), metadata)


def normalised(change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """A data file of the pipeline with something else in it."""

    def make(path: Path) -> None:
        parts = {name: LabelledImages(*good().values()) for name in ("train", "validation", "test")}
        write_splits(path, Splits("digits", CLASSES, normalization=NORMALIZATION, **parts))
        tensors, metadata = read_tensors(path)
        change(metadata, tensors)
        write(path, tensors, metadata)

    return make


def damaged(seed: int) -> Callable[[Path], None]:
    """A file cut off, or with other bytes in its header."""

    def make(path: Path) -> None:
        write(path, good(), {"classes": CLASSES})
        draws, content = random.Random(seed), bytearray(path.read_bytes())
        if seed % 2:
            path.write_bytes(content[: draws.randrange(len(content) - 1)])
        else:
            content[: 8 + seed] = draws.randbytes(8 + seed)
            path.write_bytes(content)

    return make


PIXELS, LABELS = good()["images"], good()["labels"]
FILES: dict[str, Callable[[Path], object]] = {
    "no images": changed(images=PIXELS[:0], labels=LABELS[:0]),
    "no pixels": changed(images=PIXELS[:, :, :0]),
    "no channels": changed(images=PIXELS[:, :0]),
    "two channels": changed(images=PIXELS.repeat(1, 2, 1, 1)),
    "images are flat": changed(images=PIXELS.flatten(1)),
    "images are a scalar": changed(images=torch.tensor(3)),
    "images are bool": changed(images=PIXELS.bool()),
    "images are int64": changed(images=PIXELS.long()),
    "labels are none": changed(labels=LABELS[:0]),
    "labels are fewer": changed(labels=LABELS[:-1]),
    "labels are more": changed(labels=LABELS.repeat(2)),
    "labels are a scalar": changed(labels=torch.tensor(0)),
    "labels are one-hot": changed(labels=torch.eye(10)[LABELS]),
    "labels are floats": changed(labels=LABELS.float()),
    "labels are bool": changed(labels=LABELS.bool()),
    "labels are negative": changed(labels=LABELS - 1),
    "labels are too large": changed(labels=LABELS + 2**40),
    "labels overflow": changed(labels=torch.full((COUNT,), 2**63 - 1)),
    "labels without names overflow": lambda path: write(path, good() | {"labels": torch.full((COUNT,), 2**62)}, None),
    "no labels": changed(labels=None),
    "neither": changed(images=None, labels=None),
    "held out without labels": changed(**{"held_out.images": PIXELS}),
    "held out of another size": changed(**{"held_out.images": PIXELS[:, :, :4], "held_out.labels": LABELS}),
    "held out of another kind": changed(**{"held_out.images": PIXELS / 255, "held_out.labels": LABELS}),
    "another shape than the model's": changed(images=PIXELS.repeat(1, 1, 2, 1)),
    "splits without statistics": lambda path: write(path, {"test.images": PIXELS, "test.labels": LABELS}, {}),
    "a folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "an array": lambda path: path.write_bytes(b"\x93NUMPY" + bytes(100)),
    "a header of 2**63 bytes": lambda path: path.write_bytes(b"\xff" * 7 + b"\x7f{}"),
}
for level in (torch.nan, torch.inf, -torch.inf, -0.01, 1.01, 255.0, 1e38):
    FILES[f"a pixel of {level}"] = changed(images=(PIXELS / 255).index_fill(0, torch.tensor([3]), level))
METADATA = (10, "ten", None, [1, 2], [], ["a"], {"classes": 10}, {"classes": None}, {"classes": True}, {"classes": {}})
for about in (*METADATA, {"classes": [[1]]}, {"classes": ["a", "a"]}, {"classes": "0123456789"}, {"classes": [1] * 10}):
    if isinstance(about, dict):
        FILES[f"metadata {about}"] = told(about)
for value in METADATA[:6]:
    FILES[f"classes {value} of the pipeline"] = normalised(lambda about, _, value=value: about.update(classes=value))
    FILES[f"normalization {value}"] = normalised(lambda about, _, value=value: about.update(normalization=value))
for name in ("train.labels", "test.images", "validation.images"):
    FILES[f"without {name}"] = normalised(lambda _, tensors, name=name: tensors.pop(name))
    FILES[f"{name} of none"] = normalised(lambda _, tensors, name=name: tensors.update({name: tensors[name][:0]}))
FILES |= {f"damaged {seed}": damaged(seed) for seed in range(24)}

COUNTS = ("0", "-1", "nan", "1e3", "", "x", "1000000000000", "9223372036854775808", "100000000000000000000")
OPTIONS = [
    *([name, value] for name in ("--batch-size", "--threads", "--images") for value in COUNTS),
    *(["--seed", value] for value in ("-1", "99999999999999999999999", "1.5")),
    *(["--threat", value] for value in ("linf:nan", "linf:-1", "linf:2", "l2:-1/2", "linf:1/0", ":", "l3:1")),
    *(["--shard", value] for value in ("1/1", "-1/2", "0/0", "a/b", "1", "", "0/10000", f"0/{'9' * 60}", "٠/2")),
    *(["--criteria", value] for value in ("3", "{", "{clean: 2}", "{model: no}", "{not_worse_than: 3}")),
    *(["--architecture", value] for value in ("[", "3", "x={name: small_cnn}")),
    *(["--normalization", value] for value in ("1", "0.5:0", "inf:1", "0.5:nan", "a:b", "1,2:1")),
    *(["--out", value] for value in ("small.yaml", "small.yaml/in", "images.safetensors")),
    *(["--params", value] for value in ("none.yaml", ".", "one.safetensors", "images.safetensors")),
    *(["--data", value] for value in ("", ".", "digits", "{}", "{name: 3}", "none.safetensors", "small.yaml", "\x1b")),
    *(["--model", value] for value in ("", "=", "a=", "=b", "a=.", "a=none.pt2", "a=small.yaml", "a=m.pth")),
]  # fmt: skip


ODD = (
    None,
    [],
    {},
    "",
    "x",
    "auto",
    3,
    -1,
    1.5,
    True,
    [1],
    [["a", "b"]],
    {"a": 1},
    [[1, 2], [3]],
    float("nan"),
    ".inf",
)
ABSENT = object()


def sections_changed() -> list[tuple[str, dict[str, Any]]]:
    """Every section of a recipe, and every key of one, replaced by each odd value, and left out."""
    ways = [(name,) for name in PARAMS]
    ways += [(name, key) for name, section in PARAMS.items() if isinstance(section, dict) for key in section]
    changes: list[tuple[str, dict[str, Any]]] = []
    for way in ways:
        for value in (*ODD, ABSENT):
            params = copy.deepcopy(PARAMS)
            *outer, last = way
            block = params[outer[0]] if outer else params
            block.pop(last) if value is ABSENT else block.update({last: value})
            changes.append((f"{'.'.join(way)} {'absent' if value is ABSENT else value!r}", params))
    return changes


def snapshot(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def check_refused(folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    before, began = snapshot(folder), time.monotonic()
    try:
        status = main(["evaluate", *arguments])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and out == "", (status, out, err)
    assert err[:-1].isprintable() and len(err) < 1000, err
    assert snapshot(folder) == before
    assert time.monotonic() - began < 20
    return err


def given(**options: str) -> list[str]:
    base = {
        "model": "one=one.safetensors",
        "data": "images.safetensors",
        "params": "small.yaml",
        "out": "new",
    } | options
    return [part for name, value in base.items() for part in (f"--{name}", value)]


@pytest.mark.parametrize("kind", FILES)
def test_broken_data_is_one_line(folder, tmp_path, monkeypatch, capsys, kind):
    FILES[kind](tmp_path / "data.safetensors")
    monkeypatch.chdir(folder)
    error = check_refused(folder, given(data=str(tmp_path / "data.safetensors")), capsys)
    assert "data.safetensors" in error or "one.safetensors: " in error


def test_every_section_of_a_recipe_that_is_something_else_is_one_line_or_means_something(folder, monkeypatch):
    """Some odd values are allowed ones, such as no attacks; what they mean together is told too."""
    monkeypatch.chdir(folder)
    refused, changes = 0, sections_changed()
    for what, params in changes:
        (folder / "odd.yaml").write_text(yaml.safe_dump(params))
        asked = EvaluateOptions(model=["one=one.safetensors"], data="images.safetensors", params=Path("odd.yaml"))
        try:
            read_suite(params_of(asked, uint8=True), "evaluate_attacks", 10)
        except InputError as error:
            refused, text = refused + 1, str(error)
            assert text.isprintable() and len(text) < 1000 and text.startswith(("odd.yaml: ", "--adversarial")), what
    (folder / "odd.yaml").unlink()
    assert len(changes) > 330 and refused > 0.9 * len(changes)


@pytest.mark.parametrize("name", [name for name in PARAMS if name != "seed"])
def test_a_section_that_is_no_mapping_is_one_line(folder, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(folder)
    for value in (None, [], "auto", 3):
        (tmp_path / "odd.yaml").write_text(yaml.safe_dump(PARAMS | {name: value}))
        assert f"odd.yaml: {name}" in check_refused(folder, given(params=str(tmp_path / "odd.yaml")), capsys)


@pytest.mark.parametrize("option", OPTIONS, ids=" ".join)
def test_an_absurd_option_is_one_line(folder, monkeypatch, capsys, option):
    monkeypatch.chdir(folder)
    name, value = option
    check_refused(folder, given(**{name[2:]: value}), capsys)


def test_as_many_as_are_wanted():
    assert len(FILES) + len(OPTIONS) >= 150
