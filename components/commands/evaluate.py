"""Evaluates models that a team already has, as `temper evaluate` does. It is not a stage of dvc.yaml.

The same attacks, journal, verdict and report as the pipeline's own evaluation (docs/evaluating.md).
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from components.commands import evaluate_options as options
from components.commands.evaluate_apart import evaluate_apart
from components.commands.evaluate_options import SECTION, EvaluateOptions
from components.data.decoding import in_memory
from components.data.listing import file_names
from components.data.splits import LabelledImages, digest, require_source
from components.datasets import DATASETS
from components.evaluation import latency
from components.evaluation.batch_size import settled_batch
from components.evaluation.criteria import Criteria
from components.evaluation.engine import Candidate, Data, Folders, attack_code, evaluate
from components.evaluation.latency import read_times, timed_model, write_times
from components.evaluation.one_attack import TestSet
from components.evaluation.outside.models import (
    HELD_OUT,
    PROGRAM,
    OutsideImages,
    load_outside,
    local_file,
    read_images,
)
from components.evaluation.progress import Progress
from components.evaluation.results import read_evaluation, read_gallery
from components.evaluation.verdict.rules import judge
from components.foundation.errors import InputError
from components.foundation.lines import say
from components.foundation.memory import within_memory
from components.foundation.params import member
from components.foundation.process import as_process
from components.foundation.provenance import fingerprint, versions
from components.foundation.storage import write_text
from components.numerics.threads import forget, keep, settled
from components.reports.robustness.brief import run_numbers, run_tags, run_text, run_title
from components.reports.robustness.contents import Report
from components.reports.robustness.dated import write_dated
from components.reports.robustness.document import build
from components.reports.robustness.page import page, speed
from components.reports.robustness.table import text_table
from components.reports.wording import task_title
from components.stages.evidence import evidence_on
from components.stages.fetch_data import DOWNLOADS
from components.stages.tasks import read_suite
from components.statistics.documents import write_document
from components.tracking.journal import Journal

Note = Callable[[str], None]
# The number of threads of an evaluation that is not over.
THREADS = "threads.json"


def main(given: EvaluateOptions) -> None:
    """Writes the files of the folder `out`, prints the table with the verdict and where the page is.

    Where a model is a program from outside, the attacks run in a process of their own (see `evaluate_apart`).
    """
    began = time.monotonic()
    models, shard, criteria = (
        options.named_models(given.model),
        options.shard_of(given.shard),
        options.criteria_of(given),
    )
    options.foreign_of(given)
    options.require_possible(given)
    # Once as for ten classes and 8-bit images: a mistake shows before anything is loaded or downloaded.
    read_suite(options.params_of(given, uint8=True), SECTION, 10)
    with tempfile.TemporaryDirectory() as folder:
        # What the network has comes here: passwords are not passed on.
        files = {name: local_file(reference, Path(folder, name)) for name, reference in models.items()}
        apart = any(path.suffix == PROGRAM for path in files.values())
        images = images_of(given.data)
        params = options.params_of(given, images.test.images.dtype == torch.uint8)
        with _notes(given.track and shard.number == 0, params.values) as (journal, note):
            if apart:
                del images
                evaluate_apart(given, files, note)
            else:
                attack(given, files, images, note)
            if shard.number == 0:
                report(given.out, criteria, time.monotonic() - began, journal)
            else:
                note(f"shard {shard.number} of {shard.processes}: done; shard 0 writes the results")


def attack(given: EvaluateOptions, files: Mapping[str, Path], everything: OutsideImages, note: Note) -> None:
    """Attacks the models in `files` and writes the evaluation's files of the folder `out`; `note` gets its lines."""
    told = options.params_of(given, everything.test.images.dtype == torch.uint8)
    params = settled(told, given.out / THREADS)
    suite, foreign = read_suite(params, SECTION, 10), options.foreign_of(given)
    fast = suite.section.search.precision != "float32" or suite.section.search.compiled
    images = everything.limited(given.images, HELD_OUT if fast else 0, suite.seed)
    device = suite.compute.prepare()
    if slow := suite.compute.warning:
        say(slow.partition(";")[0] + " (--threads 1)")
    candidates, classes = {}, images.classes
    for name, reference in options.named_models(given.model).items():
        model, facts, own = load_outside(name, reference, files[name], images, foreign[name], device)
        candidates[name], classes = Candidate(model, facts), classes or own
    images = images._replace(classes=classes or _numbered(candidates, images, device))
    # Kept beside the journal: what is killed goes on with as many threads, and so do other shards.
    params = keep(told, params, given.out / THREADS)
    suite = read_suite(params, SECTION, images.num_classes)
    torch.set_num_threads(params.values["compute"]["threads"])
    networks = [candidate.model for candidate in candidates.values()]
    hashes, kept = [candidate.facts["sha256"] for candidate in candidates.values()], given.out / "batch_size.json"
    batch, line = settled_batch(suite.section.batch_size, networks, images.test.images[:1].to(device), hashes, kept)
    if line:
        note(line)
    data = _data(images, batch, device)
    code = fingerprint(attack_code(candidates, suite))
    provenance = {"data.sha256": data.sha256, "code.sha256": code, "device": device.type, **versions()}
    extra = {"training_cost": {}, "params": params.values, "provenance": provenance}
    place, progress = Folders(given.out, given.out, options.shard_of(given.shard)), Progress(say, task_title)
    with within_memory(f"say --batch-size, less than {batch}"):
        evaluate(candidates, data, suite, place, evidence_on, extra, note, progress)
    if place.shard.number == 0:
        forget(given.out / THREADS)
        times = {
            name: timed_model(one.model, files[name], one.facts["sha256"], data.test.images, batch)
            for name, one in candidates.items()
        }
        write_times(given.out / latency.FILE, times)


def images_of(data: str) -> OutsideImages:
    """The images of a file, or of a data set of the table by its name or its fields; its official test split."""
    if Path(data).suffix == ".safetensors":
        return read_images(Path(data))
    spec = options.mapping(data, "--data") if "{" in data else {"name": data}
    name, dataset = str(spec.get("name")), member(DATASETS, spec, "--data")
    source = require_source(dataset.load(Path(os.environ.get("TEMPER_DATA") or DOWNLOADS)), name)
    if source.test is None:
        raise InputError(
            f"--data: {name} has no official test split, so nobody knows which images a model was trained on "
            "(want data/normalized.safetensors, or a file of images and labels that it was not)"
        )
    others = source.train if isinstance(source.train, LabelledImages) else None
    test = in_memory(source.test, "lower image_size")
    return OutsideImages(source.title or name, source.classes, test, others)


def _numbered(candidates: Mapping[str, Candidate], images: OutsideImages, device: torch.device) -> tuple[str, ...]:
    """Classes that nobody named get numbers, as many as the models have logits."""
    with torch.no_grad():
        look = torch.zeros(1, *images.shape, device=device)
        counts = {name: candidate.model(look).shape[1] for name, candidate in candidates.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"--model: {counts} logits, want as many from each")
    return tuple(map(str, range(next(iter(counts.values())))))


def _data(images: OutsideImages, batch_size: int, device: torch.device) -> Data:
    def there(part: LabelledImages) -> TestSet:
        return TestSet(part.images.to(device), part.labels.to(device), batch_size)

    held_out = None if images.held_out is None else there(images.held_out)
    files = () if images.test.names is None else file_names(images.test.names)
    return Data(images.name, digest({"test": images.test}), images.classes, there(images.test), held_out, files)


def report(folder: Path, criteria: Criteria | None, seconds: float, journal: Journal | None) -> None:
    """Writes robustness.json and the page, plain and dated, of the evaluation in `folder`, and prints the table.

    `seconds` is what this process took so far. Without criteria nothing is decided.
    """
    evaluation, outcomes = read_evaluation(folder)
    gallery, metadata = read_gallery(folder, evaluation)
    digest_of_images = evaluation.provenance["test.sha256"]
    about = {"dataset": evaluation.dataset, "num_images": evaluation.num_images, "sha256": digest_of_images}
    document = build(evaluation, outcomes, {}, about, judge, criteria=criteria)
    write_document(folder / "robustness.json", document)
    declared = folder / "robustness.html"
    write_text(declared, page(document, {}, gallery, metadata, evaluation.params[SECTION]["gallery_images"]))
    run = journal.pipeline if journal is not None else ""
    times = read_times(folder / latency.FILE, {name: model.sha256 for name, model in document.models.items()})
    dated = write_dated(declared, run, evaluation.provenance["device"], {"evaluation": seconds}, speed(document, times))
    if journal is not None:
        _record(journal, folder, dated, document, tuple(gallery["images"].shape[1:]))
    say(f"\n{text_table(document)}\n\nReport: {dated}")


def _record(journal: Journal, folder: Path, dated: Path, document: Report, shape: tuple[int, ...]) -> None:
    journal.headline(run_numbers(document))
    journal.tags({f"verdict.{name}": found.status for name, found in document.verdict.items()})
    journal.upstream({name: model.sha256 for name, model in document.models.items()})
    for name in ("evaluation.json", "outcomes.safetensors"):
        journal.artifact(folder / name)
    for path in (folder / "robustness.json", dated):
        journal.artifact(path, "report", on_pipeline=True)
    about, counts = document.provenance["test.sha256"], {"test": document.num_images}
    journal.dataset(document.dataset, about, "", shape, document.classes, counts, evaluated=True)
    journal.summary(run_title(document), run_text(document), f"report/{dated.name}", run_tags(document))


@contextlib.contextmanager
def _notes(track: bool, told: Mapping[str, Any]) -> Iterator[tuple[Journal | None, Note]]:
    """Where lines go: to the terminal, and with `track` also into a journal that is forwarded to MLflow."""
    if not track:
        yield None, say
        return
    with Journal.open("evaluate", inputs=fingerprint(told)) as journal:
        journal.params({}, told)
        yield journal, journal.note


def run(**fields: Any) -> None:
    """The evaluation as this process, told the fields of `EvaluateOptions`: a mistake ends it with exit status 2."""
    with as_process():
        try:
            main(EvaluateOptions(**fields))
        except SystemExit as stop:
            if stop.code in (130, 143):
                print("stopped; the same command continues", file=sys.stderr, flush=True)
            raise
