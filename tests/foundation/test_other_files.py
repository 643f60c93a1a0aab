"""Whatever stands where a file should be, its readers say so in one line and wait for nothing."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from components.datasets.parts.downloads import read_verified
from components.evaluation.journal import OutcomeJournal
from components.evaluation.outside.program_files import load_program
from components.foundation.errors import InputError
from components.foundation.params import Params, read_yaml
from components.foundation.process import LONGEST_LINE, in_one_line, is_users
from components.foundation.storage import read_csv, read_json, read_mapping, read_text, sha256
from components.numerics.tensor_files import read_metadata, read_tensors
from components.tracking.journal_files import Sent, journals, pipeline_id
from pipelines.parameters.presets import preset_values

SECONDS = 5


def opened(path: Path) -> None:
    with OutcomeJournal.open(path, {"data": "x"}):
        pass


def as_preset(path: Path) -> None:
    (path.parent / "presets").mkdir()
    (path.parent / "presets/digits.yaml").symlink_to(path)
    preset_values(path.parent, "digits")


READERS: dict[str, Callable[[Path], object]] = {
    "yaml": read_yaml,
    "params": Params.read,
    "text": read_text,
    "json": read_json,
    "mapping": read_mapping,
    "csv": read_csv,
    "hash": sha256,
    "tensors": read_tensors,
    "metadata": read_metadata,
    "program": load_program,
    "journal of an evaluation": opened,
    "download": lambda path: read_verified(path, "0"),
    "preset": as_preset,
}
KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device without end": lambda path: path.symlink_to("/dev/zero"),
    "device without content": lambda path: path.symlink_to("/dev/null"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "dead link": lambda path: path.symlink_to("none"),
    "folder": Path.mkdir,
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
}


CASES = [(reader, kind) for reader in READERS for kind in KINDS]
# A hash takes any bytes, and a journal begins where a dead link leads.
CASES = [case for case in CASES if case not in {("hash", "bytes"), ("journal of an evaluation", "dead link")}]


def too_long(number: int, frame: FrameType | None) -> None:
    raise AssertionError("it waits")


@pytest.fixture
def _at_once():
    old = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize(("reader", "kind"), CASES)
def test_nothing_is_waited_for(reader: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    KINDS[kind](path)
    with pytest.raises((InputError, OSError)) as error:
        READERS[reader](path)
    assert is_users(error.value) and len(in_one_line(error.value)) <= LONGEST_LINE + 1
    if kind in ("pipe", "device without end", "device without content"):
        assert "want a regular file" in str(error.value)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("kind", KINDS)
def test_state_that_is_no_file_counts_as_absent(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "journals/run"
    folder.mkdir(parents=True)
    for path in (folder / "train.sent.json", tmp_path / "pipeline.json"):
        KINDS[kind](path)
    assert Sent.of(folder / "train.jsonl") == Sent()
    if kind != "folder":
        assert pipeline_id(tmp_path) == pipeline_id(tmp_path)
    KINDS[kind](folder / "train.jsonl")
    assert bool(journals(folder)) == (kind == "bytes")


@pytest.mark.parametrize("length", [10, LONGEST_LINE, 10**6])
def test_a_line_repeats_no_novel(length: int) -> None:
    assert len(in_one_line(InputError("x" * length))) == min(length, LONGEST_LINE + 1)
    assert len(in_one_line(FileNotFoundError(2, "no such file", "x" * length))) <= LONGEST_LINE + 1
