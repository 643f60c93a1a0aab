"""What a stage keeps outside its declared outputs: unfinished work to go on from, finished work to publish again.

Both lie in a folder named by the stage and by a hash of what its numbers depend on (`provenance.inputs_of`), so nothing
is continued or published that would come out otherwise today.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from components.foundation.errors import InputError
from components.foundation.params import typed
from components.foundation.process import WORK
from components.foundation.provenance import Inputs, differences, fingerprint
from components.foundation.storage import read_json, replacing, sha256, write_json

FOLDER = WORK / "resume"
CHECKPOINT = "checkpoint.safetensors"
ANEW = "TEMPER_ANEW"
"""With 1 in this variable of the environment, finished work is computed again; unfinished work goes on."""
# As many as one line can hold.
SHOWN = 6


class KeptWork:
    """The kept work of one stage under one set of inputs; `folder` is for the stage's own unfinished files.

    `given_up`: it was finished and is to be computed again.
    """

    def __init__(self, stage: str, inputs: Inputs) -> None:
        self.stage, self.inputs, self.given_up = stage, inputs, False
        self.folder = FOLDER / f"{stage}-{fingerprint(inputs)}"

    def begin(self, note: Callable[[str], None]) -> None:
        """Notes down the inputs; says, where work of this stage is there that they do not fit, what differs."""
        if not (self.folder / CHECKPOINT).exists() and not self.given_up:
            for kind, file in (("a checkpoint is there", CHECKPOINT), ("it was finished", "finished.json")):
                if other := self._other(file):
                    note(f"{self.stage}: starts anew, {kind} for other inputs: {_shown(other, self.inputs)}")
                    break
        write_json(self.folder / "inputs.json", self.inputs)

    def finish(self, outputs: Sequence[str]) -> None:
        """Keeps the published `outputs`, in place of unfinished work and of what was finished under other inputs."""
        kept = self.folder / "outputs"
        kept.mkdir(exist_ok=True)
        for number, path in enumerate(outputs):
            _link(Path(path), kept / str(number))
        # From here on the work is finished: a kill below leaves files that nobody needs.
        write_json(self.folder / "finished.json", {path: sha256(path) for path in outputs})
        self._tidy()

    def published_again(self) -> bool:
        """Whether the stage is finished under these inputs; then its outputs are in place again, each in one step."""
        if not (self.folder / "finished.json").exists():
            return False
        hashes = noted(self.folder / "finished.json")
        kept = {path: self.folder / "outputs" / str(number) for number, path in enumerate(hashes)}
        # Somebody may have changed a file in place, through whatever link: then it is not what was published.
        whole = bool(hashes) and all(copy.exists() and sha256(copy) == hashes[path] for path, copy in kept.items())
        if not whole or os.environ.get(ANEW) == "1":
            shutil.rmtree(self.folder)
            self.given_up = True
            return False
        for path, copy in kept.items():
            with replacing(path) as partial:
                partial.write_bytes(copy.read_bytes())
        return True

    def _other(self, file: str) -> Path | None:
        """The folder under other inputs that holds such a file, the newest one if there are several."""
        found = [path for path in FOLDER.glob(f"{self.stage}-*/{file}") if path.parent != self.folder]
        return max(found, key=lambda path: path.stat().st_mtime).parent if found else None

    def _tidy(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in ("inputs.json", "finished.json", "outputs"):
                path.unlink()
        for path in FOLDER.glob(f"{self.stage}-*/finished.json"):
            if path.parent != self.folder:
                shutil.rmtree(path.parent)


def _link(path: Path, copy: Path) -> None:
    """The file under a second name; where no link can be made, its bytes."""
    copy.unlink(missing_ok=True)
    try:
        os.link(path, copy)
    except OSError:
        shutil.copyfile(path, copy)


def noted(path: Path) -> dict[str, str]:
    """The texts by name that a file of ours holds; none where a power cut has left something else."""
    with suppress(InputError):
        return typed(dict[str, str], read_json(path), str(path))
    return {}


def _shown(other: Path, inputs: Inputs) -> str:
    """What differs from the inputs of another folder, as far as a line can hold it."""
    if not (other_inputs := noted(other / "inputs.json")):
        return "they were not noted down"
    found = differences(other_inputs, inputs)
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more
