"""`temper params`: what params.yaml says, may say, and other recipes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.foundation.lines import say
from components.foundation.storage import read_text
from temper.commands.shared import Preset, Set

if TYPE_CHECKING:
    from components.foundation.params import Params

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Check, show, change and explain params.yaml.")


@app.command()
def check(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="By default params.yaml.")] = None,
) -> None:
    """Check every section as its stage will.

    Nothing runs. A recipe of presets/, or another file with a base, is checked together with what it is based on."""
    from pipelines.parameters.early import refuse
    from pipelines.parameters.watched import require_files

    recipes = [_recipe(path) for path in files or [Path("params.yaml")]]
    for recipe in recipes:
        refuse(recipe)
        require_files(recipe, Path.cwd())
    # Only now, since it imports torch.
    from components.commands.check_params import check as checked

    for recipe in recipes:
        for line in checked(recipe) or ():
            say(f"warning: {recipe.path}: {line}", to=sys.stderr)
        say(f"{recipe.path}: every section is valid")


def _recipe(path: Path) -> "Params":
    """All parameters that a file stands for: its own, or those of its base with what it changes."""
    from components.foundation.errors import choose
    from components.foundation.params import Params, read_yaml
    from components.foundation.recipes import changed
    from pipelines.parameters.presets import COMPLETE, preset_values
    from pipelines.parameters.presets import presets as recipes

    root, values = Path.cwd(), read_yaml(path)
    known = recipes(root)
    if "base" in values or path.resolve() in [recipe.resolve() for recipe in known.values()]:
        base = values.pop("base", COMPLETE)
        choose(known, base, f"{path}: base")
        values = changed(preset_values(root, base), values, str(path))
    return Params(values, str(path))


@app.command()
def show(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as threat.epsilon. By default all.")] = "",
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Of this recipe, not of params.yaml.")] = None,
) -> None:
    """Show params.yaml, or one key of it.

    A recipe of presets/ is shown in the same way."""
    import yaml

    from components.foundation.checkout import require_project
    from components.foundation.params import Params, mapping_of
    from pipelines.parameters.change import preset_text

    path = "params.yaml" if preset is None else f"presets/{preset}.yaml"
    if preset is None:
        require_project(Path.cwd())
    text = read_text(path) if preset is None else preset_text(Path.cwd(), preset)
    if not key:
        say(text.removesuffix("\n"))
        return
    params = Params(mapping_of(text, path), path)
    value = params.get(*key.split("."))
    say(yaml.safe_dump(value, sort_keys=False).strip() if isinstance(value, dict | list) else value)


@app.command()
def presets() -> None:
    """List the recipes in presets/."""
    from pipelines.parameters.presets import require_presets

    found = require_presets(Path.cwd())
    width = max(map(len, found), default=0)
    for name, path in found.items():
        say(f"{name:{width}}  {read_text(path).partition(chr(10))[0].lstrip('# ')}")


@app.command()
def change(preset: Preset = None, assignments: Set = None) -> None:
    """Change params.yaml, and check the result.

    Nothing runs. A mistake leaves the file as it was."""
    from components.foundation.errors import InputError
    from pipelines.parameters.change import change as changed

    if preset is None and not assignments:
        raise InputError("nothing to change, want --preset NAME, or --set KEY=VALUE such as --set seed=1")
    changed(Path.cwd(), preset, assignments or [])
    say(", ".join([f"params.yaml: {preset or 'as it was'}", *(assignments or [])]))


@app.command()
def schema(
    json: Annotated[bool, typer.Option("--json", help="Print a JSON Schema, for editors, not Markdown.")] = False,
) -> None:
    """Explain every key of params.yaml.

    Its type, its range, the values of the presets, and what it means."""
    from temper import schema as generator

    print(generator.json_schema() if json else generator.markdown(), end="")
