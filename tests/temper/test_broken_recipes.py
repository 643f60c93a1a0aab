"""Files of recipes that hold anything: one line that names the file, and nothing is changed."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("ruamel.yaml")

from temper.cli import main

ROOT = Path(__file__).parents[2]
GOOD = (ROOT / "params.yaml").read_bytes()
CONTENTS = {
    "utf-16": GOOD.decode().encode("utf-16"),
    "latin-1": "# é\n".encode("latin-1") + GOOD,
    "bytes": bytes(range(256)),
    "list": b"- a\n",
    "number": b"3",
    "empty": b"",
    "open": b"a: [1",
    "twice": GOOD + b"seed: 1\n",
    "two documents": GOOD + b"---\nseed: 1\n",
    "null byte": GOOD + b"\0",
    "object": GOOD + b"x: !!python/object/apply:os.system [true]\n",
    "deep": b"a: " + b"[" * 5000,
    "aliases": b"a: &a [*a]\n" + GOOD,
}
BASES = ("3", "[a]", "{a: 1}", "null", "1.5", "true", "[[]]", "''")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    (tmp_path / "params.yaml").write_bytes(GOOD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    before = Path("params.yaml").read_bytes()
    assert main(arguments) == 2
    _, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and error[:-1].isprintable()
    assert Path("params.yaml").read_bytes() == before
    return error


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_broken_params_yaml_is_named(kind: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "params.yaml").write_bytes(CONTENTS[kind])
    for arguments in (["show", "seed"], ["check"], ["change", "--set", "seed=3"]):
        assert "params.yaml: " in refused(["params", *arguments], capsys)


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_broken_preset_is_named(kind: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "presets/mine.yaml").write_bytes(CONTENTS[kind])
    for arguments in (["show", "--preset", "mine"], ["change", "--preset", "mine"]):
        assert "presets/mine.yaml: " in refused(["params", *arguments], capsys)
    # Whose first line can be read is in the list.
    assert main(["params", "presets"]) in (0, 2)
    assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize("base", BASES)
def test_a_base_of_any_type(base: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "presets/mine.yaml").write_text(f"base: {base}\n")
    for arguments in (["show", "--preset", "mine"], ["change", "--preset", "mine"], ["check", "presets/mine.yaml"]):
        assert "presets/mine.yaml: base: unknown " in refused(["params", *arguments], capsys)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../params", "/etc/passwd", "digits.yaml", "\x1b[31m", "x\0", "x" * 5000]
)
def test_no_name_of_a_preset(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("show", "change"):
        assert len(refused(["params", command, "--preset", name], capsys)) < 1100


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x08b", "\x9b31m", "a\rforged", "\u202eabc"])
def test_what_is_shown_moves_no_cursor(text: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "params.yaml").write_text(f"# {text}\n" + GOOD.decode(), newline="")
    (project / "presets/mine.yaml").write_text(f"# {text}\nseed: 1\n", newline="")
    for arguments in (["show"], ["presets"], ["show", "--preset", "mine"]):
        main(["params", *arguments])
        out, error = capsys.readouterr()
        assert all(letter.isprintable() or letter == "\n" for letter in out + error)


@pytest.mark.parametrize(
    "alias", ["", " ", "a b", "a/b", "v1", "V12", "latest", "Latest", "\x1b", "é", "x" * 300, "a\n"]
)
def test_no_alias(alias: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["promote", "models:/m/1", "--alias", alias], capsys).startswith("error: --alias: got ")


NUMBERS = {
    "harden": ("--retries", "--retry-delay", "--stage-hours"),
    "study": ("--jobs", "--hours", "--stop-after", "--seed"),
}


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e30", "-1", "-1e30", "9" * 30, "", "x", "1e999"])
@pytest.mark.parametrize("command", NUMBERS)
def test_no_option_is_without_a_bound(
    command: str, value: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"pipelines.{command}.run", lambda **_: 0)
    for option in NUMBERS[command]:
        assert option in refused([command, "report", f"{option}={value}"], capsys)


STAGES = (
    *("", "stages:", "stages: []", "stages: 3", "stages: {a: }", "stages: {a: []}", "stages: {a: {cmd: x}}", "x: 1"),
    *(
        "stages: {a: {params: 3, deps: []}}",
        "stages: {a: {params: [], deps: [1]}}",
        "stages: {a: {params: [], deps: }}",
    ),
    *("stages: {a: {params: [], deps: [], outs: 3}}", "stages: {a: {params: [], deps: [], outs: [{}]}}", "a: [", "[]"),
)


@pytest.mark.parametrize("text", STAGES)
def test_a_broken_graph_is_named(text: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "studies/smooth_labels", project / "studies/smooth_labels")
    (project / "dvc.yaml").write_text(text)
    assert "dvc.yaml: " in refused(["study", "smooth_labels", "--list"], capsys)


@pytest.mark.parametrize("files", ["photos", "../photos", "photos/", "a\\nb"])
def test_files_to_watch_must_be_there(files: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of params.yaml, and of a change of it, which is taken back."""
    line = "files: components/datasets/parts/no_files.txt"
    assert line in GOOD.decode()
    (project / "params.yaml").write_text(GOOD.decode().replace(line, f'files: "{files}"'))
    assert "fetch_data.files: " in refused(["params", "check"], capsys)
    assert "fetch_data.files: " in refused(["params", "change", "--set", "seed=1"], capsys)
