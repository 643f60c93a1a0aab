"""Brings results and weights from one machine to another, in few files of limited size."""

import json
from pathlib import Path

from benchmarks.gpu.place import Place
from components.foundation.storage import read_json, sha256, write_json, write_text

# So many files come back with a call, the results being one of them.
FILES = 8
BUNDLE, BROUGHT = "results.json", "brought.json"


def packed(folder: Path, place: Place) -> list[str]:
    """Puts all results into one file of the folder, and as many weights as may come along that have not yet; in lines.

    A weight file is called MODEL.SEED.FILE.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = {path.name: read_json(path) for path in sorted(place.results.glob("*.json"))}
    failures = {path.name: read_json(path) for path in sorted((place.work / "failed").glob("*.json"))}
    write_text(folder / BUNDLE, json.dumps({"results": results, "failures": failures}))
    noted = place.work / BROUGHT
    before = read_json(noted) if noted.exists() else {}
    files = [path for path in sorted((place.work / "weights").glob("*/*")) if path.suffix != ".tmp"]
    # Of a file that was made anew the new one comes along too.
    hashes = {path: sha256(path) for path in files}
    waiting = [path for path in files if before.get(name_of(path)) != hashes[path]]
    # This may be called again after the next experiment: all files of a folder come along together.
    there = {path.name for path in folder.iterdir()} - {BUNDLE} - {name_of(path) for path in waiting}
    taken = waiting[: max(0, FILES - 1 - len(there))]
    for path in taken:
        (folder / name_of(path)).write_bytes(path.read_bytes())
    write_json(noted, before | {name_of(path): hashes[path] for path in taken})
    left = len(waiting) - len(taken)
    return [f"{len(results)} results and {len(taken)} files of weights are in {folder}" + f", {left} wait" * bool(left)]


def name_of(path: Path) -> str:
    """What a file of weights is called on the way."""
    return f"{path.parent.name}.{path.name}"


def unpacked(folder: Path, place: Place) -> list[str]:
    """Takes in what `packed` has put there: results that are not known yet, and weights into the work folder."""
    lines = []
    bundle = read_json(folder / BUNDLE)
    place.results.mkdir(parents=True, exist_ok=True)
    for name, content in bundle["results"].items():
        if not (place.results / name).exists():
            write_text(place.results / name, json.dumps(content, indent=2) + "\n")
            lines.append(f"result {name}: {content['headline']}")
    for name, content in bundle["failures"].items():
        write_json(place.work / "failed" / name, content)
        lines.append(f"failed {name}: {(content['lines'] or ['nothing was said'])[-1].strip()}")
    for path in sorted(folder.iterdir()):
        model, _, rest = path.name.partition(".")
        seed, _, file = rest.partition(".")
        if seed.isdigit() and file:
            target = place.work / "weights" / f"{model}.{seed}" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            lines.append(f"weights {model} of seed {seed}: {file}")
    return lines or ["nothing new"]
