"""Evaluations that are killed, split, joined and run again end in the same bytes."""

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.parts.outside_files import evaluate_here, save, start_evaluation
from tests.parts.pipeline_files import finish, partial_files

RESULTS = ("outcomes.safetensors", "evaluation.json", "gallery.safetensors", "robustness.json", "robustness.html")


@pytest.fixture
def fresh(evaluated: Path, tmp_path: Path) -> Path:
    """The same models and images, where nothing ran yet."""
    shutil.copytree(evaluated, tmp_path / "fresh", ignore=shutil.ignore_patterns("out"))
    return tmp_path / "fresh"


def journal(folder: Path) -> list[str]:
    path = folder / "out/journal.jsonl"
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def content(folder: Path) -> dict[str, bytes]:
    """Every file of the results but the journal, whose lines several processes write in any order."""
    # The dated page says when and how long, which is never the same twice, and its times are in a file of their own.
    other = ("journal.jsonl", ".journal.jsonl.claims", "robustness.dated.html", "latency.json")
    paths = [path for path in (folder / "out").rglob("*") if path.is_file() and path.name not in other]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def await_lines(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Waits until the journal has as many lines, or the process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and len(journal(folder)) < count:
        assert time.monotonic() < deadline, "the evaluation does not come to its units"
        time.sleep(0.002)


def kill_at(folder: Path, moments: list[tuple[int, float]]) -> int:
    """Kills an evaluation again and again: so many journal lines, then so many seconds. How often it was cut short."""
    killed = 0
    for lines, seconds in moments:
        process = start_evaluation(folder)
        await_lines(process, folder, lines)
        time.sleep(seconds)
        process.kill()
        killed += finish(process)[0] == -signal.SIGKILL
    return killed


def check_equal(folder: Path, evaluated: Path) -> None:
    """That the evaluation goes on, and ends as if it had never stopped."""
    evaluate_here(folder)
    assert journal(folder) == journal(evaluated) and content(folder) == content(evaluated)
    assert set(RESULTS) <= {path.name for path in (folder / "out").iterdir()} and not partial_files(folder)


def moments(seed: int, count: int, lines: int) -> list[tuple[int, float]]:
    """Moments spread over a run, in order: each in its own share of the journal, the last when all work is done."""
    draws = random.Random(seed)
    shares = [draws.uniform(index / count, (index + 1) / count) for index in range(count - 1)]
    return [*((round(share * lines), draws.uniform(0, 0.03)) for share in shares), (lines, draws.uniform(0, 0.3))]


@pytest.mark.slow
def test_killed_twice_and_run_again_equals_uninterrupted(fresh, evaluated):
    assert kill_at(fresh, moments(1, 3, len(journal(evaluated)))[:2]) == 2
    assert 1 < len(journal(fresh)) < len(journal(evaluated)) and "out/outcomes.safetensors" not in content(fresh)
    check_equal(fresh, evaluated)


@pytest.mark.slow
def test_killed_at_ten_random_moments_equals_uninterrupted(fresh, evaluated):
    assert len(journal(evaluated)) > 60
    assert kill_at(fresh, moments(2, 10, len(journal(evaluated)))) >= 9
    check_equal(fresh, evaluated)


@pytest.mark.slow
def test_stopped_says_how_to_go_on_and_a_finished_run_only_replays(fresh, evaluated):
    process = start_evaluation(fresh)
    await_lines(process, fresh, 20)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130 and err == "stopped; the same command continues\n"
    check_equal(fresh, evaluated)
    began = (fresh / "out/journal.jsonl").stat().st_mtime_ns
    check_equal(fresh, evaluated)
    assert (fresh / "out/journal.jsonl").stat().st_mtime_ns == began


def test_a_torn_last_line_is_done_again(fresh, evaluated):
    (fresh / "out").mkdir()
    lines = journal(evaluated)
    (fresh / "out/journal.jsonl").write_text("".join(lines[:1]) + lines[1][: len(lines[1]) // 2])
    check_equal(fresh, evaluated)


@pytest.mark.slow
def test_a_deleted_journal_starts_anew_and_takes_no_image_of_another_evaluation(fresh, evaluated):
    """The adversarial images of a weaker model's evaluation lie there still."""
    save(fresh / "one.safetensors", 5)
    assert finish(start_evaluation(fresh))[0] == 0
    save(fresh / "one.safetensors", 0)
    (fresh / "out/journal.jsonl").unlink()
    assert finish(start_evaluation(fresh))[0] == 0
    assert journal(fresh) == journal(evaluated)
    assert all(content(fresh)[name] == found for name, found in content(evaluated).items())


def run_shards(folder: Path, processes: int) -> list[subprocess.Popen[str]]:
    return [start_evaluation(folder, "--shard", f"{number}/{processes}") for number in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_shards_write_the_same_journal_and_the_same_results(fresh, evaluated, processes):
    ended = [finish(process) for process in run_shards(fresh, processes)]
    assert [(status, err) for status, _, err in ended] == [(0, "")] * processes
    assert journal(fresh)[0] == journal(evaluated)[0] and sorted(journal(fresh)) == sorted(journal(evaluated))
    assert content(fresh) == content(evaluated)
    assert "Report: out/robustness.dated.html" in ended[0][1]
    for number, (_, out, _) in enumerate(ended[1:], start=1):
        assert "Report" not in out and f"shard {number} of {processes}: done; shard 0 writes the results" in out


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_evaluations_into_one_folder_share_the_work(fresh, evaluated, killed):
    """Nobody told them of each other. What one was about when it was killed is done by the other."""
    first = start_evaluation(fresh)
    await_lines(first, fresh, 2)
    second = start_evaluation(fresh)
    if killed:
        await_lines(second, fresh, 12)
        first.kill()
        first.communicate()
    ended = [finish(process) for process in ([second] if killed else [first, second])]
    assert all((status, err) == (0, "") for status, _, err in ended)
    # No unit was done twice.
    assert sorted(journal(fresh)) == sorted(journal(evaluated)) and content(fresh) == content(evaluated)
    assert not partial_files(fresh)


@pytest.mark.slow
def test_a_shard_that_died_is_started_again(fresh, evaluated):
    first, second = run_shards(fresh, 2)
    await_lines(second, fresh, 12)
    second.kill()
    second.communicate()
    lines = len(journal(fresh))
    assert first.poll() is None and lines < len(journal(evaluated))
    again = start_evaluation(fresh, "--shard", "1/2")
    assert finish(again)[0] == finish(first)[0] == 0
    assert sorted(journal(fresh)) == sorted(journal(evaluated)) and content(fresh) == content(evaluated)
