"""Whether students take the same optimizer steps as the code that the authors of their methods published.

    python benchmarks/student_agreement.py --code FOLDER

FOLDER holds clones of the official repositories under their own names. It is `official_agreement.py` for methods that
no preset names: the authors' scripts are executed as they stand, on a CPU in float64, with stand-ins for data, networks
and evaluations, and our training loop then takes the same steps. The result has the largest relative difference over
all steps. No clone is part of this project.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.official import balanced, kd_swa, script, students  # noqa: E402
from benchmarks.official.case import EVERYWHERE  # noqa: E402
from benchmarks.official.tape import Tape, differences, differences_beside  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402

CASES = [*students.CASES, *balanced.CASES, *kd_swa.CASES]
OUT = ROOT / "benchmarks" / "results" / "student_agreement.json"


def compare(case: students.Student, code: Path) -> dict[str, Any]:
    """The row of one case."""
    folder, tape = code / case.repository.split("/")[1], Tape()
    case.official(folder, tape, script.Feed(students.given(), tape))
    own = students.tape_of(case, tape)
    found = differences(tape.steps, own.steps)._asdict() | differences_beside(tape, own)
    found = {name: difference for name, difference in found.items() if name not in case.apart}
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return {
        "name": case.name,
        "repository": case.repository,
        "commit": commit.stdout.strip(),
        "file": case.file,
        "steps": len(own.steps),
        "largest": max(found.values()),
        "differences": found,
        "equalised": case.equalised,
        "differs": case.differs,
        "method": case.method,
        "igdm": case.igdm,
        "alone": students.alone(case),
    }


def main() -> int:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, help="folder with clones of the official repositories")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        rows.append(compare(case, options.code.resolve()))
        print(f"{case.name} ({case.file}): {rows[-1]['largest']:.1e} over {rows[-1]['steps']} steps", flush=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    device = f"{platform.machine()}, one CPU thread, float64"
    result = {"device": device, "versions": versions, "equalised_everywhere": EVERYWHERE, "cases": rows}
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
