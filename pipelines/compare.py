"""Is B more robust than A? For evaluations in folders and in MLflow, by run or by registered version.

python -m pipelines.compare runs/first/evaluation evaluation
python -m pipelines.compare models:/temper-student@champion models:/temper-student/3
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from components.foundation.errors import InputError
from components.foundation.process import USER_ERROR


def located(letter: str, reference: str, scratch: Path) -> list[str]:
    """Arguments of `components.reports.comparison.text` for one side: its folder, what to call it, which model it is.

    Args:
        letter: a or b.
        reference: a folder, or what `components.commands.records fetch` takes.
        scratch: an empty folder of this side's own.

    Errors: no such folder, or the tracker has no such evaluation.
    """
    if Path(reference).is_dir():
        return [reference]
    if not re.match(r"models:/|runs:/|[0-9a-f]{32}$", reference):
        raise InputError(f"{reference}: no such folder, and neither a run id nor models:/NAME/VERSION or @ALIAS")
    command = [sys.executable, "-m", "components.commands.records", "fetch", reference, str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    if done.returncode:
        last = said[-1] if said else f"exit code {done.returncode}"
        raise InputError(last.removeprefix("error: "))
    found = json.loads(said[-1])
    model = [f"--model-{letter}", found["model"]] if found["model"] else []
    return [str(scratch), f"--title-{letter}", found["title"], *model]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison; the exit code is that of `components.reports.comparison.text`, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compare", description=(__doc__ or "").split("\n")[0])
    for letter in "ab":
        upper = letter.upper()
        text = "a folder, an MLflow run id, models:/NAME/VERSION or models:/NAME@ALIAS"
        parser.add_argument(letter, metavar=upper, help=text)
        parser.add_argument(f"--model-{letter}", metavar="NAME", help=f"the model in {upper} (default: the student)")
    parser.add_argument("--json", metavar="FILE", help="write the comparison there, too")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            sides = [located(letter, getattr(given, letter), Path(scratch, letter)) for letter in "ab"]
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return USER_ERROR
        # Named models come last, so that they win over what a version's hash says.
        named = [(f"--model-{letter}", getattr(given, f"model_{letter}")) for letter in "ab"]
        options = [part for option, name in named if name for part in (option, name)]
        options += ["--json", given.json] if given.json else []
        options += ["--markdown"] if given.markdown else []
        folders, extras = [side[0] for side in sides], [part for side in sides for part in side[1:]]
        command = [sys.executable, "-m", "components.reports.comparison.text", *folders, *extras, *options]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
