"""The journal of an evaluation: whole lines or none, no work lost, nothing stale taken for one's own."""

import errno
import json
import os
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from components.evaluation.journal import SCHEMA, OutcomeJournal
from components.foundation.errors import InputError

KEY = {"models": {"one": "ab"}, "data": "cd", "seed": 0, "batch_size": 20}


def unit(number: int) -> dict:
    return {"images": [number, number + 1], "predicted": [3, 4], "passes": {"forward": 2, "backward": 0}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with three finished units."""
    with OutcomeJournal.open(tmp_path / "in/journal.jsonl", KEY) as journal:
        for number in range(3):
            journal.append(f"one/clean/{number}", unit(number))
    return tmp_path / "in/journal.jsonl"


def test_what_was_appended_is_there_again(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"schema": SCHEMA, "key": KEY}
    assert lines[1:] == [{"unit": f"one/clean/{number}", **unit(number)} for number in range(3)]
    with OutcomeJournal.open(path, KEY) as journal:
        assert journal.units == {f"one/clean/{number}": unit(number) for number in range(3)}
    assert not list(path.parent.glob(".*.partial"))


def test_opening_changes_nothing_and_appending_only_adds(path):
    before = path.read_bytes()
    with OutcomeJournal.open(path, KEY):
        pass
    assert path.read_bytes() == before
    with OutcomeJournal.open(path, KEY) as journal:
        journal.append("two/clean/0", unit(9))
    assert path.read_bytes().startswith(before) and path.read_bytes().count(b"\n") == 5


def test_half_a_line_is_cut_off_wherever_it_was_torn(path):
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(last + 1, len(whole)):
        path.write_bytes(whole[:end])
        with OutcomeJournal.open(path, KEY) as journal:
            assert set(journal.units) == {"one/clean/0", "one/clean/1"}
            assert path.read_bytes() == whole[:last]
            journal.append("one/clean/2", unit(2))
        assert path.read_bytes() == whole


def test_half_a_line_beside_a_living_process_costs_only_that_unit(path):
    with OutcomeJournal.open(path, KEY) as living:
        with path.open("ab") as dying:
            dying.write(b'{"unit":"one/clean/3","ima')
        with OutcomeJournal.open(path, KEY) as restarted:
            assert "one/clean/3" not in restarted.units
            restarted.append("one/clean/3", unit(3))
            assert restarted.units["one/clean/3"] == unit(3)
        living.refresh()
        assert living.units["one/clean/3"] == unit(3) and len(living.units) == 4
    with OutcomeJournal.open(path, KEY) as again:
        assert len(again.units) == 4


def test_a_full_disk_is_an_error_and_leaves_a_journal_that_goes_on(path, monkeypatch):
    before = path.read_bytes()
    write = os.write
    with OutcomeJournal.open(path, KEY) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: len(data) // 2]))
            with pytest.raises(OSError, match="bytes written"):
                journal.append("one/clean/3", unit(3))
        assert "one/clean/3" not in journal.units
    with OutcomeJournal.open(path, KEY) as journal:
        assert path.read_bytes() == before and len(journal.units) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": {"one": "ff"}}, "models was {'one': 'ab'}, is {'one': 'ff'}"),
        ({"data": "ee"}, "data was 'cd', is 'ee'"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"batch_size": 25}, "batch_size was 20, is 25"),
        ({"threat": "Threat(l2)"}, "threat was None, is 'Threat(l2)'"),
    ],
)
def test_a_stale_journal_is_refused_and_left_alone(path, change, said):
    before = path.read_bytes()
    with pytest.raises(InputError) as refused, OutcomeJournal.open(path, KEY | change):
        pass
    assert str(refused.value) == f"{path}: a journal of another evaluation: {said}; delete it to start anew"
    assert path.read_bytes() == before


LINES = (b"hello", b'{"schema":"other/1","key":{}}', b"[]", b'{"key":3}', b"\0" * 50, b"\xff\xfe", b"\x1b[31m", b"")


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\nhalf a line", b"\n\0\0\0"], ids=repr)
@pytest.mark.parametrize("first", LINES, ids=repr)
def test_another_file_is_refused_and_left_as_it_is(tmp_path, first, ending):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(first + ending)
    with pytest.raises(InputError, match="no journal of an evaluation") as refused, OutcomeJournal.open(path, KEY):
        pass
    assert path.read_bytes() == first + ending and list(tmp_path.iterdir()) == [path]
    assert str(refused.value).isprintable()


def test_a_journal_of_another_key_keeps_even_its_torn_line(path):
    before = path.read_bytes() + b'{"unit":"one/clean/3","ima'
    path.write_bytes(before)
    with pytest.raises(InputError, match="seed was 0, is 1"), OutcomeJournal.open(path, KEY | {"seed": 1}):
        pass
    assert path.read_bytes() == before


def test_a_folder_in_its_place_is_refused(tmp_path):
    with pytest.raises(InputError, match="a folder, want the journal"), OutcomeJournal.open(tmp_path, KEY):
        pass


def _hold(path: str, taken: Any) -> None:
    with OutcomeJournal.open(path, KEY) as journal, journal.claim("one/clean/7") as free:
        assert free
        taken.set()
        time.sleep(600)


def test_a_claim_ends_with_its_process(path):
    context = get_context("spawn")
    taken = context.Event()
    holder = context.Process(target=_hold, args=(str(path), taken))
    holder.start()
    assert taken.wait(60)
    with OutcomeJournal.open(path, KEY) as journal:
        assert journal.shared
        with journal.claim("one/clean/7") as free, journal.claim("one/clean/8") as other:
            assert not free and other
        holder.kill()
        with journal.claim("one/clean/7", wait=True) as free:
            assert free
    holder.join()
    with OutcomeJournal.open(path, KEY) as journal:
        assert not journal.shared


def test_a_journal_is_called_by_its_key(path, tmp_path):
    with OutcomeJournal.open(path, KEY) as one, OutcomeJournal.open(tmp_path / "other", KEY) as same:
        assert one.id == same.id
    with OutcomeJournal.open(tmp_path / "third", KEY | {"seed": 1}) as other:
        assert other.id != one.id


def _fill(path: str, process: int) -> None:
    with OutcomeJournal.open(path, KEY) as journal:
        for number in range(process, 60, 3):
            journal.append(f"one/clean/{number}", unit(number))


def test_processes_that_begin_and_fill_it_together_lose_no_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    # Not by fork: what other tests have left running in this process would be copied half alive.
    context = get_context("spawn")
    processes = [context.Process(target=_fill, args=(str(path), number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    lines = path.read_text().splitlines()
    assert len(lines) == 61 and sorted(json.loads(line)["unit"] for line in lines[1:]) == sorted(
        f"one/clean/{number}" for number in range(60)
    )


def test_one_process_sees_what_another_has_appended(path):
    with OutcomeJournal.open(path, KEY) as one, OutcomeJournal.open(path, KEY) as other:
        one.append("two/clean/0", unit(5))
        assert "two/clean/0" not in other.units
        other.refresh()
        assert other.units["two/clean/0"] == unit(5)
        # The first record of a unit stands.
        other.append("two/clean/0", unit(6))
        one.refresh()
        assert one.units["two/clean/0"] == unit(5)


def test_a_journal_that_may_not_be_written_is_no_mistake_of_its_content(path, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with OutcomeJournal.open(path, KEY) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            with pytest.raises(OSError) as full:
                journal.append("one/clean/3", unit(3))
        assert full.value.errno == errno.ENOSPC and "one/clean/3" not in journal.units


FOREIGN = [b"mine, without an end", b"a line\nhalf", b"\0" * 50, b"null", b"[" * 100_000, b"\n\n", b"{}\nhalf", b""]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_foreign_file_is_refused_and_stays_as_it_is(content, tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no journal of an evaluation"), OutcomeJournal.open(path, {"seed": 1}):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"null", b"[]", b"{}", b'{"unit": 3', b'"x"', b"[" * 100_000, b"\xff", b"3"])
def test_a_line_that_is_no_record_is_work_that_was_not_done(line, tmp_path):
    path = tmp_path / "journal.jsonl"
    with OutcomeJournal.open(path, {"seed": 1}) as journal:
        journal.append("a", {"x": 1})
    with path.open("ab") as file:
        file.write(line + b"\n")
    with OutcomeJournal.open(path, {"seed": 1}) as journal:
        journal.append("b", {"x": 2})
        assert journal.units == {"a": {"x": 1}, "b": {"x": 2}}
