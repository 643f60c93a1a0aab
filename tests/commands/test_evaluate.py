"""`temper evaluate`: what it writes, that defaults are valid, and one line for every mistake."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from components.attacks import ATTACKS as MEMBERS
from components.commands.evaluate import images_of
from components.commands.evaluate import main as evaluate
from components.commands.evaluate_options import SECTION as KEY
from components.commands.evaluate_options import (
    default_section,
    foreign_of,
    params_of,
    shard_of,
    threats_of,
)
from components.evaluation.adversarials import Adversarials
from components.evaluation.campaign import Shard
from components.evaluation.cascades import specs as cascade_specs
from components.evaluation.one_attack import TestSet
from components.foundation.errors import InputError
from components.foundation.params import Params, Ratio, member
from components.foundation.process import as_process
from components.foundation.storage import read_json, sha256
from components.numerics.cost import PassCounter
from components.numerics.tensor_files import read_tensors, write_tensors
from components.stages.tasks import read_suite
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from tests.parts.outside_files import (
    CLASSES,
    PARAMS,
    SECTION,
    arguments,
    digits,
    options_of,
    save,
    write_images,
)
from tests.parts.streamed_files import write_folder

ATTACKS = ("fgsm", "pgd")


def main(arguments: Sequence[str]) -> None:
    evaluate(options_of(arguments))


@pytest.fixture(autouse=True)
def settings_put_back() -> Iterator[None]:
    """What an evaluation sets for its process."""
    deterministic = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(deterministic)


@pytest.fixture
def case(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder."""
    shutil.copytree(evaluated, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


# --- results ---


def test_it_writes_what_the_pipeline_writes(evaluated):
    out = evaluated / "out"
    outcomes, _ = read_tensors(out / "outcomes.safetensors")
    cascade = ("cascade/apgd", "cascade/square", "cascade/apgd@13/255", "cascade/square@13/255")
    tasks = ("clean", *ATTACKS, *cascade, "worst_case", "curve/0", "curve/1", "curve/2", "grid/fgsm/0", "grid/bim/0")
    models = ("one", "two")
    each = {f"{model}/{task}" for model in models for task in tasks}
    transfer = {f"transfer/fgsm/{source}/{target}" for source in models for target in models}
    assert set(outcomes) == {"labels"} | each | transfer
    assert torch.equal(outcomes["labels"], digits()[1][1400:1460])
    for model in models:
        parts = [outcomes[f"{model}/{task}"] for task in ("clean", *ATTACKS, *cascade)]
        assert torch.equal(outcomes[f"{model}/worst_case"], torch.stack(parts).amin(0))
        assert torch.equal(outcomes[f"{model}/clean"], outcomes[f"{model}/curve/0"])
        # A success at a smaller radius is one at the larger.
        assert (outcomes[f"{model}/cascade/apgd"] <= outcomes[f"{model}/cascade/square@13/255"]).all()
    evaluation = read_json(out / "evaluation.json")
    assert evaluation["schema"] == "temper/evaluation/2" and evaluation["classes"] == list(CLASSES)
    assert (evaluation["dataset"], evaluation["num_images"]) == ("images", 60)
    for model in models:
        card = evaluation["models"][model]
        assert (card["file"], card["sha256"]) == (f"{model}.safetensors", sha256(evaluated / f"{model}.safetensors"))
        assert (card["of"], card["checkpoint"], card["epoch"]) == (model, "best", 3)
    assert evaluation["params"] == json.loads(json.dumps(PARAMS)) and evaluation["seed"] == 0


def test_the_report_says_what_the_outcomes_say(evaluated):
    out = evaluated / "out"
    outcomes, _ = read_tensors(out / "outcomes.safetensors")
    document = read_json(out / "robustness.json")
    for model in ("one", "two"):
        found = document["models"][model]
        assert found["clean"]["count"] == int(outcomes[f"{model}/clean"].sum())
        assert found["worst_case"]["count"] == int(outcomes[f"{model}/worst_case"].sum())
        assert document["verdict"][model]["status"] in ("trusted", "suspect", "broken")
    assert document["data"]["num_images"] == 60 and document["training"] == {}
    page = (out / "robustness.html").read_text()
    assert page.startswith("<!doctype html>") and "one" in page and "<script src" not in page


def test_saved_images_fool_the_model_that_they_are_said_to_fool(evaluated):
    from components.models.parts.model_file import load_model

    out = evaluated / "out"
    evaluation, (outcomes, _) = read_json(out / "evaluation.json"), read_tensors(out / "outcomes.safetensors")
    tensors, _ = read_tensors(evaluated / "images.safetensors")
    test = TestSet(tensors["images"], tensors["labels"], 60)
    (working,) = out.glob("adversarial.*")
    for model in ("one", "two"):
        network, _ = load_model(evaluated / f"{model}.safetensors")
        claimed = outcomes[f"{model}/worst_case"] == 0
        kept = Adversarials(working / f"{model}.npy", test, "float32").read(torch.arange(60))
        with torch.no_grad():
            assert torch.equal(network(kept).argmax(1) != test.labels, claimed)
        assert evaluation["evidence"][model]["rescored"]["fooled"] == int(claimed.sum()) > 20
        # The file for others is of 8-bit images inside the ball.
        path = out / "adversarial" / f"{model}.npy"
        file = Adversarials(path, test, "uint8").read(torch.arange(60))
        assert evaluation["adversarial"] == {
            "dtype": "uint8",
            "files": {name: f"out/adversarial/{name}.npy" for name in ("one", "two")},
        }
        assert (file - test.images / 255).abs().max() <= 26 / 255 + 1e-6


def test_a_float_search_and_a_file_of_floats(case, capsys):
    images, labels = digits()
    write_tensors("floats.safetensors", {"images": images[1400:1500] / 255, "labels": labels[1400:1500]})
    given = ["--model", "one=one.safetensors", "--data", "floats.safetensors", "--params", "small.yaml"]
    main([*given, "--precision", "bfloat16", "--images", "40", "--out", "deep/er"])
    evaluation = read_json("deep/er/evaluation.json")
    assert evaluation["num_images"] == 40 and evaluation["adversarial"]["dtype"] == "float32"
    parity = evaluation["precision"]["parity"]["one"]
    # The images that are not attacked serve to check the search on.
    assert parity["n"] == 60 and parity["passed"]
    assert "Report: deep/er/robustness.dated.html" in capsys.readouterr().out


@pytest.mark.slow
def test_a_state_dict_and_a_program_beside_our_file(case, capsys):
    from safetensors.torch import save_file

    from tests.parts.outside_files import ARCHITECTURE, network, pixels

    state = {f"module.{n}": t for n, t in network().state_dict().items() if "normalize" not in n}
    save_file(state, "theirs.safetensors")
    torch.export.save(torch.export.export(network(), (pixels(7),)), "program.pt2")
    files = {"mine": "one.safetensors", "state": "theirs.safetensors", "program": "program.pt2"}
    models = [part for name, file in files.items() for part in ("--model", f"{name}={file}")]
    told = ["--architecture", f"state={json.dumps(ARCHITECTURE)}", "--normalization", "state=0.3:0.4"]
    main([*models, *told, "--data", "images.safetensors", "--params", "small.yaml", "--out", "three"])
    outcomes, _ = read_tensors("three/outcomes.safetensors")
    for name, outcome in outcomes.items():
        if name.startswith("mine/"):
            for other in ("state", "program"):
                # The same network three times: float rounding may move an image at the edge.
                assert (outcomes[name.replace("mine", other)] != outcome).sum() <= 1, (name, other)
    assert "program" in capsys.readouterr().out


def test_without_a_params_file_the_defaults_follow_the_threat(case, capsys):
    given = "--model one=one.safetensors --data images.safetensors --threat linf:26/255 --cascade none --images 20"
    main([*given.split(), "--threads", "1", "--batch-size", "20"])
    evaluation = read_json("evaluation/outside/evaluation.json")
    assert evaluation["threat"] == {"norm": "linf", "epsilon": "26/255"} and evaluation["num_images"] == 20
    assert evaluation["cascade"]["name"] == "none"
    assert evaluation["curve"]["epsilons"] == ["0", "13/510", "13/255", "26/255", "13/85", "52/255", "104/255"]
    assert evaluation["grid"]["epsilons"] == ["13/510", "13/255", "26/255", "52/255"]
    assert evaluation["attacks"]["pgd"].startswith("Pgd(steps=20, step_size=13/510, start='uniform'")
    assert "Report: evaluation/outside/robustness.dated.html" in capsys.readouterr().out


def test_only_the_first_shard_writes(case, capsys):
    journal = Path("out/journal.jsonl").read_bytes()
    for path in list(Path("out").iterdir()):
        if path.name.startswith(("outcomes", "evaluation", "robustness", "gallery")):
            path.unlink()
    main(arguments("--shard", "1/2"))
    assert not Path("out/outcomes.safetensors").exists() and "shard 1 of 2: done" in capsys.readouterr().out
    main(arguments("--shard", "0/2"))
    assert Path("out/outcomes.safetensors").exists() and Path("out/journal.jsonl").read_bytes() == journal


def test_records_for_mlflow_are_kept(case, monkeypatch):
    monkeypatch.setenv("TEMPER_TRACKING", "later")
    main(arguments("--track"))
    (path,) = (case / ".temper/journals").glob("*/evaluate*.jsonl")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events][:2] == ["open", "params"] and events[-1]["status"] == "FINISHED"
    tags = next(event["tags"] for event in events if event["event"] == "tags")
    assert set(tags) == {"verdict.one", "verdict.two"}
    headline = next(event["metrics"] for event in events if event["event"] == "headline")
    assert "one.worst_case" in headline
    assert sum(event["event"] == "artifact" for event in events) == 4


# --- stale journals ---


def change_params(**section: Any) -> None:
    Path("small.yaml").write_text(yaml.safe_dump(PARAMS | {"evaluate_attacks": SECTION | section}))


def change_version() -> None:
    lines = Path("out/journal.jsonl").read_text().splitlines(keepends=True)
    head = json.loads(lines[0])
    head["key"]["code"] = "of another version"
    Path("out/journal.jsonl").write_text(json.dumps(head, separators=(",", ":")) + "\n" + "".join(lines[1:]))


@pytest.mark.parametrize(
    ("key", "change", "more"),
    [
        ("models", lambda: save(Path("one.safetensors"), 2), []),
        ("data", lambda: write_images(Path("images.safetensors"), 59), []),
        ("threat", None, ["--threat", "linf:25/255", "--threat", "linf:13/255"]),
        ("attacks", lambda: change_params(cascade_epsilons=["12/255"]), []),
        ("attacks", None, ["--cascade", "none"]),
        ("seed", None, ["--seed", "1"]),
        ("batch_size", None, ["--batch-size", "30"]),
        ("search", lambda: held_out_given(), ["--precision", "bfloat16"]),
        ("code", change_version, []),
    ],
)
def test_a_journal_of_anything_else_is_refused_and_left_alone(case, key, change: Callable[[], Any] | None, more):
    if change:
        change()
    before = Path("out/journal.jsonl").read_bytes()
    results = {path: path.read_bytes() for path in Path("out").rglob("*.*") if path.is_file()}
    with pytest.raises(InputError) as refused:
        main(arguments(*more))
    text = str(refused.value)
    assert text.startswith(f"out/journal.jsonl: a journal of another evaluation: {key} was ") and "\n" not in text
    assert text.endswith("; delete it to start anew") and Path("out/journal.jsonl").read_bytes() == before
    assert {path: path.read_bytes() for path in Path("out").rglob("*.*") if path.is_file()} == results


def held_out_given() -> None:
    """Other images to check a search on, so that none of those attacked are held back for it."""
    images, labels = (part[:40] for part in digits())
    write_images(Path("images.safetensors"), 60, **{"held_out.images": images, "held_out.labels": labels})


# --- mistakes ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model", "one"], "--model: got 'one', want NAME=REF with a name of letters, digits, '.', '_' and '-'"),
        (["--model", "a/b=one.safetensors"], "--model: got 'a/b=one.safetensors', want NAME=REF"),
        (["--model", "one=none.safetensors"], "none.safetensors: no such file"),
        (["--model", "one=none.pt"], "none.pt: a .pt file is a pickle, and pickles are not read (save its state dict"),
        (["--threat", "8/255"], "--threat: got '8/255', want NORM:EPSILON, such as linf:8/255, l2:1/2 or l1:12"),
        (["--threat", "linf:8"], "--threat linf:8: got epsilon 8, want a share of the pixel range [0, 1]"),
        (["--threat", "l7:8/255"], "--threat l7:8/255.norm: unknown 'l7' (allowed: l1, l2, linf)"),
        (["--threat", "linf:0"], "--threat: got linf:0, want a radius above 0 to attack within"),
        (["--threat", "linf:1/9", "--threat", "l2:1"], "--threat: got linf:1/9 and l2:1, want one norm in one run"),
        (["--threat", "linf:2/9", "--threat", "linf:4/18"], "--threat: got linf:4/18 twice"),
        (
            ["--threat", "linf:1/9", "--threat", "linf:1/8", "--cascade", "none"],
            "--threat: got linf:1/8 beside --cascade",
        ),
        (["--shard", "2/2"], "--shard: got '2/2', want I/N with 0 <= I < N <= 1000, such as 0/4"),
        (["--images", "0"], "--images: got 0, want at least 1"),
        (["--batch-size", "0"], "small.yaml: evaluate_attacks.batch_size: got 0, want 1 to 1048576, or auto"),
        (["--seed", "-1"], "small.yaml: seed: got -1, want at least 0"),
        (["--threads", "0"], "small.yaml: compute.threads: got 0, want 1 to 1024, or auto"),
        (["--params", "none.yaml"], "none.yaml: no such file"),
        (["--data", "none.safetensors"], "none.safetensors: no such file"),
        (["--data", "imagenet"], "--data.name: unknown 'imagenet' (allowed: cifar10"),
        (["--data", "digits"], "--data: digits has no official test split, so nobody knows which images"),
        (["--data", "{name: [}"], "--data: not readable as YAML: "),
        (["--architecture", "three={name: small_cnn}"], "--architecture: no model 'three' (given: one)"),
        (
            ["--architecture", "small_cnn"],
            "--architecture: got 'small_cnn', want a mapping such as {name: resnet18, …}",
        ),
        (["--normalization", "0.5"], "--normalization: got '0.5', want identity or MEAN:STD"),
        (["--normalization", "0.5:0"], "--normalization: got '0.5:0', want identity or MEAN:STD"),
        (["--normalization", "nan:1"], "--normalization: got 'nan:1', want identity or MEAN:STD"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_before_any_work(case, given, message):
    base = {"--model": "one=one.safetensors", "--data": "images.safetensors", "--params": "small.yaml", "--out": "new"}
    kept = [part for name, value in base.items() if name not in given for part in (name, value)]
    with pytest.raises(InputError) as refused:
        main([*kept, *given])
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
    assert not Path("new/outcomes.safetensors").exists()


def test_no_threat_and_no_file_that_names_one(case):
    with pytest.raises(InputError, match="--threat: missing, say what the attacker may change, such as linf:8/255"):
        main(["--model", "one=one.safetensors", "--data", "images.safetensors"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--threat", "linf"], "--threat: got 'linf', want NORM:EPSILON"),
        ([], "--threat: missing, say what the attacker may change"),
        (["--threat", "linf:8/255", "--images", "0"], "--images: got 0, want at least 1"),
        (
            ["--threat", "linf:8/255", "--batch-size", "0"],
            "command line: evaluate_attacks.batch_size: got 0, want 1 to 1048576, or auto",
        ),
    ],
)
def test_options_are_checked_before_images_are_loaded_or_downloaded(case, monkeypatch, given, message):
    monkeypatch.setattr("components.commands.evaluate.images_of", lambda data: pytest.fail(f"{data} is loaded"))
    with pytest.raises(InputError, match=re.escape(message)):
        main(["--model", "one=one.safetensors", "--data", "cifar10", *given])


def test_two_models_of_one_name(case):
    with pytest.raises(InputError, match="--model: two models called 'one'"):
        main(arguments(models=("one", "one")))


@pytest.mark.parametrize(("name", "speaker"), [("", ""), ("report", "report: ")])
def test_a_mistake_ends_the_process_with_status_2(capsys, name, speaker):
    with pytest.raises(SystemExit) as end, as_process(name):
        raise InputError("--threat: no")
    assert end.value.code == 2 and capsys.readouterr().err == f"{speaker}error: --threat: no\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there(case):
    with pytest.raises(InputError, match="no GPU is visible here"):
        main(arguments("--device", "cuda"))


# --- options ---


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", "8/255"), ("linf", "1/2"), ("linf", "1"), ("l2", "1/2"), ("l2", "3"), ("l1", "12")]
)
@pytest.mark.parametrize("cascade", ["quick", "autoattack", "none"])
def test_defaults_are_valid_at_every_threat(norm, epsilon, cascade):
    threat = threats_of([f"{norm}:{epsilon}"])[0]
    section = default_section(threat, True) | {"cascade": cascade}
    compute = {"device": "cpu", "threads": 1, "deterministic": True}
    values = {"seed": 0, "compute": compute, "threat": {"norm": norm, "epsilon": epsilon}, KEY: section}
    suite = read_suite(Params(values), KEY, 10)
    curve = [Fraction(radius) for radius in section["curve_epsilons"]]
    assert curve == sorted(set(curve)) and threat.epsilon in curve and curve[0] == 0
    assert norm != "linf" or max(curve) <= 1
    assert suite.cascade_name == cascade and len(suite.full_tasks()) > 15
    assert {task.threat for task in suite.short_tasks()} == {threat}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("epsilon", ["1/255", "8/255", "51/255", "1/4", "1/2", "1", "3", "12", "300"])
def test_side_tables_cost_no_more_than_the_cascade(norm, epsilon):
    """Passes of a model that withstands everything, whose images all meet every attack of the cascade."""
    if norm == "linf" and Fraction(epsilon) > 1:
        pytest.skip("no such radius")
    threat = threats_of([f"{norm}:{epsilon}"])[0]
    section, model = default_section(threat, False), nn.Sequential(nn.Flatten(), nn.Linear(4, 10))
    cascade = cascade_specs(section["cascade"], 10, threat.norm).values()
    counter, images, labels = PassCounter(model), torch.full((1, 1, 2, 2), 0.5), torch.zeros(1).long()
    for spec in section["grid"]["attacks"].values():
        for radius in section["grid"]["epsilons"]:
            attack = member(MEMBERS, spec, "attack")
            attack(model, images, labels, threat.at(Ratio(radius)), torch.Generator().manual_seed(0))
    asked = sum(spec["steps"] * spec["restarts"] * max(1, spec["targets"]) for spec in cascade)
    assert 10 <= counter.take()["forward"] <= asked
    counter.close()


def test_the_usual_threat_has_the_usual_radii():
    section = default_section(Threat(norm=Linf(), epsilon=threats_of(["linf:8/255"])[0].epsilon), False)
    assert [Fraction(e) * 255 for e in section["grid"]["epsilons"]] == [2, 4, 8, 16]
    assert [Fraction(e) * 255 for e in section["curve_epsilons"]] == [0, 2, 4, 8, 12, 16, 32]
    assert section["attacks"]["pgd"]["step_size"] == "2/255" and section["transfer_attacks"] == []


def test_the_command_line_wins_over_the_file(case):
    said = "--cascade quick --seed 7 --threads 3 --device auto --batch-size 9 --threat l2:1 --threat l2:1/2"
    given = options_of(["--model", "m=f", "--data", "d", "--params", "small.yaml", *said.split()])
    values = params_of(given, uint8=True).values
    assert values["threat"] == {"norm": "l2", "epsilon": "1"} and values["seed"] == 7
    assert values["compute"] == {"device": "auto", "threads": 3, "deterministic": True}
    assert values[KEY] == SECTION | {"cascade": "quick", "cascade_epsilons": ["1/2"], "batch_size": 9}
    assert params_of(given, uint8=False).values[KEY]["adversarial"] == "float32"
    given = replace(given, adversarial="uint8")
    with pytest.raises(InputError, match="--adversarial: got uint8 for images that are no 8-bit ones, want float32"):
        params_of(given, uint8=False)


def test_what_is_said_of_state_dicts_is_of_all_or_of_one():
    of_all = ["--architecture", "{name: resnet18, width: 1}", "--normalization", "0.1,0.2,0.3:1,2,3"]
    of_one = ["--architecture", "b={name: resnet56}", "--normalization", "a=identity"]
    given = options_of(["--model", "a=f", "--model", "b=g", "--data", "d", *of_all, *of_one])
    found = foreign_of(given)
    assert found["a"].architecture == {"name": "resnet18", "width": 1} and found["a"].normalization == ((), ())
    assert found["b"].architecture == {"name": "resnet56"}
    assert found["b"].normalization == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_shards_are_counted_from_zero():
    assert shard_of("0/1") == Shard(0, 1) and shard_of("3/4") == Shard(3, 4)


def test_a_data_set_of_the_table_gives_its_official_test_split(tmp_path, monkeypatch):
    from components.data.splits import LabelledImages, Source
    from components.datasets import DATASETS

    images, labels = digits()
    parts = LabelledImages(images[:90], labels[:90]), LabelledImages(images[90:150], labels[90:150])

    class Known:
        def load(self, root: Path) -> Source:
            assert root == tmp_path
            return Source(*parts, CLASSES)

    monkeypatch.setenv("TEMPER_DATA", str(tmp_path))
    monkeypatch.setitem(DATASETS, "cifar10", Known)
    monkeypatch.setattr("components.commands.evaluate.member", lambda table, spec, where: table[spec["name"]]())
    for data in ("cifar10", "{name: cifar10}"):
        found = images_of(data)
        assert (found.name, found.classes) == ("cifar10", CLASSES) and torch.equal(found.test.images, images[90:150])
        assert found.held_out is not None and len(found.held_out) == 90


def test_images_of_a_streamed_folder_are_those_of_the_folder(tmp_path):
    folder = write_folder(tmp_path, train=6, val=6)
    fields = f"name: image_folder, folder: '{folder}', image_size: 8, color: rgb, resize: crop"
    here, there = (images_of(f"{{{fields}, streamed: {how}}}") for how in ("null", "{random_crop: 0.5}"))
    assert torch.equal(here.test.images, there.test.images) and len(there.test) == 6
    assert here.held_out is not None and there.held_out is None  # the train split stays in its files


def test_criteria_give_a_decision_on_one_of_the_models(case, capsys):
    main(arguments("--criteria", "{model: two, worst_case: 0.99}"))
    decision = read_json("out/robustness.json")["decision"]
    assert (decision["model"], decision["answer"]) == ("two", "NO-GO") and "NO-GO" in capsys.readouterr().out
