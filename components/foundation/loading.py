"""Imported before all libraries: a lack of memory while they are loaded ends with one line and exit status 2.

`python -m` imports the packages around a module before the module itself can do anything.
"""

import os
import sys
from types import TracebackType

from components.foundation.lines import say
from components.foundation.memory import lack_of_memory
from components.foundation.process import USER_ERROR

REMEDY = "the libraries alone take more; free some, or raise the limit of the process or of its container"
# What the line itself needs.
_reserve = [bytearray(2**22)]


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What becomes of an error that nobody catches."""
    _reserve.clear()
    if not (short := lack_of_memory(error)):
        sys.__excepthook__(kind, error, trace)
        return
    stage = sys.orig_argv[-1].rpartition(".")[2]
    say(f"{stage}: error: {short}: {REMEDY}", to=sys.stderr)
    sys.stderr.flush()
    # What libraries do at the end would need memory too.
    os._exit(USER_ERROR)


# So it is called while the interpreter looks for the module. Who imports a package for something else is left alone.
if sys.argv[0] == "-m":
    sys.excepthook = tell
