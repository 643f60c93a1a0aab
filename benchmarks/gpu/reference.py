"""The reference's AutoAttack (pyautoattack) on the first thousand images of `cascade`, image by image beside ours.

python -m benchmarks.gpu.reference --data FOLDER --work FOLDER --results FOLDER --out FILE
"""

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu import cascade
from benchmarks.gpu.cascade import MODEL, SEED, attack, prepared
from benchmarks.gpu.chain import DATA
from benchmarks.gpu.place import DONE, parser, write_result
from benchmarks.run_preset import run_stage
from components.data.pixels import to_pixels
from components.data.splits import read_splits
from components.foundation.params import Params
from components.foundation.storage import read_json, sha256
from components.models.parts.model_file import load_model
from components.threats import NORMS
from components.threats.parts.threat import Threat, read_threat

IMAGES = 1000
# At toy size the reference searches for so many steps, images and queries.
TOY_STEPS, TOY_IMAGES, TOY_QUERIES = 5, 12, 20


def main() -> int:
    args = parser(__doc__).parse_args()
    if importlib.util.find_spec("pyautoattack") is None:
        print("pyautoattack is not installed: bring its wheel", file=sys.stderr)
        return 1
    known = args.results / f"cascade.{SEED}.json"
    if not known.exists():
        print(f"{known.name} is missing: cascade.{SEED} comes first", file=sys.stderr)
        return 1
    folder = prepared(args)
    for stage in DATA:
        run_stage(folder, stage, args.data, float("inf"))
    threat = read_threat(NORMS, Params.read(folder / "params.yaml").get("threat"), "threat")
    ours = read_json(known)
    # Weights that were brought here are rounded: then the cascade is run once more, on these.
    if ours["model_sha256"] != sha256(folder / f"models/{MODEL}.safetensors"):
        (folder / "cascade.seconds.json").unlink(missing_ok=True)
        attack(folder, float("inf"))
        ours = {"standing": cascade.standing(folder)}
    found = reference(folder, torch.tensor(ours["standing"], dtype=torch.long), threat, args.toy)
    line = f"differs from ours on {found['differ']} of {found['images']} images, {found['seconds']:.0f} s"
    write_result(args.out, line, toy=args.toy, **found)
    return DONE


def reference(folder: Path, ours: Tensor, threat: Threat, toy: bool) -> dict[str, Any]:
    """What the reference's four attacks leave of the first images, and on how many of them it differs from ours."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, _ = load_model(folder / f"models/{MODEL}.safetensors", device)
    images, labels = read_splits(folder / "data/normalized.safetensors").test.on(device)
    num = min(TOY_IMAGES if toy else IMAGES, len(labels))
    images, labels = to_pixels(images[:num]), labels[:num]
    began = time.monotonic()
    theirs = standing(model.eval(), images, labels, threat, device, toy)
    seconds = time.monotonic() - began
    ours = torch.isin(torch.arange(num), ours)
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
