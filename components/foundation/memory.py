"""Main memory: how much is free for this process, and how a lack of memory ends, in one line with what to lower."""

import errno
import os
import re
import resource
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from components.foundation.errors import InputError

# Torch has no class of its own for the memory of the CPU: its libraries and Python say it in these words.
_WORDS = re.compile(
    r"not enough memory|(?:can't|cannot) allocate memory|bad_alloc|can't start new thread|"
    "could not create a primitive$|failed to map segment from shared object|error return without exception set",
    re.IGNORECASE,
)
_KINDS = (RuntimeError, OSError, ImportError, SystemError)
_GPU_WORDS = re.compile(r"CUDA error: out of memory|CU(?:BLAS|DNN|FFT)_STATUS_ALLOC_FAILED")
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+ \w+)", re.I)
_NO_LIMIT = 2**62
# Files of a control group, such as a container's: its limit, what it uses, and of that what can be given back. The
# first version has a tree of groups for memory alone.
_GROUPS = {
    "": (".", ("memory.max", "memory.current", "inactive_file")),
    "memory": ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
}


def lack_of_memory(error: BaseException) -> str:
    """What was short, in words: `out of memory (GPU, asked for 20.00 MiB)`; nothing for every other error."""
    # By name, since importing torch takes seconds, and such an error can only occur where torch is loaded already.
    text = str(error)
    spoken = isinstance(error, _KINDS)
    on_gpu = "OutOfMemoryError" in {kind.__name__ for kind in type(error).__mro__}
    on_gpu = on_gpu or (spoken and _GPU_WORDS.search(text) is not None)
    said = spoken and (_WORDS.search(text) is not None or getattr(error, "errno", None) == errno.ENOMEM)
    if not on_gpu and not isinstance(error, MemoryError) and not said:
        return ""
    asked = _ASKED.search(text)
    size = f", asked for {_readable(asked[1])}" if asked else ""
    return f"out of memory ({'GPU' if on_gpu else 'main memory'}{size})"


def _readable(size: str) -> str:
    """An amount as it was said, but plain bytes in MiB."""
    number, unit = size.split()
    return f"{float(number) / 2**20:.2f} MiB" if unit == "bytes" else size


@contextmanager
def within_memory(remedy: str) -> Generator[None]:
    """Has a lack of memory inside the block end in one line, with the remedy."""
    try:
        yield
    except (MemoryError, *_KINDS) as error:
        if short := lack_of_memory(error):
            raise InputError(f"{short}: {remedy}") from None
        raise


def free_main_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still take: of the system, of its container and of its own limits the least."""
    system = _kibibytes(proc / "meminfo", "MemAvailable")
    if system is None:
        system = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limits = {"VmSize": resource.RLIMIT_AS, "VmData": resource.RLIMIT_DATA}
    own = [_left(resource.getrlimit(kind)[0], _kibibytes(proc / "self/status", name)) for name, kind in limits.items()]
    return min([system, *own, *_left_in_groups(proc, groups)])


def _left_in_groups(proc: Path, groups: Path) -> Iterator[int]:
    """What is left in the group of this process and in each group around it; a limit of any of them holds."""
    within = _own_groups(proc)
    for controller, (tree, names) in _GROUPS.items():
        place = PurePosixPath(within.get(controller, "/"))
        for path in (place, *place.parents):
            yield _left_in_group(groups / tree / path.relative_to("/"), *names)


def _own_groups(proc: Path) -> dict[str, str]:
    """The group of this process in each tree of groups, `memory` -> `/some/group`; that of the second version is ``."""
    try:
        lines = [line.split(":", 2) for line in (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: line[2] for line in lines if len(line) == 3 and line[2][:1] == "/" for name in line[1].split(",")}


def _left(limit: int, used: int | None) -> int:
    return max(0, limit - (used or 0)) if limit != resource.RLIM_INFINITY else _NO_LIMIT


def _left_in_group(folder: Path, limit: str, used: str, given_back: str) -> int:
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        cache = dict(line.split(maxsplit=1) for line in lines)[given_back]
        taken = int((folder / used).read_text(encoding="ascii")) - int(cache)
    except (OSError, KeyError, ValueError):
        return _NO_LIMIT
    return _NO_LIMIT if most == "max" else max(0, int(most) - taken)


def _kibibytes(path: Path, name: str) -> int | None:
    """The bytes of one line `name: N kB`; None where there is no such line."""
    try:
        lines = dict(line.split(":", 1) for line in path.read_text(encoding="ascii", errors="replace").splitlines())
        return 1024 * int(lines[name].split()[0])
    except (OSError, KeyError, ValueError):
        return None
