"""Times the whole graph on the embedded default: `dvc repro` from nothing, and again with nothing to do.

    python benchmarks/embedded_run.py --rounds 3

Each round clones the committed tree into a new folder and runs there, with the tracker on (a new sqlite file) and off
in turn, with this environment. The limit is two minutes on two cores. Nothing else may run on the machine.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from components.foundation.arguments import Arguments

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 120


def main() -> int:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {"tracked": [], "untracked": [], "nothing_to_do": []}
    stages: list[dict] = []
    for _ in range(rounds):
        for name in ("tracked", "untracked"):
            folder = Path(tempfile.mkdtemp())
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
            seconds[name].append(repro(folder, tracked=name == "tracked"))
            seconds["nothing_to_do"].append(repro(folder, tracked=name == "tracked"))
            costs = json.loads((folder / "reports/costs.json").read_text())
            stages.append({stage: cost["seconds"] for stage, cost in costs.items()})
            shutil.rmtree(folder)
    result = {
        "limit_seconds": LIMIT_SECONDS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rounds": rounds,
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "stages": {stage: summary([row[stage] for row in stages]) for stage in stages[0]},
    }
    out = ROOT / "benchmarks" / "results" / "embedded-run.json"
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["seconds"], indent=2))
    print(f"share of the limit: {result['seconds']['tracked']['median'] / LIMIT_SECONDS:.0%}; written: {out}")
    return 0


def repro(folder: Path, tracked: bool) -> float:
    """Wall seconds of one `dvc repro` in the folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Without its bytecode cache, Python compiles torch anew in every stage.
    cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = cached | {"PATH": path, "DO_NOT_TRACK": "1"} | ({} if tracked else {"TEMPER_TRACKING": "off"})
    began = time.monotonic()
    subprocess.run(["dvc", "repro", "--quiet"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


if __name__ == "__main__":
    raise SystemExit(main())
