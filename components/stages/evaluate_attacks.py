"""Stage evaluate_attacks: what every attack does to every test image, for both teachers and the student."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.data.listing import file_names
from components.data.splits import Splits, digest, read_splits
from components.evaluation import latency
from components.evaluation.advice.document import Teaching
from components.evaluation.batch_size import settled_batch
from components.evaluation.document import Passes
from components.evaluation.engine import Candidate, Data, Folders, attack_code, evaluate, journal_key
from components.evaluation.journal import key_of
from components.evaluation.latency import TimedModel, timed_model, write_times
from components.evaluation.one_attack import TestSet
from components.evaluation.progress import Progress
from components.evaluation.suite import Suite
from components.foundation.arguments import take_none
from components.foundation.memory import within_memory
from components.foundation.params import Params
from components.foundation.process import WORK
from components.foundation.provenance import code_of, fingerprint, inputs_of, versions
from components.foundation.storage import read_mapping, sha256
from components.models.parts.model_file import load_frozen
from components.reports.wording import task_title
from components.stages import run
from components.stages.evidence import evidence_on
from components.stages.resume import KeptWork
from components.stages.tasks import read_suite
from components.statistics.documents import as_json, document_of
from components.tracking.journal import Journal

STAGE = "evaluate_attacks"
DATA = Path("data/normalized.safetensors")
RESULTS = Path("evaluation")
OUTPUTS = [str(RESULTS / name) for name in ("outcomes.safetensors", "gallery.safetensors", "evaluation.json")]
TEACHERS = Path("metrics/student.teachers.json")
UNFINISHED, FINISHED = WORK / "evaluation", "finished"
# The sections that dvc.yaml declares: others may change without a new evaluation, so none of them is written to it.
READ = ("seed", "compute", "threat", STAGE)
ROLES = ("clean_teacher", "robust_teacher", "student")
# Any number of classes will do to check a section whose data is not there yet.
SOME_CLASSES = 10


def read(params: Params, num_classes: int = SOME_CLASSES) -> Suite:
    """The stage's suite, all checked."""
    return read_suite(params, STAGE, num_classes)


def main(params: Params, journal: Journal) -> None:
    """Writes the files of evaluation/ (formats: docs/evaluation.md)."""
    splits = read_splits(DATA)
    suite = read(params, len(splits.classes))
    device = suite.compute.prepare()
    if slow := suite.compute.warning:
        journal.note(slow)
    candidates = load_candidates(splits, device)
    hashes = {name: candidate.facts["sha256"] for name, candidate in candidates.items()}
    told = {key: params.get(key) for key in READ}
    costs = {role: training_passes(Path(f"metrics/{role}.json")) for role in ROLES}
    measured = document_of(Teaching, read_mapping(TEACHERS), str(TEACHERS))
    # A student that nobody taught has no teachers to speak of.
    taught = as_json(measured) if measured.roles else None
    code = {f"components/stages/{STAGE}.py", *attack_code(candidates, suite)}
    known = {"data": sha256(DATA), "models": hashes, "costs": costs, "teachers": taught}
    kept = KeptWork(STAGE, inputs_of(code, told | known))
    # One image alone on the device: it says what all of them are like.
    networks, image = [candidate.model for candidate in candidates.values()], splits.test.images[:1].to(device)
    settle = partial(settled_batch, suite.section.batch_size, networks, image, hashes, kept.folder / "batch_size.json")
    if kept.published_again():
        journal.note(f"{STAGE}: finished before under the same inputs, published again")
    else:
        kept.begin(journal.note)
        batch, line = settle()
        if line:
            journal.note(line)
        # The validation split is there to check a fast search on.
        test, held_out = (TestSet(*part.on(device), batch) for part in (splits.test, splits.validation))
        files = () if splits.test.names is None else file_names(splits.test.names)
        data = Data(splits.dataset, digest({"test": splits.test}), splits.classes, test, held_out, files)
        key = journal_key(candidates, data, suite)
        unfinished = UNFINISHED / fingerprint(key)
        if kept.given_up:
            shutil.rmtree(unfinished, ignore_errors=True)
        tell_of_another(unfinished, key, journal)
        provenance = {"data.sha256": sha256(DATA), "code.sha256": fingerprint(code_of(code)), "device": device.type}
        extra = {"training_cost": costs, "teachers": taught, "params": told, "provenance": provenance | versions()}
        progress = Progress(partial(print, flush=True), task_title)
        with within_memory(f"lower {STAGE}.batch_size ({batch})"):
            evaluate(candidates, data, suite, Folders(RESULTS, unfinished), evidence_on, extra, journal.note, progress)
        kept.finish([*OUTPUTS, *(str(path) for path in sorted((RESULTS / "adversarial").iterdir()))])
        forget_others(unfinished)
        (unfinished / FINISHED).touch()
    selected = {name: hashes[name] for name, candidate in candidates.items() if candidate.selected}
    write_times(WORK / latency.FILE, times_of(candidates, selected, image, settle()[0]))
    journal.upstream({"normalized": sha256(DATA)} | selected)
    for name in ("evaluation.json", "outcomes.safetensors"):
        journal.artifact(RESULTS / name)


def times_of(
    candidates: Mapping[str, Candidate], hashes: Mapping[str, str], image: Tensor, largest: int
) -> dict[str, TimedModel]:
    """How fast the models of these names are on images such as `image` [1, C, H, W], `largest` at a time at most.

    It is no output, since nothing may depend on times.
    """
    facts = {name: candidates[name].facts for name in hashes}
    return {
        name: timed_model(candidates[name].model, Path(facts[name]["file"]), digest, image, largest)
        for name, digest in hashes.items()
    }


def training_passes(path: Path) -> dict[str, int]:
    """The passes that a training took, from its metrics. Errors: a file that does not tell them."""
    passes = document_of(Passes, read_mapping(path).get("passes"), f"{path}: passes")
    return as_json(passes)


def tell_of_another(unfinished: Path, key: Mapping[str, Any], journal: Journal) -> None:
    """Says, where an evaluation begins anew beside one that was stopped, in what the two differ."""
    stopped = [path for path in UNFINISHED.glob("*/journal.jsonl") if not (path.parent / FINISHED).exists()]
    if unfinished.exists() or not stopped:
        return
    other = key_of(max(stopped, key=lambda path: path.stat().st_mtime))
    names = [name for name in key if key[name] != other.get(name)]
    journal.note(f"{STAGE}: starts anew, a journal is there of other {', '.join(names)}")


def forget_others(journal: Path) -> None:
    """Removes the journals of other evaluations; this one stays, so that a new probe repeats no attack."""
    for folder in UNFINISHED.iterdir():
        if folder != journal:
            shutil.rmtree(folder)


def load_candidates(splits: Splits, device: torch.device) -> dict[str, Candidate]:
    """Best and last epoch of every role, named `student`, `student_last`, … Error: made for other images."""
    candidates = {}
    for role in ROLES:
        for checkpoint, suffix, mark in (("best", "", ""), ("last", ".last", "_last")):
            path = Path(f"models/{role}{suffix}.safetensors")
            model, card = load_frozen(path, splits, device)
            facts = {
                "file": str(path),
                "sha256": sha256(path),
                "checkpoint": checkpoint,
                "of": role,
                "architecture": card.architecture,
                "num_parameters": sum(p.numel() for p in model.parameters()),
                "epoch": card.epoch,
                "upstream": card.upstream,
            }
            candidates[role + mark] = Candidate(model, facts)
    return candidates


if __name__ == "__main__":
    take_none(STAGE, __doc__)
    run(STAGE, main)
