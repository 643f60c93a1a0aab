"""Files are whole or absent, equal for equal content, and a broken one is one line."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.foundation.errors import InputError
from components.foundation.storage import (
    locked,
    read_csv,
    read_json,
    read_state,
    reading,
    replacing,
    sha256,
    write_csv,
    write_json,
    write_text,
)
from components.numerics import tensor_files
from components.numerics.tensor_files import _NAMES, read_tensors, tensor_bytes, write_tensors


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(error), replacing(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old" and files(tmp_path) == ["file.txt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as partial:
        partial.write_text("new")
        assert not path.exists() and partial.parent == path.parent
    assert path.read_text() == "new" and files(path.parent) == ["file.txt"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"a": torch.zeros(2)})
    before = path.read_bytes()

    def full(tensor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_files, "tensor_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_tensors(path, {"a": torch.ones(2)})
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before and files(tmp_path) == ["file.safetensors"]


def test_the_bytes_are_those_of_the_library(tmp_path):
    """Whatever the types, the sizes and the names."""
    kinds = [kind for kind in _NAMES if kind != torch.bool]
    tensors = {f"{letter}{kind}": torch.arange(3).to(kind) for letter in "ba" for kind in kinds}
    tensors |= {"none": torch.zeros(0, 3, dtype=torch.uint8), "scalar": torch.tensor(2.5), "true": torch.ones(1) > 0}
    tensors |= {'é"\\\n\x1f': torch.rand(2, 3).t(), "odd": torch.ones(5, dtype=torch.bool)}
    metadata = {"classes": ["é\n", 1.5, None]}
    write_tensors(tmp_path / "own", tensors, metadata)
    text = json.dumps(metadata, sort_keys=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "library", {"temper": text})
    assert (tmp_path / "own").read_bytes() == (tmp_path / "library").read_bytes()
    assert {found.dtype for found in read_tensors(tmp_path / "own")[0].values()} == set(_NAMES)


def test_what_is_in_memory_is_written_without_a_copy():
    """Of large images each would be one more time in memory."""
    tensor = torch.zeros(3, 4)
    held = tensor_bytes(tensor)
    tensor += 1
    assert held == tensor.numpy().tobytes()


def test_equal_content_gives_equal_bytes(tmp_path):
    tensors = {"b": torch.arange(6).view(2, 3), "a": torch.rand(3, dtype=torch.float64), "c": torch.zeros(0)}
    metadata = {"x": [1, 2.5], "y": {"k": None, "j": "é"}}
    write_tensors(tmp_path / "one", tensors, metadata)
    turned = {"b": torch.arange(6).view(2, 3).t().contiguous().t()}  # other strides, the same values
    write_tensors(tmp_path / "two", dict(reversed((tensors | turned).items())), dict(reversed(metadata.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found, told = read_tensors(tmp_path / "one")
    assert found.keys() == tensors.keys() and told == metadata
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


def test_views_and_tensors_with_gradients_are_written(tmp_path):
    whole = torch.arange(8.0).requires_grad_()
    write_tensors(tmp_path / "file", {"part": whole[2:6], "turned": torch.arange(8).view(2, 4).t()})
    found, metadata = read_tensors(tmp_path / "file")
    assert found["part"].tolist() == [2, 3, 4, 5] and found["turned"].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert metadata is None and not found["part"].requires_grad


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_holds_finite_numbers_only(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"a": [value]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_tensors(tmp_path / "file", {}, {"a": value})
    assert files(tmp_path) == []


def test_json_keeps_order_and_floats(tmp_path):
    value = {"b": 0.1 + 0.2, "a": [1, None, True, "ε"]}
    write_json(tmp_path / "file.json", value)
    assert list(read_json(tmp_path / "file.json").items()) == list(value.items())
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "ε" in text and "0.30000000000000004" in text


def test_csv_has_columns_in_order_of_appearance_and_gaps(tmp_path):
    write_csv(tmp_path / "file.csv", [{"epoch": 0, "a": 0.1}, {"epoch": 1, "b": 0.25, "a": 1e-9}])
    assert (tmp_path / "file.csv").read_bytes() == b"epoch,a,b\n0,0.1,\n1,1e-09,0.25\n"
    assert read_csv(tmp_path / "file.csv")[0] == {"epoch": "0", "a": "0.1", "b": ""}


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n3", "a,b\n1,2,3\n"])
def test_broken_csv_is_one_line(tmp_path, content):
    (tmp_path / "file.csv").write_text(content)
    with pytest.raises(InputError, match=r"file\.csv: truncated, or no CSV table$"):
        read_csv(tmp_path / "file.csv")


def _broken_files(folder: Path) -> dict[str, Path]:
    write_tensors(folder / "whole", {"a": torch.zeros(100)}, {"k": 1})
    content = (folder / "whole").read_bytes()
    for name, data in {
        "cut in the header": content[:20],
        "cut in the data": content[:-8],
        "empty": b"",
        "text": b"not a tensor file at all",
        "too long": content + b"\0",
    }.items():
        (folder / name).write_bytes(data)
    save_file({"a": torch.zeros(2)}, folder / "broken metadata", {"temper": "{"})
    (folder / "folder").mkdir()
    return {path.name: path for path in folder.iterdir() if path.name != "whole"}


def test_broken_tensor_files_are_one_line(tmp_path):
    for name, path in _broken_files(tmp_path).items():
        with pytest.raises(InputError, match="truncated, or no safetensors file") as caught:
            read_tensors(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value), name


def test_a_file_of_another_writer_has_no_metadata_of_ours(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "plain")
    save_file({"a": torch.zeros(2)}, tmp_path / "named", {"format": "pt"})
    assert read_tensors(tmp_path / "plain")[1] is None and read_tensors(tmp_path / "named")[1] is None


@pytest.mark.parametrize("read", [read_tensors, read_json, read_csv, sha256], ids=lambda read: read.__name__)
def test_missing_files_are_one_line(read, tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path / "nowhere")
    assert str(caught.value) == f"{tmp_path / 'nowhere'}: no such file"


def test_broken_json_is_one_line(tmp_path):
    (tmp_path / "file.json").write_text('{"a": 1,\n')
    with pytest.raises(InputError, match=r"file\.json: not readable as JSON: .*line 2"):
        read_json(tmp_path / "file.json")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"), OSError(errno.ENOMEM, "no"), MemoryError()],
)
def test_a_lack_of_memory_is_no_fault_of_the_file(error, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(type(error)) as caught, reading(tmp_path / "file", "truncated"):
        raise error
    assert caught.value is error


def test_hashes_are_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert tensor_bytes(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).t()) == bytes([1, 3, 2, 4])


def test_errors_of_writing_name_the_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "folder", tmp_path / "file/below", tmp_path / ("x" * 300), tmp_path / "loop/x"):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            write_text(path, "text")
        assert str(path).startswith(str(caught.value.filename)), (path, caught.value)
    with pytest.raises(OSError, match=r"\[Errno") as caught, replacing(tmp_path / "full"):
        raise OSError(errno.EFBIG, "File too large")
    assert caught.value.filename == str(tmp_path / "full") and files(tmp_path) == ["file", "folder", "loop"]


def test_what_dead_processes_left_is_swept_and_nothing_else(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = int(ended.stdout)
    kept = {f".file.{os.getppid()}.partial", f".other.{dead}.partial", ".file.x.partial", f".file.{dead}.part"}
    for name in (*kept, f".file.{dead}.partial"):
        (tmp_path / name).touch()
    write_text(tmp_path / "file", "text")
    assert {*files(tmp_path)} == {*kept, "file"}


def test_a_file_that_its_writer_still_holds_is_not_swept(tmp_path):
    """Its process may be another container's, with numbers of its own."""
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    half = tmp_path / f".file.{int(ended.stdout)}.partial"
    with half.open("wb") as file:
        assert locked(file.fileno())
        write_text(tmp_path / "file", "text")
        assert half.exists()
    write_text(tmp_path / "file", "text")
    assert not half.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"a": NaN}'], ids=repr)
def test_a_state_that_is_none_is_absent(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    assert read_state(file) == read_state(tmp_path) == {}
    file.write_bytes(content)
    assert read_state(file) == {}
    file.write_text('{"a": 1}')
    assert read_state(file) == {"a": 1}
