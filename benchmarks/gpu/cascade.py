"""AutoAttack on the robust teacher of the chain: every test image, with passes, seconds and verdict.

python -m benchmarks.gpu.cascade --data FOLDER --work FOLDER --out FILE
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import weights
from benchmarks.gpu.chain import DATA, folder_of, recipe, write_params
from benchmarks.gpu.items import CHAINS
from benchmarks.gpu.place import DONE, MORE_TO_DO, Aim, parser, write_result
from benchmarks.run_preset import run_once, run_stage, seconds_of
from components.foundation.recipes import changed
from components.foundation.storage import read_json, sha256
from components.numerics.tensor_files import read_tensors

MODEL, SEED = "robust_teacher", 0


def main() -> int:
    args = parser(__doc__).parse_args()
    deadline = time.monotonic() + (args.stop_after or float("inf"))
    folder = prepared(args)
    for stage in DATA:
        if not run_stage(folder, stage, args.data, deadline):
            return MORE_TO_DO
    if not attack(folder, deadline):
        return MORE_TO_DO
    report = read_json(folder / "cascade" / "robustness.json")
    evaluation = read_json(folder / "cascade" / "evaluation.json")
    model = report["models"][MODEL]
    found: dict[str, Any] = {kind: model[kind] for kind in ("clean", "cascade", "worst_case")}
    found |= {"verdict": report["verdict"][MODEL], "passes": evaluation["cost"][MODEL]}
    found |= {"seconds": seconds_of(folder, "cascade"), "standing": standing(folder)}
    found["model_sha256"] = sha256(folder / f"models/{MODEL}.safetensors")
    rate = model["worst_case"]
    line = f"worst case {rate['value']:.1%} of {rate['n']}, {found['verdict']['status']}, {found['seconds']:.0f} s"
    found["aims"] = [Aim("seconds", 160, None if args.toy else found["seconds"], at_most=True).told()]
    write_result(args.out, line, toy=args.toy, **found)
    return DONE


def prepared(args: argparse.Namespace) -> Path:
    """The folder of the chain with the robust teacher, and with parameters that ask for its cascade alone."""
    folder = folder_of(args.work, weights.FIRST, SEED)
    weights.restored(folder, MODEL, SEED, args.work)
    write_params(folder, alone(recipe(CHAINS[weights.FIRST].preset, args.toy)), SEED)
    return folder


def alone(values: dict[str, Any]) -> dict[str, Any]:
    """Parameters that ask for the cascade and, since one attack at least must be there, the attack of the curve."""
    curve = values["evaluate_attacks"]["curve_attack"]
    nothing = {"curve_epsilons": [], "grid": {"epsilons": [], "attacks": {}}, "transfer_attacks": []}
    only = {"attacks": {"only": {curve: values["evaluate_attacks"]["attacks"][curve]}}}
    attacked = {**only, **nothing, "last_epoch_attacks": []}
    return changed(values, {"evaluate_attacks": attacked}, "the programme")


def attack(folder: Path, deadline: float, model: str = MODEL) -> bool:
    """Evaluates the model until the deadline; whether that has ended. A later call continues."""
    command = [sys.executable, "-m", "temper", "evaluate", "--model", f"{model}=models/{model}.safetensors"]
    command += ["--data", "data/normalized.safetensors", "--params", "params.yaml", "--out", "cascade"]
    return run_once(command, folder, folder / "cascade.seconds.json", deadline)


def standing(folder: Path) -> list[int]:
    """The places of the images that no attack of the cascade has fooled."""
    outcomes, _ = read_tensors(folder / "cascade/outcomes.safetensors")
    names = [name for name in outcomes if name.startswith(f"{MODEL}/cascade/")]
    return torch.stack([outcomes[name] != 0 for name in names]).all(0).nonzero().flatten().tolist()


if __name__ == "__main__":
    raise SystemExit(main())
