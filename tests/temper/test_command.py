"""The command `temper`: help without heavy imports, one line for a mistake, the generated page of help."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import temper
from temper import help as pages
from temper.cli import app, main

ROOT = Path(__file__).parents[2]
COMMANDS = ("init", "harden", "evaluate", "advise", "compare", "promote", "study", "report", "params", "records")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS), ("report", "diff"), ("params", "schema")])
def test_help_of_every_command(command: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"])
    assert shown.exit_code == 0 and shown.output.startswith("Usage: ")
    assert all(name in shown.output for name in COMMANDS) or command


def test_help_and_the_package_import_nothing_heavy() -> None:
    heavy = "torch", "prefect", "mlflow", "dvc", "pandas", "numpy", "pydantic"
    code = (
        "import sys, temper; from temper.cli import main; assert main(['--help']) == 0; "
        f"print(sorted(set(sys.modules) & set({heavy!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hardn"], "No such command 'hardn'"),
        (["promote"], "Missing argument 'VERSION'"),
        (["harden", "--retries", "many"], "Invalid value for '--retries'"),
        (["evaluate", "--model", "a=b", "--data", "c", "--cascade", "slow"], "'slow' is not one of"),
        (["advise"], "Missing argument 'TEACHER...'"),
        (["report", "none.json"], "none.json: no such file"),
        (["params", "show", "threat.size"], "params.yaml: missing key 'threat.size'"),
        (["params", "show", "--preset", "none"], "--preset: unknown 'none' (temper params presets lists all)"),
        (["params", "check", "none.yaml"], "none.yaml: no such file"),
        (["params", "change"], "nothing to change, want --preset NAME, or --set KEY=VALUE such as --set seed=1"),
        (["init"], "Missing option '--images'"),
        (["init", "--images", "none"], "--images: none: no such folder"),
        (["params", "show", "--preset", "cifar_fast"], "--preset: unknown 'cifar_fast', perhaps cifar10_fast, "),
        (
            ["study", "none"],
            "no study 'none' (studies/ has balance, fast_at, guidance, scale, smooth, smooth_labels, ",
        ),
        (
            ["study"],
            "which study? (studies/ has balance, fast_at, guidance, scale, smooth, smooth_labels, ",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_with_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([*arguments, *(["--plain"] if arguments[0] == "study" else [])]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1 and said in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["init", "--images", "."],
        ["harden", "--set", "seed=1"],
        ["harden", "--preset", "digits"],
        ["study", "--plain"],
        ["study", "scale", "--list"],
        ["report"],
        ["records", "send"],
        ["records", "status"],
        ["records", "pages"],
        ["params", "check"],
        ["params", "show"],
        ["params", "show", "--preset", "digits"],
        ["params", "presets"],
        ["params", "change", "--set", "seed=1"],
        ["params", "change", "--preset", "digits"],
    ],
    ids=" ".join,
)
def test_what_needs_the_project_says_so_elsewhere(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    assert error.endswith(" (run from the project's root)\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_exit_status_of_a_real_process(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("temper")
    done = subprocess.run([command, "report"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: reports/robustness.json: no such file (run from the project's root)\n"
    model = ["evaluate", "--model", "one", "--data", "x.safetensors"]
    done = subprocess.run([command, *model], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --model: got 'one', want NAME=REF")


def test_completion_can_be_installed() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "--install-completion" in shown and "--show-completion" in shown
    command = Path(sys.executable).with_name("temper")
    environment = {"_TEMPER_COMPLETE": "complete_bash", "COMP_WORDS": "temper par", "COMP_CWORD": "1"}
    done = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["params"]


def test_parameters_are_shown_and_recipes_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["params", "show", "threat.norm"]) == 0 and capsys.readouterr().out == "linf\n"
    assert main(["params", "show", "threat"]) == 0
    assert capsys.readouterr().out == "norm: linf\nepsilon: 51/255\n"
    assert main(["params", "show"]) == 0 and capsys.readouterr().out == (ROOT / "params.yaml").read_text()
    assert main(["params", "show", "--preset", "cifar10_fast", "threat.epsilon"]) == 0
    assert capsys.readouterr().out == "8/255\n"
    assert main(["params", "presets"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
    assert main(["params", "check"]) == 0 and capsys.readouterr().out == "params.yaml: every section is valid\n"


def test_a_recipe_is_checked_with_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    recipes = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "presets").glob("*.yaml"))]
    assert any("base:" in Path(path).read_text() for path in recipes)
    assert main(["params", "check", *recipes]) == 0
    assert capsys.readouterr().out == "".join(f"{path}: every section is valid\n" for path in recipes)
    own = tmp_path / "mine.yaml"
    for text, said in (
        ("base: cifar10_fast\nseed: 3\n", None),
        ("base: nothing\n", f"{own}: base: unknown 'nothing' (allowed: "),
        ("base: digits\nthreat.size: 1\n", f"{own}: no key 'size' in threat (allowed: norm, epsilon)"),
        ("base: digits\nthreat.epsilon: 9\n", f"{own}: threat: got epsilon 9, want "),
    ):
        own.write_text(text)
        assert main(["params", "check", str(own)]) == (2 if said else 0)
        assert capsys.readouterr().err.startswith(f"error: {said}" if said else "")


def test_records_say_that_all_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "send"):
        assert main(["records", command, "--root", str(tmp_path)]) == 0
        assert capsys.readouterr().out == "all records are sent\n"


def test_help_of_report_has_what_show_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("FILE <path>", "--markdown", "--outcomes OUT", "diff"))


def test_records_say_what_is_unsent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "journals/run/report.1.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"event": "open", "time": 1, "stage": "report", "flow_run": null}\n')
    assert main(["records", "status", "--root", str(tmp_path)]) == 0
    assert "0 of 1 records sent" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"{temper.__version__}\n"
    assert f'version = "{temper.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_page_of_help_is_current() -> None:
    assert (ROOT / "docs/command.md").read_text() == pages.markdown(), "run make pages"
