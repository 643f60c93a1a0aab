"""Gives a registered model an alias, if its evaluation is trusted and its numbers pass. Nothing overrides a rule.

python -m pipelines.promote models:/temper-student/3 --min-worst-case 0.5 --min-clean 0.9
python -m pipelines.promote models:/temper-student/3 --not-worse-than-champion
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when promoted, 1 when a rule refuses (one line names all that do), 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.promote", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("version", metavar="VERSION", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    parser.add_argument("--alias", default="champion", help="the alias to give (default: champion)")
    least = "least lower bound of its 95 %% interval, from 0 to 1"
    parser.add_argument("--min-worst-case", metavar="SHARE", help=f"accuracy under every attack: {least}")
    parser.add_argument("--min-clean", metavar="SHARE", help=f"accuracy without attack: {least}")
    parser.add_argument(
        "--not-worse-than-champion",
        action="store_true",
        help="refuse if significantly less robust, or less accurate, than who has the alias now",
    )
    given = parser.parse_args(arguments)
    command = [
        sys.executable,
        "-m",
        "components.commands.records",
        "promote",
        given.version,
        "--alias",
        given.alias,
    ]
    for option, share in (("--min-worst-case", given.min_worst_case), ("--min-clean", given.min_clean)):
        command += [option, share] if share is not None else []
    command += ["--not-worse-than-champion"] if given.not_worse_than_champion else []
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
