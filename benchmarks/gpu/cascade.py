"""AutoAttack on the robust teacher of the chain: every test image, with passes, seconds and verdict, and the reference
on the first thousand, image by image.

    python -m benchmarks.gpu.cascade --data FOLDER --work FOLDER --out FILE
"""

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.gpu import weights
from benchmarks.gpu.chain import DATA, PRESET
from benchmarks.gpu.place import DONE, MORE_TO_DO, ROOT, TOY, parser, write_result
from benchmarks.run_preset import run_once, run_stage
from components.data.pixels import to_pixels
from components.data.splits import read_splits
from components.foundation.params import Params
from components.foundation.recipes import changed
from components.foundation.storage import read_json
from components.models.parts.model_file import load_model
from components.numerics.tensor_files import read_tensors
from components.threats import NORMS
from components.threats.parts.threat import Threat, read_threat
from pipelines.parameters.presets import preset_values

MODEL, SEED, IMAGES = "robust_teacher", 0, 1000
# At toy size the reference searches for so many steps, images and queries.
TOY_STEPS, TOY_IMAGES, TOY_QUERIES = 5, 12, 20


def main() -> int:
    args = parser(__doc__).parse_args()
    deadline = time.monotonic() + (args.stop_after or float("inf"))
    folder = args.work / "chain" / str(SEED)
    weights.restored(folder, MODEL, SEED, args.work)
    delta = TOY if args.toy else {"evaluate_attacks.cascade": "autoattack"}
    values = changed(preset_values(ROOT, PRESET), delta, "the programme")
    curve = values["evaluate_attacks"]["curve_attack"]
    nothing = {"curve_epsilons": [], "grid": {"epsilons": [], "attacks": {}}, "transfer_attacks": []}
    only = {"attacks": {"only": {curve: values["evaluate_attacks"]["attacks"][curve]}}}
    attacked = {**only, **nothing, "last_epoch_attacks": []}
    values = changed(values, {"evaluate_attacks": attacked}, "the programme") | {"seed": SEED}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
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
    found |= {"seconds": read_json(folder / "cascade.seconds.json")}
    found["reference"] = reference(folder, read_threat(NORMS, Params(values).get("threat"), "threat"), args.toy)
    rate, about = model["worst_case"], found["reference"]
    line = f"worst case {rate['value']:.1%} of {rate['n']}, {found['verdict']['status']}, {found['seconds']:.0f} s"
    line += f"; reference differs on {about['differ']} of {about['images']}" if "images" in about else ""
    write_result(args.out, line, toy=args.toy, **found)
    return DONE


def attack(folder: Path, deadline: float) -> bool:
    """Evaluates the model until the deadline; whether that has ended. A later call continues."""
    command = [sys.executable, "-m", "temper", "evaluate", "--model", f"{MODEL}=models/{MODEL}.safetensors"]
    command += ["--data", "data/normalized.safetensors", "--params", "params.yaml", "--out", "cascade"]
    return run_once(command, folder, folder / "cascade.seconds.json", deadline)


def reference(folder: Path, threat: Threat, toy: bool) -> dict[str, Any]:
    """What the reference's four attacks leave of the first images, and on how many of them it differs from ours."""
    if importlib.util.find_spec("pyautoattack") is None:
        return {"missing": "pyautoattack is not installed"}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, _ = load_model(folder / f"models/{MODEL}.safetensors", device)
    images, labels = read_splits(folder / "data/normalized.safetensors").test.on(device)
    num = min(TOY_IMAGES if toy else IMAGES, len(labels))
    images, labels = to_pixels(images[:num]), labels[:num]
    began = time.monotonic()
    theirs = standing(model.eval(), images, labels, threat, device, toy)
    seconds = time.monotonic() - began
    outcomes, _ = read_tensors(folder / "cascade/outcomes.safetensors")
    names = [name for name in outcomes if name.startswith(f"{MODEL}/cascade/")]
    ours = torch.stack([outcomes[name][:num] != 0 for name in names]).all(0)
    return {
        "images": num,
        "seconds": round(seconds, 1),
        "standing": {"ours": int(ours.sum()), "reference": int(theirs.sum())},
        "differ": int((ours != theirs).sum()),
        "only_ours_fools": (~ours & theirs).nonzero().flatten().tolist(),
        "only_reference_fools": (ours & ~theirs).nonzero().flatten().tolist(),
    }


def standing(
    model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, device: torch.device, toy: bool
) -> Tensor:
    """Which images are right after the reference's standard evaluation, bool [N] on the CPU."""
    from pyautoattack import AutoAttack

    four = AutoAttack(model, norm="Linf", eps=threat.radius, seed=SEED, version="standard", device=device)
    if toy:
        four.apgd.n_iter = four.apgd_targeted.n_iter = four.fab.n_iter = TOY_STEPS
        four.square.n_queries = TOY_QUERIES
    images_adv, _ = four.run_standard_evaluation(images, labels, batch_size=len(labels))
    with torch.no_grad():
        return (model(images_adv).argmax(1) == labels).cpu()


if __name__ == "__main__":
    raise SystemExit(main())
