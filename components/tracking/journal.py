"""The record of a stage: an append-only file of JSON lines that another process forwards to MLflow.

While a stage works it only appends to a local file, so no tracker can slow or stop it. At its end a child process sends
the records, within a time limit, unless whoever started the stage sends them (TEMPER_TRACKING=later; a flow does). With
TEMPER_TRACKING=off nothing is kept: the journal only shows others that the stage runs, and goes with it.
A stage that was killed or failed and is run again continues its journal, and so its MLflow run. Imports neither MLflow
nor torch.
"""

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from components.foundation.child import Child
from components.foundation.errors import InputError
from components.foundation.lines import say, shown
from components.foundation.process import LATER, OFF, ON, SWITCH
from components.tracking import journal_files
from components.tracking.pages import told

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]

ROOT = Path(".temper")
SEND_LATER = "temper records send"
# Importing MLflow takes seconds, a request to a server that hangs 20 (`mlflow_client.BOUNDS`), a model its upload.
SEND_SECONDS = 60
# Who sends a signal sends a stronger one soon: after 8 s where a stage is several processes, 10 s in containers.
KILLED_SECONDS = 6


class Journal:
    """A stage's open journal. As a context manager it ends FINISHED, FAILED (an exception) or KILLED (a signal)."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root, self.stage, self.pipeline = path, root, journal_files.stage_of(path), path.parent.name
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_RDWR, 0o644)
        self._ended = self._summarized = False
        self._kept = tracking() != OFF
        journal_files.own(self._file, self.stage)
        # What an earlier try has recorded stays.
        self._forgotten = not self._kept and not os.fstat(self._file).st_size
        self._gap = journal_files.gap(self._file)

    @classmethod
    def open(cls, stage: str, root: Path | str = ROOT, inputs: str = "") -> "Journal":
        """The journal of a stage in the current pipeline run.

        Args:
            stage: the stage's name in dvc.yaml.
            root: folder of everything undeclared.
            inputs: hash of what the stage reads; an unfinished journal of the same inputs is continued.
        """
        root = Path(root)
        folder = journal_files.folder_of(root, journal_files.pipeline_id(root))
        folder.mkdir(parents=True, exist_ok=True)
        journal = cls(journal_files.journal_for(folder, stage, inputs), root)
        flow_run = os.environ.get("TEMPER_FLOW_RUN", "")
        told = {"stage": stage, "pipeline": folder.name, "inputs": inputs, "flow_run": flow_run}
        # Whoever sends the record, maybe another day, sends it where it belongs.
        home = {"labels": journal_files.labels(), "experiment": journal_files.experiment_name()}
        journal._append("open", **told, **home, pid=os.getpid())
        return journal

    def params(self, params: Mapping[str, Any], recipe: Mapping[str, Any] | None = None, title: str = "") -> None:
        """Records parameters, as trees.

        Args:
            params: the stage's own.
            recipe: all there are; the pipeline's run has them once, whatever stages run.
            title: what the pipeline's run is called until its `summary`.
        """
        self._append("params", params=params, recipe=recipe or {}, title=title)

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Records what the stage ran as: `git.commit`, `dvc.*` hashes, device; any text."""
        self._append("tags", tags={key: str(value) for key, value in tags.items()})

    def metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records numbers, of an epoch (`step`) or of the whole stage. The first value of a (name, step) stands."""
        self._append("metrics", metrics={key: float(value) for key, value in metrics.items()}, step=step)

    def headline(self, metrics: Mapping[str, float]) -> None:
        """Records numbers of the stage that the pipeline's run carries too, for comparing pipelines."""
        self._append("headline", metrics={key: float(value) for key, value in metrics.items()}, step=None)

    def summary(self, title: str, text: str, report: str, tags: Mapping[str, str]) -> None:
        """Records what a person reads first of the pipeline's run.

        Args:
            title: its name.
            text: its description, as Markdown.
            report: where its report is, under the artifacts of the pipeline's run.
            tags: of the pipeline's run, for columns in a list of runs.
        """
        self._summarized = True
        self._append("summary", title=title, text=text, report=report, tags=dict(tags))

    def dataset(
        self,
        name: str,
        digest: str,
        path: Path | str,
        image_shape: Sequence[int],
        classes: Sequence[str],
        counts: Mapping[str, int],
        evaluated: bool = False,
    ) -> None:
        """Records the images used: digest of their file, (C, H, W), class names, number of images per split.

        Those that were `evaluated` belong to the pipeline's run, too.
        """
        schema = {"image_shape": list(image_shape), "classes": list(classes), "counts": dict(counts)}
        use = {"context": "evaluation" if evaluated else "training", "on_pipeline": evaluated}
        self._append("dataset", name=name, digest=digest, path=str(path), **use, **schema)

    def upstream(self, hashes: Mapping[str, str]) -> None:
        """Records the files the stage reads, name to SHA-256; a link to the run that produced each."""
        self._append("upstream", hashes=dict(hashes))

    def produced(self, hashes: Mapping[str, str]) -> None:
        """Records the files the stage writes, name to SHA-256, under the names that `upstream` asks for."""
        self._append("produced", hashes=dict(hashes))

    def artifact(self, path: Path | str, folder: str = "", on_pipeline: bool = False) -> None:
        """Records a file as it is now, under `folder` of the stage's artifacts and, if asked, of the pipeline's."""
        if self._kept and (kept := self._keep(Path(path))):
            self._append("artifact", kept=[kept], folder=folder, on_pipeline=on_pipeline)

    def model(
        self,
        path: Path | str,
        name: str,
        image_shape: Sequence[int],
        num_classes: int,
        example: Path | str,
        tags: Mapping[str, Any],
        card: str = "",
        about: str = "",
    ) -> None:
        """Records a model file to register as the next version of `name`.

        Args:
            path: the safetensors file, readable by `model_file.load_model`.
            name: of the registered model, such as temper-student.
            image_shape: (C, H, W), float32 in [0, 1].
            num_classes: number of logits.
            example: a .npy file of a few such images [N, C, H, W].
            tags: of the version: metrics, hashes, verdict.
            card: the version's description, as Markdown.
            about: the description of `name` itself, where it is new.
        """
        kept = [self._keep(Path(path)), self._keep(Path(example))] if self._kept else [""]
        text = {key: str(value) for key, value in tags.items()}
        if all(kept):
            form = {"image_shape": list(image_shape), "num_classes": num_classes}
            self._append("model", kept=kept, name=name, tags=text, card=card, about=about, **form)

    def note(self, text: str) -> None:
        """Records a line, and prints it at once."""
        self._append("note", text=shown(text))
        say(text)

    def end(self, status: EndStatus, reason: str = "") -> None:
        """Ends the journal and sends its records; says so, once and in one line, if they cannot be sent now.

        `reason` is what a person reads of a stage that did not finish.
        """
        if self._ended:
            return
        self._ended = True
        self._append("end", status=status, reason=reason)
        os.close(self._file)
        if status == "FINISHED" and self.stage == journal_files.CLOSING_STAGE:
            journal_files.close_pipeline(self.root, self.pipeline)
        if self._forgotten:
            journal_files.forget(self.path)
        elif tracking() == ON:
            self._send(KILLED_SECONDS if status == "KILLED" else SEND_SECONDS)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # Other errors than a user's mistake say things that only the log may hold.
        self.end(_status(error), str(error) if isinstance(error, InputError) else "")

    def _append(self, event: str, **content: Any) -> None:
        line = json.dumps({"time": time.time_ns() // 1_000, "event": event, **content}, default=str)
        data = f"{self._gap}{line}\n".encode()
        try:
            # One write on an O_APPEND descriptor: lines of threads never mix, a crash tears at most the last one.
            self._gap = "" if os.write(self._file, data) == len(data) else "\n"
        except OSError as error:
            _warn(f"{self.stage}: a record is lost: {self.path}: {error.strerror}")

    def _keep(self, path: Path) -> str:
        """A copy for the forwarder, since the file itself may be another one by the time it is sent."""
        kept = Path("files", secrets.token_hex(6), path.name)
        try:
            (self.path.parent / kept).parent.mkdir(parents=True)
            shutil.copyfile(path, self.path.parent / kept)
        except OSError as error:
            _warn(f"{self.stage}: an artifact is not recorded: {path}: {error.strerror}")
            return ""
        return str(kept)

    def _send(self, seconds: float) -> None:
        """Sends what waits in the pipeline run's folder, in a child that is waited for."""
        log = self.path.parent / "forwarder.log"
        command = [sys.executable, "-m", "temper", "records", "forward", self.pipeline]
        try:
            code = Child([*command, "--root", str(self.root)], log=log).finish(seconds)
        except OSError as error:
            _warn(f"{self.stage}: {error}; the records are kept, send them later: {SEND_LATER}")
            return
        state = journal_files.Sent.of(self.path)
        if journal_files.is_sent(self.path):
            if state.problem:
                _warn(f"{self.stage}: {state.problem}")
            for line in told(state.tracker, state.pages) if self._summarized else []:
                say(line)
            return
        ended = f"not all is sent after {seconds:g} s" if code is None else f"the forwarder stopped (see {log})"
        problem = state.problem or ended
        # Where something has to be done first, the problem says so, and what comes then.
        more = "" if SEND_LATER in problem else f", send them later: {SEND_LATER}"
        _warn(f"{self.stage}: {problem}; the records are kept{more}")


def tracking() -> str:
    """What becomes of records: `off`, nothing is kept; `later`, whoever started the stage sends them; else it does.

    Errors: another value of TEMPER_TRACKING.
    """
    value = os.environ.get(SWITCH, "").lower()
    if value not in ("", ON, LATER, OFF):
        raise InputError(f"{SWITCH}: got {value!r} (allowed: {ON}, {LATER}, {OFF})")
    return value or ON


def _status(error: BaseException | None) -> EndStatus:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    # 128 + signal, as a handler of SIGTERM or SIGINT exits.
    signalled = isinstance(error, SystemExit) and error.code in (130, 143)
    return "KILLED" if signalled or isinstance(error, KeyboardInterrupt) else "FAILED"


def _warn(text: str) -> None:
    say(f"temper: {text}", to=sys.stderr)
