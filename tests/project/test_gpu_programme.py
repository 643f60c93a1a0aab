"""The GPU programme: order, what is skipped, stopped, continued and brought home; and each kind at toy size."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import gpu_programme, run_preset
from benchmarks.gpu import advice, chain, smoke, step_speed, tally, transfer, weights
from benchmarks.gpu.arm import headline
from benchmarks.gpu.items import CHAINS, RECORDS, SCALE, SECONDS_PER_PASS, STUDIES, Item, programme, training
from benchmarks.gpu.passes import passes_of
from benchmarks.gpu.place import DONE, MORE_TO_DO, PUBLISHED, Place, toy_of, write_result
from benchmarks.run_preset import seconds_of
from components.foundation.storage import read_json, write_json, write_text
from components.numerics.tensor_files import read_tensors, write_tensors
from pipelines.parameters.presets import preset_values
from pipelines.studies.file import arm_params, read_study

ROOT = Path(__file__).resolve().parents[2]
# An experiment that counts its calls, and does in each what it is told: a status, or more to do.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
out, plan = Path(sys.argv[sys.argv.index("--out") + 1]), sys.argv[1].split(",")
count = out.with_suffix(".calls")
calls = len(count.read_text()) if count.exists() else 0
count.write_text("x" * (calls + 1))
told = plan[min(calls, len(plan) - 1)]
if told == "interrupted":
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
status = 0 if told == "wrong" else int(told)
if status == 0:
    out.write_text(json.dumps({"headline": "fine", "wrong": [told] * (told == "wrong"), "options": sys.argv[2:]}))
print("said", status)
raise SystemExit(status)
"""
# An experiment whose own child does not listen to signals.
DEAF = """
import subprocess, sys
code = "import signal, time; [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)]; "
code += "print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print("child", child.pid, flush=True)
child.wait()
"""


STARTED = """
import sys
sys.path.insert(0, ".")
from benchmarks import gpu_programme, run_preset
from components.foundation.process import as_process
gpu_programme.process.STOP_SEQUENCE = [(number, 1.0) for number, _ in gpu_programme.process.STOP_SEQUENCE]
gpu_programme.programme = lambda toy: [gpu_programme.Item("deaf", "a fake", 10, ("fake_experiment",), True)]
with as_process():
    sys.exit(gpu_programme.main(["--toy", "--work", {work!r}]))
"""


# What a GPU machine may lack; an import of it raises.
ABSENT = ["sklearn", "scipy", "pandas", "mlflow", "prefect", "dvc", "jsonschema", "timm", "pyautoattack"]
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); "


def fake(name: str, plan: str, seconds: int = 10, continues: bool = True) -> Item:
    return Item(name, "a fake", seconds, ("fake_experiment", plan), continues)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the programme with other experiments: its status."""
    (tmp_path / "fake_experiment.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def call(items: list[Item], *options: str) -> int:
        monkeypatch.setattr(gpu_programme, "programme", lambda toy: items)
        folders = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
        return gpu_programme.main(["--toy", *folders, *options])

    return call


def test_every_experiment_is_there_once_and_one_seed_comes_before_the_second():
    items = programme()
    assert len({item.id for item in items}) == len(items) > 100
    assert all(find_spec(item.command[0]) is not None and item.seconds > 0 for item in items)
    assert [item.id for item in items[:2]] == ["smoke", "step_speed"]
    rows: dict[str, list[int]] = {}
    for item in items[8:]:
        row, _, seed = item.id.rpartition(".")
        rows.setdefault(row, []).append(int(seed))
    assert all(seeds == sorted(seeds) for seeds in rows.values())
    seeds = [int(item.id.rpartition(".")[2]) for item in items[8:] if not item.id.startswith(("chain.", "paper."))]
    assert seeds == sorted(seeds)
    # The first of every row comes before the second of any.
    ids = [item.id for item in items[8:]]
    assert max(ids.index(f"{row}.0") for row in rows if f"{row}.0" in ids) < min(
        ids.index(f"{row}.1") for row in rows if f"{row}.1" in ids
    )
    # A machine is there for half an hour.
    assert all(item.seconds <= 1500 for item in items)
    assert [item.id for item in programme(toy=True)] == [
        item.id for item in items if not re.search(r"\.[12]$", item.id)
    ]


def study_arms(name: str, scale: str = SCALE) -> dict[str, dict[str, Any]]:
    """The parameters of every arm of a study, at the size for a GPU or another."""
    folder = ROOT / "studies" / name
    study = read_study(folder)
    return {arm: arm_params(ROOT, folder, study, scale, arm) for arm in study.names()}


def test_every_study_with_a_size_for_a_gpu_is_in_the_list():
    folders = [path.parent for path in (ROOT / "studies").glob("*/study.yaml")]
    assert set(STUDIES) == {folder.name for folder in folders if SCALE in read_study(folder).scales}


@pytest.mark.parametrize("name", ["balance", "student"])
def test_an_arm_of_students_fits_one_lease_with_its_teachers(name):
    """Which are trained once on each machine, by the arms that measure them."""
    seconds = {item.id: item.seconds for item in programme(toy=True)}
    teachers = seconds[f"{name}.clean_teacher.0"] + seconds[f"{name}.robust_teacher.0"]
    for arm, params in study_arms(name).items():
        role = arm if arm in weights.TEACHERS else "student"
        assert training(params, role) < seconds[f"{name}.{arm}.0"]
        assert seconds[f"{name}.{arm}.0"] + teachers * (role == "student") <= 1500


@pytest.mark.parametrize(("scale", "passes"), [("cpu", 13 * 16), (SCALE, 30 * 26)])
def test_students_of_the_balance_study_cost_the_same(scale, passes):
    """By the passes of all networks, which are counted; and what an arm is planned to take goes by them."""
    students = {arm: params for arm, params in study_arms("balance", scale).items() if arm not in weights.TEACHERS}
    counted = {arm: passes_of(params) for arm, params in students.items()}
    assert counted["both-two"] == passes and len(counted) == 14
    assert {arm: count for arm, count in counted.items() if abs(count / passes - 1) > 0.04} == {}
    # One epoch more or less is not nearer.
    epochs = {arm: params["distill_student"]["recipe"]["epochs"] for arm, params in students.items()}
    assert all(abs(count - passes) < count / epochs[arm] / 2 for arm, count in counted.items())
    planned = {arm: training(params, "student") for arm, params in students.items()}
    widths = {arm: params["distill_student"]["model"]["width"] for arm, params in students.items()}
    wanted = {arm: SECONDS_PER_PASS * widths[arm] ** 2 * count / 2 for arm, count in counted.items()}
    # The epochs in which a teacher does not learn yet are few.
    assert planned == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("scale", ["cpu", SCALE])
def test_the_balance_study_has_b_mtard_as_published(scale):
    published = {"temperature_rule": "step", "temperature_min": 1, "weight_rule": "loss", "robust_weight": 0.5}
    published |= {"label_weight": 0, "temperature_max": 10, "balance_decay": 0.1}
    for arm, params in study_arms("balance", scale).items():
        method = params["distill_student"]["method"]
        assert method["name"] != "b_mtard" or published.items() <= method.items(), arm


def test_what_knows_its_epochs_is_told_those_of_the_toy_size():
    arms = study_arms("balance")
    assert toy_of(arms["ciard"])["distill_student.method.epochs"] == 2
    assert toy_of(preset_values(ROOT, "cifar10_saad"))["distill_student.method.epochs"] == 2
    assert "distill_student.method.epochs" not in toy_of(arms["rslad"])


def test_the_time_box_is_the_published_recipe_but_shorter():
    whole, fast = preset_values(ROOT, "cifar10_paper"), preset_values(ROOT, CHAINS["paper"].preset)
    for stage, epochs in (("train_clean_teacher", 60), ("train_robust_teacher", 35), ("distill_student", 60)):
        assert fast[stage]["model"]["name"] == whole[stage]["model"]["name"]
        assert fast[stage]["recipe"]["epochs"] == epochs and fast[stage]["recipe"]["average"]["name"] == "ema"
    longer = {"balance_milestones": [5 * epoch for epoch in fast["distill_student"]["method"]["balance_milestones"]]}
    assert whole["distill_student"]["method"] == fast["distill_student"]["method"] | longer
    assert whole["train_robust_teacher"]["method"] == fast["train_robust_teacher"]["method"]
    assert fast["evaluate_attacks"] == whole["evaluate_attacks"] and fast["evaluate_attacks"]["cascade"] == "autoattack"


def test_records_have_one_teacher_and_the_methods_that_they_are_called_by():
    presets = {name: preset_values(ROOT, preset) for name, (preset, _) in RECORDS.items()}
    teacher = preset_values(ROOT, CHAINS["record"].preset)["train_robust_teacher"]
    for name, values in presets.items():
        assert values["train_robust_teacher"] == teacher
        assert values["distill_student"]["method"]["name"] == name.partition("_")[0]
    assert presets["adaad_igdm"]["distill_student"]["igdm"] and not presets["saad"]["distill_student"]["igdm"]


def test_the_table_of_the_paper_is_judged_row_by_row():
    published = read_json(PUBLISHED)["paper"]["evaluation"]
    rates = {"clean": 0.89, "pgd_sat": 0.5168, "pgd_trades": 0.5, "cw": 0.6}
    student = {"clean": {"value": rates["clean"]}, "cascade": [{"value": 0.9}, {"value": 0.48}]}
    student["attacks"] = {name: {"value": rates[name]} for name in ("pgd_sat", "pgd_trades", "cw")}
    rows = chain.table(student, published)
    assert {key: row["value"] for key, row in rows.items()} == rates | {"autoattack": 0.48}
    assert [chain.aim_of(key, row).met for key, row in rows.items()] == [True, True, False, True, True]
    assert rows["autoattack"]["published"] == 47.44


def test_the_advice_says_its_correlation_in_a_line():
    order = {"rho": 0.5, "low": -0.1, "high": 0.9, "n": 3}
    result = {"teachers": {"a": 1, "b": 2, "c": 3}, "correlations": {"order": order}}
    assert advice.headline(result) == "rank correlation of the order with students +0.50 (-0.10 to +0.90), 3 teachers"
    assert advice.headline(result | {"correlations": {"order": None}}) == "3 teachers that share a place"


def test_the_list_of_wheels_is_complete():
    """What a wheel needs is in the list, or is there wherever torch and torchvision are."""
    lines = (ROOT / "benchmarks/gpu/wheels.txt").read_text().splitlines()
    there = set(re.findall(r"[a-z0-9]+", lines[0]))
    versions = dict(line.split("==") for line in lines if not line.startswith("#"))
    # One package pins the exact version of another, so all are those that are tested together.
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert versions == {name: locked[name] for name in versions}
    listed = set(versions)
    wanted = {"pydantic", "typer", "pytest", "pyautoattack"}
    for name in listed:
        for text in requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.add(canonicalize_name(requirement.name))
    assert wanted - there == listed


@pytest.mark.slow
def test_on_a_machine_with_little_installed_the_gpu_tests_are_collected_and_smoke_starts():
    marked = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    settings = ["-q", "--collect-only", "-m", "gpu", "-c", os.devnull, "--rootdir", ".", "--import-mode=importlib"]
    collect = f"{WITHOUT}import pytest; sys.exit(pytest.main({[*settings, '-p', 'no:cacheprovider', *marked]}))"
    begin = f"{WITHOUT}sys.modules['pytest'] = None; import benchmarks.gpu.smoke"
    for program in (collect, begin):
        ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]


@pytest.mark.parametrize("name", smoke.TWICE)
def test_the_smoke_test_does_capture(name):
    for precision in ("float32", "bfloat16"):
        assert max(smoke.from_those_that_stand(name, smoke.CPU, precision).values()) < 1e-6
    assert set(smoke.TWICE) < set(smoke.CAPTURED) and not {"fgsm_mep", "adr"} & set(smoke.CAPTURED)
    with pytest.raises(RuntimeError, match="makes room for images"):
        smoke.captured("fgsm_mep", smoke.CPU, "float32")


def test_the_published_loop_runs_as_torch_comes_and_leaves_the_settings():
    def state() -> tuple[int, bool]:
        return torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32

    step_speed.Compute(device="cpu", threads=1, deterministic=True).prepare()
    seen = list[Any]()
    step_speed.as_torch_comes(lambda epoch: seen.append((epoch, *state())))(3)
    assert seen == [(3, 0, True)] and state() == (2, False)


def test_an_entrant_that_cannot_start_is_a_row_and_one_that_is_not_captured_is_in_the_headline():
    def refuses() -> Any:
        raise RuntimeError("no compiler\nand more")

    one = step_speed.entrants.Trained(torch.nn.Identity(), lambda epoch: None)
    ready, refused, _ = step_speed.started({"temper": lambda: one, "compiled": refuses}, torch.device("cpu"))
    assert list(ready) == ["temper"] and refused == {"compiled": "RuntimeError: no compiler"}
    part = {"entrants": {"temper": {"epoch_seconds": 3.0}}, "ratios": {"plain": {"median": 2.0}}}
    assert step_speed.told("pgd_at", part | {"not_captured": []}) == "pgd_at: epoch 3.0 s, 2.0 x the published loop"
    assert step_speed.told("pgd_at", part | {"not_captured": ["why"]}).endswith(" (NOT captured)")


def test_what_is_published_stands_beside_an_arm_of_the_list():
    published = read_json(PUBLISHED)
    first = {item.id for item in programme(toy=True)}
    assert all(f"{study}.{arm}.0" in first for study, arms in published.items() for arm in arms)
    assert all({"clean", "autoattack"} <= row.keys() for arms in published.values() for row in arms.values())
    best = {"value": 0.6}
    numbers = {"accuracies": {"best": {"clean": best, "worst_case": best}}, "verdicts": {"best": "trusted"}}
    said = headline(numbers, published["smooth_mep"]["b_smooth"])
    assert said == "clean 60.0%, worst case 60.0%, trusted (published: clean 63.8, AutoAttack 23.7)"


def arm_result(place: Place, name: str, attacked: float, pgd: float, verdict: str) -> None:
    best = {"worst_case": {"value": attacked}, "attacks": {"pgd_50": {"value": pgd}}}
    write_result(place.result(name), "", accuracies={"best": best}, verdicts={"best": verdict})


def test_rows_are_held_against_the_published_mean_over_their_seeds(tmp_path):
    place = Place(None, tmp_path / "work", tmp_path / "results", False)
    assert tally.lines(place) == []
    for seed, attacked in enumerate((0.470, 0.480)):
        arm_result(place, f"fast_at.n_fgsm.{seed}", attacked, attacked + 0.05, "trusted")
    arm_result(place, "fast_at.fgsm.0", 0.1, 0.37, "trusted")
    arm_result(place, "fast_at.fgsm.1", 0.1, 0.37, "suspect")
    head, *rest = tally.lines(place)
    assert head == "fast_at: 1 of 2 rows within 0.6 points of the published AutoAttack (aim: 8)"
    assert [" ".join(line.split()) for line in rest] == [
        "n_fgsm 47.5 (n = 2 seeds), published 47.8",
        "fgsm 10.0 (n = 2 seeds), published 37.3",
        "WRONG: fgsm, seed 0: PGD-50 is over 10 points above AutoAttack, but not suspect",
    ]


def test_the_aims_of_a_chain_are_held_against_the_student_as_they_say():
    values = {"student/cascade/apgd_ce": 0.1, "student/clean": 0.9, "student/pgd_50": 0.2, "student/worst_case": 0.48}
    accuracies = {name: {"value": value} for name, value in {**values, "robust_teacher/clean": 0.3}.items()}
    clean, attacked = (found["value"] for found in chain.shown(accuracies).values())
    assert [aim["met"] for aim in chain.aims(clean, attacked, 31.0)] == [True, True, False, False]


def test_converge_smooth_on_mep_is_the_published_recipe():
    folder = ROOT / "studies/smooth_mep"
    arms = {name: arm_params(ROOT, folder, read_study(folder), SCALE, name) for name in ("b_smooth", "fgsm_mep")}
    for params in arms.values():
        section, evaluation = params["train_robust_teacher"], params["evaluate_attacks"]
        assert params["threat"]["epsilon"] == "16/255" and evaluation["cascade"] == "autoattack"
        assert (section["method"]["name"], section["model"]["name"]) == ("fgsm_mep", "resnet18")
        assert section["schedule"] == {"name": "step", "milestones": [100, 105], "decay": 0.1}
        assert section["recipe"]["epochs"] == 110 and section["recipe"]["average"] is None
    assert arms["b_smooth"]["train_robust_teacher"]["smoothing"]["form"] == "batch"
    assert arms["fgsm_mep"]["train_robust_teacher"]["smoothing"] is None


def test_what_is_done_is_skipped_and_what_was_stopped_goes_on(run, tmp_path, capsys):
    items = [fake("one", "0"), fake("two", "3,3,0"), fake("three", "0")]
    assert run(items, "--seconds", "300") == MORE_TO_DO
    assert sorted(path.stem for path in (tmp_path / "results").glob("*.json")) == ["one", "three"]
    assert run(items, "--seconds", "300") == MORE_TO_DO
    assert run(items, "--seconds", "300") == DONE
    calls = {name: len((tmp_path / f"work/made/{name}.calls").read_text()) for name in ("one", "two", "three")}
    assert calls == {"one": 1, "two": 3, "three": 1}
    # What is deleted is measured anew.
    (tmp_path / "results/one.json").unlink()
    assert run(items, "--seconds", "300") == DONE
    assert len((tmp_path / "work/made/one.calls").read_text()) == 2
    assert "--stop-after" in read_json(tmp_path / "results/two.json")["options"]
    out = capsys.readouterr().out
    assert "2 of 3 experiments are done; left: 1\n" in out and "done   fine" in out


@pytest.mark.parametrize("toy", [True, False])
def test_the_list_says_what_each_is_for_and_at_full_size_how_long_it_takes(tmp_path, capsys, toy):
    assert gpu_programme.main(["--list", "--results", str(tmp_path), *["--toy"] * toy]) == 0
    out = capsys.readouterr().out
    assert "smoke" in out and "to do: every attack, method and stage on the GPU" in out
    assert ("GPU minutes)" in out) == ("240 s  to do" in out) == (not toy)


def test_what_fails_is_noted_and_comes_last(run, tmp_path, capsys):
    items = [fake("bad", "7,0"), fake("good", "0"), fake("late", "0")]
    assert run(items[:2], "--seconds", "300") == 1
    noted = read_json(tmp_path / "work/failed/bad.json")
    assert noted["status"] == 7 and noted["lines"] == ["said 7"]
    capsys.readouterr()
    assert run(items, "--seconds", "300") == DONE
    out = capsys.readouterr().out
    assert out.index("\nlate: ") < out.index("\nbad: ") and not (tmp_path / "work/failed/bad.json").exists()


def test_a_result_that_says_wrong_is_shown_and_ends_so(run, tmp_path, capsys):
    assert run([fake("bad", "0,wrong")], "--seconds", "300") == DONE
    (tmp_path / "results/bad.json").unlink()
    assert run([fake("bad", "0,wrong")], "--seconds", "300") == 1
    assert run([fake("bad", "0,wrong"), fake("good", "0")], "--seconds", "300") == 1
    assert "WRONG" in capsys.readouterr().out


def test_results_are_packed_after_each_experiment(run, tmp_path):
    """The last one here never ends: what came before is there already."""
    # Whichever of the two the signal means in this process by now.
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run([fake("one", "0"), fake("two", "interrupted")], "--seconds", "300", "--bring", str(tmp_path / "out"))
    assert set(read_json(tmp_path / "out/results.json")["results"]) == {"one.json"}


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_stopped_programme_leaves_no_process(number, tmp_path):
    """Neither its experiment nor what that has started, though the latter does not listen."""
    (tmp_path / "fake_experiment.py").write_text(DEAF)
    script = STARTED.format(work=str(tmp_path / "work"))
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        child = int(next(line for line in process.stdout if line.startswith("child ")).split()[1])
        process.send_signal(number)
        assert process.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
    # What outlives a killed programme gets ten seconds.
    for _ in range(200):
        if not Path(f"/proc/{child}").exists() or "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"process {child} is still there")


def test_nothing_begins_that_cannot_end(run, tmp_path, capsys):
    items = [fake("long", "0", seconds=1000, continues=False), fake("short", "0", continues=False)]
    assert run(items, "--seconds", "100") == MORE_TO_DO
    assert not (tmp_path / "results/long.json").exists() and (tmp_path / "results/short.json").exists()
    assert run(items, "--seconds", "40") == MORE_TO_DO
    assert "no time left" in capsys.readouterr().out


def test_a_result_survives_when_the_call_ends_before_it_is_kept(tmp_path):
    place = Place(None, tmp_path / "work", tmp_path / "results", True)
    write_result(place.made("one"), "fine", number=3)
    assert place.has("one") and read_json(place.result("one"))["number"] == 3
    assert {"device", "cuda", "versions", "commit"} <= read_json(place.result("one"))["machine"].keys()


def test_a_stage_counts_the_seconds_of_all_attempts_and_ends_once_for_a_code(tmp_path, monkeypatch):
    done, mark = tmp_path / "one.seconds.json", tmp_path / "calls"
    code = "import pathlib, sys, time; pathlib.Path('calls').open('a').write('x'); time.sleep(float(sys.argv[1]))"
    hangs, ends = [sys.executable, "-c", code, "60"], [sys.executable, "-c", code, "0"]
    assert not run_preset.run_once(hangs, tmp_path, done, time.monotonic() + 1)
    first = seconds_of(tmp_path, "one")
    assert first >= 1 and run_preset.run_once(ends, tmp_path, done, float("inf"))
    assert seconds_of(tmp_path, "one") > first and mark.read_text() == "xx"
    assert run_preset.run_once(hangs, tmp_path, done, float("inf")) and mark.read_text() == "xx"
    monkeypatch.setattr(run_preset, "sha256_of_code", lambda: "another")
    assert run_preset.run_once(ends, tmp_path, done, float("inf")) and mark.read_text() == "xxx"
    assert seconds_of(tmp_path, "one") < first


def test_results_and_weights_come_home(tmp_path):
    there = Place(None, tmp_path / "there", tmp_path / "there/results", True)
    run = tmp_path / "run"
    torch.manual_seed(0)
    tensors = {"weight": torch.randn(3, 4_000_000), "count": torch.tensor(5)}
    (run / "models").mkdir(parents=True)
    write_tensors(run / "models/student.safetensors", tensors, {"card": "a"})
    for path in weights.SMALL:
        (run / path.format("student")).parent.mkdir(parents=True, exist_ok=True)
        write_text(run / path.format("student"), "told")
    write_json(run / "distill_student.seconds.json", {"seconds": 90.0, "code": "a", "ended": True})
    weights.kept(run, weights.STUDENT, 2, there.work)
    write_result(there.result("one"), "fine")
    write_json(there.failure("two"), {"id": "two", "status": 1, "lines": ["why\n"]})
    out = tmp_path / "out"
    (line,) = transfer.packed(out, there)
    assert line.startswith("1 results and 3 files of weights")
    assert all(path.stat().st_size <= 16 * 2**20 for path in out.iterdir()) and len(list(out.iterdir())) <= 8
    assert transfer.packed(tmp_path / "again", there)[0].startswith("1 results and 0 files")
    (part,) = there.work.glob("weights/*/part.1")
    part.write_bytes(content := part.read_bytes())
    assert transfer.packed(tmp_path / "same", there)[0].startswith("1 results and 0 files")
    part.write_bytes(content + b"anew")
    assert transfer.packed(tmp_path / "anew", there)[0].startswith("1 results and 1 files")
    part.write_bytes(content)

    here = Place(None, tmp_path / "here", tmp_path / "here/results", True)
    lines = transfer.unpacked(out, here)
    assert lines[:2] == ["result one.json: fine", "failed two.json: why"] and here.has("one")
    other = tmp_path / "other"
    assert weights.restored(other, weights.STUDENT, 2, here.work)
    back, metadata = read_tensors(other / "models/student.safetensors")
    assert metadata == {"card": "a"} and torch.equal(back["weight"], tensors["weight"].bfloat16().float())
    assert torch.equal(back["count"], tensors["count"]) and (other / "curves/student.csv").read_text() == "told"
    assert seconds_of(other, "distill_student") == 90
    # A later call knows that these are no weights of this machine's own.
    assert weights.restored(other, weights.STUDENT, 2, here.work) and not weights.restored(run, "student", 2, here.work)
    (here.work / "weights/student.2/part.0").unlink()
    with pytest.raises(SystemExit, match="not all parts"):
        weights.restored(tmp_path / "third", weights.STUDENT, 2, here.work)
    with pytest.raises(SystemExit, match=r"student\.1 is neither on this disk"):
        weights.restored(tmp_path / "third", weights.STUDENT, 1, here.work)


def test_the_weights_of_another_chain_have_names_of_their_own_and_are_lent(tmp_path):
    there = Place(None, tmp_path / "there", tmp_path / "there/results", True)
    run, told = tmp_path / "run", {"seconds": 5.0, "code": "a", "ended": True}
    (run / "models").mkdir(parents=True)
    for path in weights.SMALL:
        (run / path.format("robust_teacher")).parent.mkdir(parents=True, exist_ok=True)
        write_text(run / path.format("robust_teacher"), "told")
    write_json(run / "train_robust_teacher.seconds.json", told)
    write_tensors(run / "models/robust_teacher.safetensors", {"weight": torch.full((3,), 1 / 3)}, "card")
    weights.kept(run, "robust_teacher", 0, there.work, "record")
    transfer.packed(tmp_path / "out", there)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"record-robust_teacher.0.part.0"}
    here = Place(None, tmp_path / "here", tmp_path / "here/results", True)
    transfer.unpacked(tmp_path / "out", here)
    lent = {"name": "robust_teacher", "seed": 0, "work": here.work}
    with pytest.raises(SystemExit, match=r"^robust_teacher\.0 is neither"):
        weights.lent(tmp_path / "student", tmp_path / "teacher", **lent, chain="chain")
    assert weights.lent(tmp_path / "student", tmp_path / "teacher", **lent, chain="record")
    back, card = read_tensors(tmp_path / "student/models/robust_teacher.safetensors")
    assert card == "card" and torch.equal(back["weight"], torch.full((3,), 1 / 3).bfloat16().float())
    # What is on this disk is taken as it is, and again when it has changed.
    assert not weights.lent(tmp_path / "student", run, **lent, chain="record")
    assert torch.equal(
        read_tensors(tmp_path / "student/models/robust_teacher.safetensors")[0]["weight"], torch.full((3,), 1 / 3)
    )


def each_kind() -> list[str]:
    """Every experiment of its own, and two arms of studies."""
    ids = [item.id for item in programme(toy=True)]
    alone = [one for one in ids if one.partition(".")[0] not in STUDIES]
    return [*alone, "fast_at.fgsm_rs.0", "guidance.hat-small.0"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_kind_at_toy_size_killed_twice(tmp_path):
    """Every experiment ends in a result, and those that were running when the process was killed end in the same."""
    hit, wanted = ["chain.student.0", "fast_at.fgsm_rs.0"], each_kind()
    for moment in hit:
        process = programme_at_toy_size(tmp_path / "killed", *wanted)
        assert process.stdout is not None
        assert any(line.startswith(f"{moment}:") for line in process.stdout)
        time.sleep(6)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = programme_at_toy_size(tmp_path / "killed", *wanted)
    out, _ = process.communicate()
    assert process.returncode == DONE, out[-3000:]
    results = {path.stem: read_json(path) for path in (tmp_path / "killed/toy-results").glob("*.json")}
    assert sorted(results) == sorted(wanted) and results["smoke"]["wrong"] == []
    # Of the others, times are all that is new in each run.
    same = [name for name in wanted if name.startswith(("chain.", *(f"{study}." for study in STUDIES)))]
    process = programme_at_toy_size(tmp_path / "whole", *same)
    process.communicate()
    assert set(hit) < set(same) and len(same) >= 5
    for name in same:
        whole = read_json(tmp_path / f"whole/toy-results/{name}.json")
        assert numbers(whole) == numbers(results[name])


# Arms of students: one that measures a teacher, the methods that `records` has not, and another rule. The others differ
# from these in numbers alone.
STUDENTS = ("balance.clean_teacher.0", "balance.ciard.0", "balance.mtard.0", "student.solved.0")


def is_rehearsed(name: str) -> bool:
    return name in STUDENTS or name.partition(".")[0] not in ("balance", "student")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_rest_of_the_list_at_toy_size(tmp_path):
    """With the experiments above it is all that the list executes: the first real run meets nothing new but the GPU."""
    rest = [item.id for item in programme(toy=True) if item.id not in each_kind() and is_rehearsed(item.id)]
    process = programme_at_toy_size(tmp_path, *rest)
    out, _ = process.communicate()
    assert process.returncode == DONE, out[-3000:]
    assert sorted(path.stem for path in (tmp_path / "toy-results").glob("*.json")) == sorted(rest)


def programme_at_toy_size(work: Path, *ids: str) -> subprocess.Popen[str]:
    command = [sys.executable, "benchmarks/gpu_programme.py", "--toy", "--seconds", "3500", "--work", str(work)]
    command += ["--only", *ids]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def numbers(result: dict[str, Any]) -> str:
    times = ("seconds", "minutes", "date", "machine")
    return json.dumps({key: value for key, value in result.items() if key not in times})
