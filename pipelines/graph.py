"""The DVC graph as plain records: which stages there are, in what order, and which have to run."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from networkx import dfs_postorder_nodes

from components.foundation.errors import InputError
from components.foundation.params import is_mapping, read_yaml
from components.foundation.storage import read_text, write_text

COMPUTE = "compute"
LOCK = "dvc.lock"
# What DVC says where another one of its processes reads or writes a file of a stage, and for how long that may be so.
BUSY = re.compile(r"is busy, it is being blocked by")
BUSY_SECONDS, BUSY_POLL_SECONDS = 60.0, 2.0
_ENTRY = re.compile(r"^(?=  \S)", re.MULTILINE)
_OTHER_SECTION = re.compile(r"^\S", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One box of dvc.yaml."""

    name: str
    dependencies: tuple[str, ...]
    """The stages whose outputs it reads, directly."""
    stale: bool
    """Changed itself, or downstream of a stage that is."""
    uses_device: bool
    """Reads the section `compute`, so it computes on the GPU where there is one."""


def stage_names(root: Path) -> list[str]:
    """The names in dvc.yaml, without a look at what they depend on; none where there is no such file."""
    path = root / "dvc.yaml"
    stages = read_yaml(path).get("stages") if path.exists() else None
    return list(stages) if is_mapping(stages) else []


def read_graph(root: Path) -> dict[str, Stage]:
    """All stages with a command, by name, in the order of `dvc repro`: every stage after those it depends on.

    Errors: no DVC project at `root`, or one that DVC cannot read.
    """
    stages: dict[str, Stage] = {}
    try:
        graph, changed = _past_others(lambda: _read(root))
    except DvcException as error:
        if "not a git repository" in str(error):
            remedy = "git init, or without Git: dvc config core.no_scm true"
            raise InputError(f"{root} is not a Git repository, which DVC wants ({remedy})") from None
        raise InputError(f"dvc.yaml: {' '.join(str(error).split())}") from None
    for node in dfs_postorder_nodes(graph):  # edges point to dependencies
        if getattr(node, "cmd", None):
            upstream = sorted(one.addressing for one in graph.successors(node) if one.addressing in stages)
            stages[node.addressing] = Stage(
                name=node.addressing,
                dependencies=tuple(upstream),
                stale=node.addressing in changed or any(stages[name].stale for name in upstream),
                uses_device=any(COMPUTE in getattr(dependency, "params", ()) for dependency in node.deps),
            )
    return stages


def _read(root: Path) -> tuple[Any, set[str]]:
    with Repo(str(root), _wait_for_lock=True) as repo:
        return repo.index.graph, set(repo.status())


def _past_others(read: Callable[[], tuple[Any, set[str]]]) -> tuple[Any, set[str]]:
    """What DVC reads; where another of its processes has one of the files for a moment, what it reads after that."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return read()
        except DvcException as error:
            if not BUSY.search(str(error)) or time.monotonic() > deadline:
                raise
            time.sleep(BUSY_POLL_SECONDS)


def select(stages: Mapping[str, Stage], targets: Sequence[str]) -> dict[str, Stage]:
    """The targets and everything upstream of them, in order; all stages where no target is given."""
    for target in targets:
        if target not in stages:
            raise InputError(f"unknown stage {target!r} (allowed: {', '.join(stages)})")
    wanted = set(targets or stages)
    for name in reversed(list(stages)):
        if name in wanted:
            wanted.update(stages[name].dependencies)
    return {name: stage for name, stage in stages.items() if name in wanted}


def lock_entries(root: Path) -> list[str]:
    """The stages in dvc.lock, in its order."""
    return list(_lock_blocks(root)[1])


def order_lock(root: Path, entries: Sequence[str]) -> None:
    """Puts the stages of dvc.lock in the order of `entries`; others keep their place at the end.

    DVC appends a stage when it ends, so two branches that ran at the same time would come in the order of their luck.
    """
    with Repo(str(root), _wait_for_lock=True) as repo, repo.lock:
        head, blocks = _lock_blocks(root)
        names = [name for name in dict.fromkeys([*entries, *blocks]) if name in blocks]
        if names != list(blocks):
            write_text(root / LOCK, head + "".join(blocks[name] for name in names))


def _lock_blocks(root: Path) -> tuple[str, dict[str, str]]:
    """The text before the first stage, and each stage's own text; nothing where there are other sections to mind."""
    path = root / LOCK
    head, *blocks = _ENTRY.split(read_text(path)) if path.exists() else [""]
    if not head.endswith("stages:\n") or any(_OTHER_SECTION.search(block) for block in blocks):
        return "", {}
    return head, {block.partition("\n")[0].strip().removesuffix(":"): block for block in blocks}
