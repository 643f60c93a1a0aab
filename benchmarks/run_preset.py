"""Runs a preset's stages for several seeds, without DVC, Prefect or MLflow; accuracies, costs and times as JSON.

    python benchmarks/run_preset.py --preset digits --seeds 0 1 2
    python benchmarks/run_preset.py --preset cifar10_fast --seeds 0 --data FOLDER --stop-after 540

FOLDER holds the downloaded files in torchvision's layout. Every seed has a folder of its own under --work; run again,
it skips finished stages and continues a stopped one from its checkpoint, so a long run may be cut into calls
(`--stop-after` ends the running stage after so many seconds in all; exit status 3 says that there is more to do).
"""

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import yaml  # noqa: E402

from components.evaluation.verdict.rules import judge  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.process import as_process  # noqa: E402
from components.foundation.storage import read_json, write_json  # noqa: E402
from components.numerics.tensor_files import read_tensors  # noqa: E402
from components.stages import STAGES  # noqa: E402
from components.statistics.intervals import spread  # noqa: E402
from components.statistics.outcomes import share  # noqa: E402
from pipelines.parameters.presets import preset_values  # noqa: E402

MORE_TO_DO = 3
BROUGHT = "brought"
"""Stands for the code of what was made on another machine."""


def main() -> int:
    args = parse()
    with as_process():
        return run_seeds(args)


def run_seeds(args: argparse.Namespace) -> int:
    """The exit status after all stages of all seeds, or after as many as there is time for."""
    deadline = time.monotonic() + args.stop_after if args.stop_after else math.inf
    for seed in args.seeds:
        folder = prepare(args.work.resolve() / f"{args.preset}-{seed}", args.preset, seed)
        for stage in args.stages:
            if not run_stage(folder, stage, args.data, deadline):
                print(f"stopped in {stage} of seed {seed}: run again to continue")
                return MORE_TO_DO
    write_result(args)
    return 0


def parse() -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", required=True, help="a file of presets/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, help="folder with downloaded data sets")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--work", type=Path, default=ROOT / ".temper" / "benchmarks")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/PRESET-DEVICE.json")
    return parser.parse_args()


def prepare(folder: Path, preset: str, seed: int) -> Path:
    """The seed's own folder, with the preset's parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(preset_values(ROOT, preset) | {"seed": seed}, sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    return folder


def run_stage(folder: Path, stage: str, data: Path | None, deadline: float) -> bool:
    """Runs a stage unless it has finished here before; whether it is finished now. Errors: its own exit status."""
    done = folder / f"{stage}.seconds.json"
    told = {"TEMPER_TRACKING": "off"} | ({"TEMPER_DATA": str(data.resolve())} if data else {})
    return run_once([sys.executable, "-m", f"components.stages.{stage}"], folder, done, deadline, **told)


def with_code() -> dict[str, str]:
    """The environment of a process in another folder that runs this code and finds packages brought along."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def run_once(command: list[str], folder: Path, done: Path, deadline: float, **told: str) -> bool:
    """Runs a command on this code, unless the file `done` says that it has ended well; whether it has now.

    With other code it runs again, and decides itself what it can take over. `done` counts the seconds of all attempts.
    `told` are more variables of its environment. At the deadline, a time of the monotonic clock, it is told to stop.
    Errors: its own exit status.
    """
    code, noted = sha256_of_code(), read_json(done) if done.exists() else {}
    if noted.get("code") == BROUGHT or (noted.get("code") == code and noted["ended"]):
        return True
    spent = noted["seconds"] if noted.get("code") == code else 0.0
    began, ended = time.monotonic(), False
    process = subprocess.Popen(command, cwd=folder, env=with_code() | told)
    try:
        status = process.wait(None if deadline == math.inf else max(1.0, deadline - time.monotonic()))
        ended = status == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        # Not even a signal to this process leaves the other one running.
        if process.poll() is None:
            process.terminate()
            process.wait()
        write_json(done, {"seconds": round(spent + time.monotonic() - began, 2), "code": code, "ended": ended})
    if status:
        raise SystemExit(status)
    return True


@cache
def sha256_of_code() -> str:
    """Of all files that a stage or a command may execute."""
    digest = hashlib.sha256()
    for package in ("components", "pipelines", "temper"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def seconds_of(folder: Path, name: str) -> float:
    """What `run_once` has measured of a stage or a command."""
    return read_json(folder / f"{name}.seconds.json")["seconds"]


def write_result(args: argparse.Namespace) -> None:
    runs = {seed: one_run(args.work / f"{args.preset}-{seed}") for seed in args.seeds}
    first = next(iter(runs.values()))
    provenance = first.pop("provenance")
    for run in runs.values():
        run.pop("provenance", None)
    result = {
        "preset": args.preset,
        "device": device_name(),
        "provenance": provenance,
        "seeds": {str(seed): run for seed, run in runs.items()},
        "over_seeds": over_seeds([run["accuracies"] for run in runs.values()]),
        "verdicts": {name: [run["verdicts"][name] for run in runs.values()] for name in first["verdicts"]},
    }
    kind = "gpu" if provenance.get("device") == "cuda" else "cpu"
    out = args.out or ROOT / "benchmarks" / "results" / f"{args.preset}-{kind}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, row in result["over_seeds"].items():
        print(f"{name:32} {row['mean']:7.2%} {_spread_text(row)}")
    for name, verdicts in result["verdicts"].items():
        print(f"{name:32} {', '.join(verdicts)}")
    print(f"written: {out}")


def one_run(folder: Path) -> dict:
    """Accuracies with n and interval, passes and seconds of one seed's folder."""
    evaluation = json.loads((folder / "evaluation/evaluation.json").read_text(encoding="utf-8"))
    ended = (path.name.partition(".")[0] for path in sorted(folder.glob("*.seconds.json")))
    seconds = {name: seconds_of(folder, name) for name in ended}
    outcomes, _ = read_tensors(folder / "evaluation/outcomes.safetensors")
    accuracies = {}
    for name, outcome in outcomes.items():
        if name != "labels" and not any(part in name for part in ("/curve/", "/grid/", "transfer/")):
            found = share(outcome, float)
            accuracies[name] = {key: getattr(found, key) for key in ("value", "low", "high", "count", "n")}
    return {
        "accuracies": accuracies,
        "passes": {"training": evaluation["training_cost"], "evaluation": evaluation["cost"]},
        "verdicts": {name: judge(evidence).status for name, evidence in evaluation["evidence"].items()},
        "seconds": seconds | {"total": round(sum(seconds.values()), 2)},
        "provenance": evaluation["provenance"],
    }


def over_seeds(runs: list[dict]) -> dict:
    """Mean, standard deviation and interval of the mean over the seeds, of every accuracy; one seed has no spread."""
    names = dict.fromkeys(name for run in runs for name in run)
    groups = {name: [run[name]["value"] for run in runs if name in run] for name in names}
    return {
        name: spread(values)._asdict() if len(values) > 1 else {"mean": values[0], "n": 1}
        for name, values in groups.items()
    }


def _spread_text(row: dict) -> str:
    if row["n"] == 1:
        return "one seed"
    return f"± {row['deviation']:.2%} over {row['n']} seeds, mean within {row['low']:.1%} to {row['high']:.1%}"


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    raise SystemExit(main())
