"""The README and the pages it leads to tell the truth: commands, paths, keys and names in them exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperGroup

from components.attacks import ATTACKS
from components.datasets import DATASETS
from components.models import MODELS
from temper.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "docker" / "README.md",
]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def params() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pages
def test_modules_and_scripts_exist(page):
    for module in re.findall(r"python -m ([\w.]+)", page.read_text()):
        path = ROOT / Path(*module.split("."))
        known = module in ("pip", "venv", "pytest") or "STAGE" in module or "NAME" in module
        assert known or path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name}: {module}"
        # What a person types is `temper`; stages are DVC's to start.
        assert not re.match(r"components\.(?!stages)|pipelines", module), f"{page.name}: {module}"
    for script in re.findall(r"python (benchmarks/\S+\.py)", page.read_text()):
        assert (ROOT / script).exists(), f"{page.name}: {script}"


def commands(page: Path) -> list[list[str]]:
    """Every `temper ...` of a page, in its blocks of commands and in its sentences, as words."""
    text = re.sub(r"```text.*?```", "", page.read_text(), flags=re.DOTALL)
    lines = re.findall(r"(?m)^\s*(?:\w+=\S+ )*temper ([a-z].*)$", text) + re.findall(r"`temper ([a-z][^`\n]*)`", text)
    # Optional parts are taken, marks for "and so on" are not.
    plain = [re.sub(r"\s#\s.*|[\[\]]|\s[>&].*", "", line) for line in lines]
    return [words for line in plain if (words := shlex.split(line))]


@pages
def test_commands_parse(page):
    for words in commands(page):
        command, rest = typer.main.get_command(app), list(words)
        while isinstance(command, TyperGroup) and (rest or command.name == "report"):
            # `show` need not be typed.
            known = rest and rest[0] in command.commands
            name = rest.pop(0) if known else "show"
            assert name in command.commands, f"{page.name}: temper {' '.join(words)}"
            command = command.commands[name]
        if rest or len(words) > 2:
            try:
                command.make_context("temper", rest)
            except typer.TyperException as error:
                # Of a command that is only begun, what is there has to be right.
                assert "…" in words and error.format_message().startswith("Missing "), f"{page.name}: {words}: {error}"


def test_commands_are_found_and_wrong_ones_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```sh\ntemper harden --force   # all\n```\nType `temper report diff A B [--markdown]`.\n")
    assert commands(page) == [["harden", "--force"], ["report", "diff", "A", "B", "--markdown"]]
    page.write_text("Type `temper harden --farce`.")
    with pytest.raises(AssertionError, match="No such option: --farce"):
        test_commands_parse(page)
    page.write_text("Type `temper hardn`.")
    with pytest.raises(AssertionError, match="temper hardn"):
        test_commands_parse(page)
    assert sum(len(commands(path)) for path in PAGES) > 40


@pages
def test_make_targets_exist(page):
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?m)^\s*make ([a-z-]+)", page.read_text())) <= targets


@pages
def test_presets_and_keys_that_commands_name_exist(page):
    text = page.read_text()
    presets = {path.stem for path in (ROOT / "presets").glob("*.yaml")} | {"NAME", "PRESET"}
    assert set(re.findall(r"--preset (\w+)", text)) <= presets
    for key in re.findall(r"(?:--set |-S |set=\[\")([\w.]+)=", text):
        found: dict = {"KEY": {}} if key == "KEY" else params()
        for part in key.split("."):
            assert part in found, f"{page.name}: no key {key}"
            found = found[part]


def test_image_folder_example_has_the_fields_of_the_member():
    example = re.search(r"fetch_data\.dataset: (\{name: image_folder.*?\})", (ROOT / "docs/image-files.md").read_text())
    assert example is not None
    fields = yaml.safe_load(example[1])
    assert DATASETS[fields.pop("name")](**fields)


def test_quick_commands_run():
    done = subprocess.run([sys.executable, "-m", "temper", "params", "check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_default_is_a_preset_too():
    """So that `--preset digits` is the way back from any other."""
    assert (ROOT / "params.yaml").read_text() == (ROOT / "presets" / "digits.yaml").read_text()


def test_every_member_is_named_somewhere_a_user_looks():
    """A member no preset and no page names would never be found."""
    text = "".join(path.read_text() for path in [*PAGES, *(ROOT / "presets").glob("*.yaml")])
    for name in [*ATTACKS, *DATASETS, *MODELS]:
        assert re.search(rf"\b{name}\b", text), name
