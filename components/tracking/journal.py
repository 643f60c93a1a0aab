"""The record of a stage: an append-only file of JSON lines that another process forwards to MLflow.

A stage only ever appends to a local file, so no tracker can slow or stop it, and sending later is the same as sending
now (`mlflow_runs.py`). A stage that was killed or failed and is run again continues its journal, and so
its MLflow run. Imports neither MLflow nor torch.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from components.tracking.journal_files import (
    CLOSING_STAGE,
    Reader,
    Sent,
    close_pipeline,
    gap,
    journal_for,
    labels,
    on_duty,
    own,
    pipeline_id,
    stage_of,
)

Status = Literal["FINISHED", "FAILED", "KILLED"]

ROOT = Path(".temper")
SEND_LATER = "temper records send"
# The last stage of a pipeline run waits this long for its records to be sent: MLflow's import and a model's upload.
# Others only look whether something is in the way, since the forwarder stays on duty.
WAIT_SECONDS, GLANCE_SECONDS = 60, 2


class Journal:
    """A stage's open journal. As a context manager it ends FINISHED, FAILED (an exception) or KILLED (a signal)."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root, self.stage, self.pipeline = path, root, stage_of(path), path.parent.name
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_RDWR, 0o644)
        self._ended = False
        own(self._file, self.stage)
        self._gap = gap(self._file)

    @classmethod
    def open(cls, stage: str, root: Path | str = ROOT, inputs: str = "") -> "Journal":
        """The journal of a stage in the current pipeline run, with a forwarder on duty.

        Args:
            stage: the stage's name in dvc.yaml.
            root: folder of everything undeclared.
            inputs: hash of what the stage reads; an unfinished journal of the same inputs is continued.
        """
        root = Path(root)
        folder = root / "journals" / pipeline_id(root)
        folder.mkdir(parents=True, exist_ok=True)
        journal = cls(journal_for(folder, stage, inputs), root)
        flow_run = os.environ.get("TEMPER_FLOW_RUN", "")
        told = {"stage": stage, "pipeline": folder.name, "inputs": inputs, "flow_run": flow_run, "labels": labels()}
        journal._append("open", **told, pid=os.getpid())
        journal._call_forwarder()
        return journal

    def params(self, params: Mapping[str, Any]) -> None:
        """Records what the stage was told: a tree of parameters."""
        self._append("params", params=params)

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Records what the stage ran as: `git.commit`, `dvc.*` hashes, device; any text."""
        self._append("tags", tags={key: str(value) for key, value in tags.items()})

    def metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records numbers, of an epoch (`step`) or of the whole stage. The first value of a (name, step) stands."""
        self._append("metrics", metrics={key: float(value) for key, value in metrics.items()}, step=step)

    def headline(self, metrics: Mapping[str, float]) -> None:
        """Records numbers of the stage that the pipeline's run carries too, for comparing pipelines."""
        self._append("headline", metrics={key: float(value) for key, value in metrics.items()}, step=None)

    def dataset(
        self,
        name: str,
        digest: str,
        path: Path | str,
        image_shape: Sequence[int],
        classes: Sequence[str],
        counts: Mapping[str, int],
        context: str = "training",
    ) -> None:
        """Records the images used: digest of their file, (C, H, W), class names, number of images per split."""
        schema = {"image_shape": list(image_shape), "classes": list(classes), "counts": dict(counts)}
        self._append("dataset", name=name, digest=digest, path=str(path), context=context, **schema)

    def upstream(self, hashes: Mapping[str, str]) -> None:
        """Records the files the stage reads, name to SHA-256; a link to the run that produced each."""
        self._append("upstream", hashes=dict(hashes))

    def produced(self, hashes: Mapping[str, str]) -> None:
        """Records the files the stage writes, name to SHA-256, under the names that `upstream` asks for."""
        self._append("produced", hashes=dict(hashes))

    def artifact(self, path: Path | str, folder: str = "", on_pipeline: bool = False) -> None:
        """Records a file as it is now, under `folder` of the stage's artifacts and, if asked, of the pipeline's."""
        if kept := self._keep(Path(path)):
            self._append("artifact", kept=[kept], folder=folder, on_pipeline=on_pipeline)

    def model(
        self,
        path: Path | str,
        name: str,
        image_shape: Sequence[int],
        num_classes: int,
        example: Path | str,
        tags: Mapping[str, Any],
    ) -> None:
        """Records a model file to register as the next version of `name`.

        Args:
            path: the safetensors file, readable by `model_file.load_model`.
            name: of the registered model, such as temper-student.
            image_shape: (C, H, W), float32 in [0, 1].
            num_classes: number of logits.
            example: a .npy file of a few such images [N, C, H, W].
            tags: of the version: metrics, hashes, verdict.
        """
        kept = [self._keep(Path(path)), self._keep(Path(example))]
        text = {key: str(value) for key, value in tags.items()}
        if all(kept):
            form = {"image_shape": list(image_shape), "num_classes": num_classes}
            self._append("model", kept=kept, name=name, tags=text, **form)

    def note(self, text: str) -> None:
        """Records a line, and prints it at once."""
        self._append("note", text=text)
        print(text, flush=True)

    def end(self, status: Status) -> None:
        """Ends the journal; says so, once and in one line, if its records cannot be sent now."""
        if self._ended:
            return
        self._ended = True
        self._append("end", status=status)
        os.close(self._file)
        if status == "FINISHED" and self.stage == CLOSING_STAGE:
            close_pipeline(self.root, self.pipeline)
        # Who sends a signal sends a stronger one soon: the forwarder, in its own session, does the rest.
        if status != "KILLED" and tracking_is_on():
            self._call_forwarder()
            if problem := self._await_forwarder():
                _warn(f"{self.stage}: {problem}; the records are kept, send them later: {SEND_LATER}")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end(_status(error))

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

    def _call_forwarder(self) -> None:
        if not tracking_is_on() or on_duty(self.path.parent):
            return
        command = [sys.executable, "-m", "components.tracking.mlflow_runs", "follow", str(self.path.parent)]
        with contextlib.suppress(OSError), (self.path.parent / "forwarder.log").open("ab") as log:
            # It goes to the background by itself, and holds none of the stage's streams open.
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)

    def _await_forwarder(self) -> str:
        """What is in the way of sending, or nothing."""
        reader = Reader(self.path)
        reader.new()
        last = self.stage == CLOSING_STAGE
        deadline = time.monotonic() + (WAIT_SECONDS if last else GLANCE_SECONDS)
        while time.monotonic() < deadline:
            working = on_duty(self.path.parent)
            state = Sent.of(self.path)
            connected = state.run and working and not last and not state.problem
            if connected or state.sent >= reader.lines or (state.problem and state.tried >= reader.lines):
                return state.problem
            if not working:
                return f"the forwarder stopped (see {self.path.parent / 'forwarder.log'})"
            time.sleep(0.05)
        return f"not all is sent after {WAIT_SECONDS} s" if last else ""


def tracking_is_on() -> bool:
    """Whether a forwarder is to run: not with TEMPER_TRACKING=off."""
    return os.environ.get("TEMPER_TRACKING", "").lower() != "off"


def _status(error: BaseException | None) -> Status:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    # 128 + signal, as a handler of SIGTERM or SIGINT exits.
    signalled = isinstance(error, SystemExit) and error.code in (130, 143)
    return "KILLED" if signalled or isinstance(error, KeyboardInterrupt) else "FAILED"


def _warn(text: str) -> None:
    print(f"temper: {text}", file=sys.stderr, flush=True)
