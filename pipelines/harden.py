"""Runs the flow `harden` for a terminal: what is stale in dvc.yaml, then the result table."""

from pathlib import Path
from typing import Any

from pipelines.running.checkout import sole_run
from pipelines.running.prepare import prepared, require_stages
from pipelines.running.terminal import STAGES_GO_ON, configure, interruptible, status_of


def run(**parameters: Any) -> int:
    """Runs the flow `harden` with its parameters, in this process, and prints the table.

    0 when every stage completed, 1 when one failed, 2 for a user's mistake, 130 when interrupted. Errors: a mistake
    that shows before Prefect is asked for anything.
    """

    def work() -> int:
        root = Path.cwd()
        with sole_run(root):
            require_stages(root, parameters["targets"])
            # First the server, which changes nothing where it is away.
            configure()
            stages = prepared(root, parameters["preset"], parameters["set"], parameters["targets"])
            from pipelines.flows.harden import REPORT, harden, results

            status = status_of(harden, **parameters)
        if status == 0 and REPORT in stages:
            print(f"\n{results(root) or 'no results yet'}")
        return status

    return interruptible(work, STAGES_GO_ON)
