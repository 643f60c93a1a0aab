"""A process that ends with the one that started it: when told to, within a time, or at once when that one is gone.

Both sides are here. The starter holds the write end of a pipe that is the child's standard input. One byte says
"finish"; the end of the pipe says that the starter is gone, however it went. No signal and no process id is needed.
"""

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired


class Child:
    """The starter's side: a running command that answers to `finish_requested`."""

    def __init__(
        self, command: Sequence[str], log: Path, root: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        with log.open("ab") as file:
            # A session of its own: Ctrl-C and what else goes to the starter's group is the starter's to pass on.
            self.process = Popen(
                command, cwd=root, env=environment, stdin=PIPE, stdout=file, stderr=file, start_new_session=True
            )

    def finish(self, seconds: float) -> int | None:
        """The exit status of the child after it was told to finish, or None if it was killed after so many seconds."""
        assert self.process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.process.stdin.fileno(), b".")
            return self.process.wait(seconds)
        except TimeoutExpired:
            return None
        finally:
            # On any exception too, such as a second signal.
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()


def finish_requested() -> threading.Event:
    """The child's side: set when the starter says so. From now on this process ends when the starter is gone."""
    finish = threading.Event()

    def listen() -> None:
        # Not through `sys.stdin`, whose lock the interpreter wants when it ends.
        while os.read(0, 1):
            finish.set()
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    return finish
