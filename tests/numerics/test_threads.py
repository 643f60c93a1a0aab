"""How many threads compute: chosen once, kept for the run, and said where they are slow."""

import random
from pathlib import Path

import pytest
import torch

from components.foundation.errors import InputError
from components.foundation.params import Params
from components.numerics import threads
from components.numerics.compute import Compute
from components.numerics.threads import KEPT, chosen, fastest, keep, seconds_with, settled, unsettle, warning
from tests.parts.pipeline_files import hashes, make_project, run_here


@pytest.mark.parametrize("seed", range(40))
def test_the_fastest_number_is_chosen_and_never_more_than_there_are_cores(seed: int) -> None:
    rng = random.Random(seed)
    cores, free = rng.randint(1, 64), rng.randint(1, 64)

    def measure(count: int) -> float:
        # Faster with each up to what is free, so much that one more of many is worth it; more wait for each other.
        return 1 / count**3 if count <= min(cores, free) else 5.0

    number = fastest(cores, measure)
    assert 1 <= number <= cores
    tried = {1, cores, *(2**power for power in range(7) if 2**power < cores)}
    assert number == max(count for count in tried if count <= min(cores, free) or count == 1)


def test_a_lucky_moment_does_not_choose_more_threads() -> None:
    times = iter([1.0, 0.5, 9.0])
    assert fastest(2, lambda _: next(times)) == 1
    assert fastest(2, lambda count: 1.0 if count == 1 else 0.97) == 1, "a tie is the fewer's"


def never(_: int) -> int:
    pytest.fail("measured")


OPEN = Params({"seed": 1, "compute": {"device": "cpu", "threads": "auto"}})
NO_NUMBERS = ('"x"', "null", "1e400", "0", "-1", "1e8", "true")


def test_a_number_is_chosen_once_and_kept_until_the_run_is_over(tmp_path: Path) -> None:
    first = keep(OPEN, settled(OPEN, tmp_path, lambda _: 3), tmp_path)
    assert first.values == {"seed": 1, "compute": {"device": "cpu", "threads": 3}}
    assert OPEN.values["compute"]["threads"] == "auto"
    assert settled(OPEN, tmp_path, never).values == first.values
    assert keep(OPEN, settled(OPEN, tmp_path / "other", lambda _: 5), tmp_path).values == first.values, "first decides"
    unsettle(tmp_path)
    assert settled(OPEN, tmp_path, lambda _: 1).values["compute"]["threads"] == 1
    assert not list(tmp_path.iterdir()), "nothing is kept unless asked"
    fixed = Params({"compute": {"threads": 2}})
    assert settled(fixed, tmp_path, never) is fixed and keep(fixed, fixed, tmp_path) is fixed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "null", "3", *(f'{{"threads": {value}}}' for value in NO_NUMBERS)]
)
def test_a_file_that_holds_no_number_is_as_good_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / KEPT).write_text(content)
    params = settled(OPEN, tmp_path, lambda _: 2)
    assert keep(OPEN, params, tmp_path).values["compute"]["threads"] == 2
    assert settled(OPEN, tmp_path, never).values == params.values


@pytest.mark.parametrize(("processes", "want"), [(1, 1), (3, 3), (0, 1), ("x", 1), (None, 1)])
def test_processes_side_by_side_share_the_cores(processes: object, want: int, tmp_path: Path) -> None:
    asked: list[int] = []

    def choose(count: int) -> int:
        asked.append(count)
        return 1

    settled(Params({**OPEN.values, "parallel": {"processes": processes}}), tmp_path, choose)
    assert asked == [want] and chosen(10**6) == 1


def test_slow_threads_are_said_only_on_busy_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (9.0, 9.0, 9.0))
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1})
    assert "2 threads take 6.0 times as long as 1" in warning(2, lambda count: 6.0 if count == 2 else 1.0)
    assert warning(2, lambda count: 1 / count) == warning(1, lambda _: pytest.fail("measured")) == ""
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    assert warning(2, lambda _: pytest.fail("measured")) == ""


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "two", [], {}, "AUTO"], ids=repr)
def test_no_other_value_is_a_number_of_threads(value: object) -> None:
    told = Params({"compute": {"device": "cpu", "threads": value, "deterministic": True}})
    with pytest.raises(InputError, match=r"^params.yaml: compute.threads: got .*, want 1 to 1024, or auto$"):
        told.typed(Compute, "compute")


def test_a_measurement_leaves_threads_and_random_numbers_alone() -> None:
    before, state = torch.get_num_threads(), torch.get_rng_state()
    assert seconds_with(2) > 0
    assert torch.get_num_threads() == before and torch.equal(torch.get_rng_state(), state)
    assert Compute(device="cpu", threads=1, deterministic=True).warning == ""


def test_a_chosen_number_gives_the_numbers_that_the_same_fixed_one_gives(tmp_path: Path) -> None:
    stages, found = ("fetch_data", "normalize_data", "train_clean_teacher"), []
    for name, count in (("fixed", 1), ("chosen", "auto")):
        folder = make_project(tmp_path / name, **{"compute.threads": count})
        (folder / ".temper").mkdir()
        (folder / ".temper" / KEPT).write_text('{"threads": 1}')
        run_here(folder, *stages)
        found.append(hashes(folder, *stages))
    assert found[0] == found[1]
    assert (tmp_path / "chosen/.temper" / KEPT).exists(), "the run is not over"
    journal = (tmp_path / "chosen/.temper/journals").rglob("train_clean_teacher.jsonl")
    assert "auto is 1 in this run" in next(iter(journal)).read_text()
