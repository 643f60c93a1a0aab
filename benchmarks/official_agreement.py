"""Whether presets that say "as published" take the same optimizer steps as the code that their authors published.

    python benchmarks/official_agreement.py --code FOLDER

FOLDER holds clones of the official repositories under their own names (`TRADES`, `N-FGSM`, …). Their scripts are
executed as they stand, on a CPU in float64, with stand-ins for data, networks and evaluations (`benchmarks/official`);
our training loop then runs the preset's own section on the same batches, from the same weights, with the same draws.
The result has the largest relative difference over all steps, and all that was made equal by hand. A number of the
official script that the run cannot keep, such as the epochs, is compared by itself. `alone` has the losses of ten steps
of ours without any official code: a test takes them again, so a change of what a method computes does not go unseen. No
clone is part of this project.
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

import numpy  # noqa: E402
import torch  # noqa: E402

from benchmarks.official import b_mtard, fast_adversarial, fgsm_mep, grad_align, loss_functions, n_fgsm, ours  # noqa: E402
from benchmarks.official.case import EVERYWHERE, Case  # noqa: E402
from benchmarks.official.tape import differences  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from pipelines.parameters.presets import preset_values  # noqa: E402

SOURCES = (fast_adversarial, n_fgsm, grad_align, fgsm_mep, b_mtard, loss_functions)
CASES: list[Case] = [case for source in SOURCES for case in source.CASES]
OUT = ROOT / "benchmarks" / "results" / "official_agreement.json"


def section_of(preset: str, stage: str) -> dict[str, Any]:
    """What the preset says of that training: the result holds for these values alone."""
    values = preset_values(ROOT, preset)
    keys = ("method", "schedule", "recipe", "smoothing", "perturbation")
    return {key: values[stage][key] for key in keys} | {"normalization": values["normalize_data"]["method"]}


def compare(case: Case, code: Path) -> dict[str, Any]:
    """The row of one case. Error: a constant that is not the preset's."""
    folder = code / case.repository.split("/")[1]
    outcome = case.run(folder, case.preset)
    for name, (theirs, own) in outcome.constants.items():
        assert theirs == own, f"{case.preset}: {name} is {theirs} there, {own} here"
    found = differences(outcome.official, outcome.ours)._asdict() | dict(outcome.beside)
    found = {name: difference for name, difference in found.items() if name not in case.apart}
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return {
        "preset": case.preset,
        "stage": case.stage,
        "repository": case.repository,
        "commit": commit.stdout.strip(),
        "file": case.file,
        "steps": len(outcome.ours),
        "largest": max(found.values()),
        "differences": found,
        "same_constants": sorted(outcome.constants),
        "equalised": case.equalised,
        "differs": case.differs,
        "section": section_of(case.preset, case.stage),
        "alone": ours.alone(case.preset, case.stage),
    }


def main() -> int:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, help="folder with clones of the official repositories")
    parser.add_argument("--only", nargs="+", default=[], help="these presets alone; the rows of others stay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(OUT.read_text(encoding="utf-8"))["cases"] if options.only else []
    known = {(row["preset"], row["stage"]): row for row in before}
    rows = list[dict[str, Any]]()
    for case in CASES:
        if options.only and case.preset not in options.only:
            rows.append(known[case.preset, case.stage])
            continue
        rows.append(compare(case, options.code.resolve()))
        print(f"{case.preset} ({case.file}): {rows[-1]['largest']:.1e} over {rows[-1]['steps']} steps", flush=True)
    result = {
        "device": f"{platform.machine()}, one CPU thread, float64",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__},
        "equalised_everywhere": EVERYWHERE,
        "cases": rows,
    }
    OUT.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
