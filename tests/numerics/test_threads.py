"""How many threads compute: chosen once, kept for the run, and said where they are slow."""

import os
import random
from pathlib import Path

import pytest
import torch

from components.foundation.errors import InputError
from components.foundation.params import Params
from components.numerics import threads
from components.numerics.compute import Compute
from components.numerics.threads import chosen, fastest, forget, keep, seconds_with, settled, warning
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


def test_a_number_is_chosen_once_and_kept_until_the_work_is_over(tmp_path: Path) -> None:
    file = tmp_path / "threads" / "stage.json"
    first = keep(OPEN, settled(OPEN, file, lambda _: 3), file)
    assert first.values == {"seed": 1, "compute": {"device": "cpu", "threads": 3}}
    assert OPEN.values["compute"]["threads"] == "auto"
    assert settled(OPEN, file, never).values == first.values
    late = settled(OPEN, tmp_path / "other.json", lambda _: 5)
    assert keep(OPEN, late, file).values == first.values, "the first decides"
    forget(file)
    assert settled(OPEN, file, lambda _: 1).values["compute"]["threads"] == 1
    assert not list(file.parent.iterdir()), "nothing is kept unless asked"
    fixed = Params({"compute": {"threads": 2}})
    assert settled(fixed, file, never) is fixed and keep(fixed, fixed, file) is fixed
    assert not list(file.parent.iterdir())


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "null", "3", *(f'{{"threads": {value}}}' for value in NO_NUMBERS)]
)
def test_a_file_that_holds_no_number_is_as_good_as_none(content: str, tmp_path: Path) -> None:
    file = tmp_path / "stage.json"
    file.write_text(content)
    params = settled(OPEN, file, lambda _: 2)
    assert keep(OPEN, params, file).values["compute"]["threads"] == 2
    assert settled(OPEN, file, never).values == params.values


@pytest.mark.parametrize(("processes", "want"), [(1, 1), (3, 3), (0, 1), ("x", 1), (None, 1)])
def test_processes_side_by_side_share_the_cores(processes: object, want: int, tmp_path: Path) -> None:
    asked: list[int] = []

    def choose(count: int) -> int:
        asked.append(count)
        return 1

    settled(Params({**OPEN.values, "parallel": {"processes": processes}}), tmp_path / "file.json", choose)
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
        for stage in stages:
            kept = folder / ".temper/threads" / f"{stage}.json"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text('{"threads": 1}')
        run_here(folder, *stages)
        found.append(hashes(folder, *stages))
    assert found[0] == found[1]
    assert not list((tmp_path / "chosen/.temper/threads").iterdir()), "each stage is over"
    journal = next((tmp_path / "chosen/.temper/journals").rglob("train_clean_teacher.jsonl")).read_text()
    assert ("auto is 1 here" in journal) == (len(os.sched_getaffinity(0)) > 1) and '"threads": 1' in journal
