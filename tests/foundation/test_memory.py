"""A lack of memory is one line with what to lower, and what is free is the least of all limits."""

import errno
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from components.foundation.errors import InputError
from components.foundation.memory import free_main_memory, lack_of_memory, within_memory
from components.foundation.process import as_process

GIB = 2**30
MEMINFO = "MemTotal: 9 kB\nMemAvailable: 8388608 kB\n"
STATUS = "Name: python\nVmSize: 2097152 kB\nVmData: 1048576 kB\n"


class OutOfMemoryError(RuntimeError):
    """Torch's, by its name."""


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0\nhas"), "GPU, asked for 20.00 MiB"),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1572864 bytes."
            ),
            "main memory, asked for 1.50 MiB",
        ),
        (RuntimeError("std::bad_alloc"), "main memory"),
        # What oneDNN says of a convolution.
        (RuntimeError("could not create a primitive"), "main memory"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), "GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "GPU"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "GPU"),
        (RuntimeError("can't start new thread"), "main memory"),
        # What the loader says of a library, and Python of its own parts.
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "main memory"),
        (SystemError("error return without exception set"), "main memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "a file"), "main memory"),
        (MemoryError(), "main memory"),
        (MemoryError("Unable to allocate 3.00 GiB for an array with shape (9,)"), "main memory, asked for 3.00 GiB"),
    ],
)
def test_it_is_one_line_with_the_remedy(error, where, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # pytest keeps its own
    assert lack_of_memory(error) == f"out of memory ({where})"
    with pytest.raises(InputError) as caught, within_memory("lower batch_size"):
        raise error
    assert str(caught.value) == f"out of memory ({where}): lower batch_size"
    with pytest.raises(SystemExit) as ended, as_process("stage"):
        raise error
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith(f"stage: error: out of memory ({where}): ")
    assert said.count("\n") == 1


def test_an_array_that_no_memory_holds_is_such_a_lack():
    with pytest.raises(InputError, match=r"^out of memory \(main memory, asked for 1.00 EiB\)"), within_memory("less"):
        np.empty(2**60, dtype=np.uint8)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.ENOENT, "No such file"), KeyError("a")])
def test_another_error_stays_what_it_is(error):
    assert lack_of_memory(error) == ""
    with pytest.raises(type(error)) as caught, within_memory("lower batch_size"):
        raise error
    assert caught.value is error


def group(folder: Path, prefix: str, files: dict[str, str]) -> None:
    (folder / prefix).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / prefix / name).write_text(text, encoding="ascii")


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_its_own_limit(version, tmp_path):
    """Its cache of files can be given back."""
    group(tmp_path, "", {"meminfo": MEMINFO})
    group(tmp_path, "self", {"status": STATUS})
    free = lambda: free_main_memory(tmp_path, tmp_path / "groups")  # noqa: E731
    assert free() == 8 * GIB
    prefix, names = (
        (".", ("memory.max", "memory.current", "inactive_file"))
        if version == 2
        else ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
    )
    values = {names[0]: f"{4 * GIB}\n", names[1]: f"{3 * GIB}\n", "memory.stat": f"anon 7\n{names[2]} {GIB}\n"}
    group(tmp_path / "groups", prefix, values)
    assert free() == 2 * GIB
    group(tmp_path / "groups", prefix, {names[0]: "max\n" if version == 2 else "9223372036854771712\n"})
    assert free() == 8 * GIB
    group(tmp_path / "groups", prefix, {names[0]: f"{GIB}\n"})
    assert free() == 0


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("limited", ["slice/job", "slice", "."])
def test_a_group_within_groups_has_the_limit_of_each(limited, version, tmp_path):
    """As of a job of systemd or Slurm, whose group is not the root of those that the process sees."""
    group(tmp_path, "", {"meminfo": MEMINFO})
    group(tmp_path, "self", {"status": STATUS, "cgroup": ["", "9:cpu,memory:/slice/job\n", "0::/slice/job\n"][version]})
    names = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    values = {names[0]: f"{4 * GIB}\n", names[1]: f"{3 * GIB}\n", "memory.stat": f"{names[2]} 0\n"}
    tree = tmp_path / "groups" / ("." if version == 2 else "memory")
    group(tree, limited, values)
    group(tree, "another", values | {names[0]: "1\n"})
    assert free_main_memory(tmp_path, tmp_path / "groups") == GIB


@pytest.mark.parametrize(("kind", "used"), [("RLIMIT_AS", 2 * GIB), ("RLIMIT_DATA", GIB)])
def test_a_process_has_its_own_limit(kind, used, tmp_path, monkeypatch):
    group(tmp_path, "", {"meminfo": MEMINFO})
    group(tmp_path, "self", {"status": STATUS})
    limited = getattr(resource, kind)
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (5 * GIB if asked == limited else -1, -1))
    assert free_main_memory(tmp_path, tmp_path) == 5 * GIB - used


def test_where_the_system_tells_nothing_half_of_the_memory_is_free(tmp_path):
    assert 10**7 < free_main_memory(tmp_path, tmp_path) < 10**14
