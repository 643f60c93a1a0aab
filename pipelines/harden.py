"""The command line of the flow: runs what is stale in dvc.yaml, then prints the result table.

    python -m pipelines.harden --preset cifar10_fast --set distill_student.recipe.epochs=10

Without PREFECT_API_URL Prefect starts a temporary server for the run.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.parameters import change as parameters

SETTINGS = {
    # Lines of the flow and its stages, and warnings of everything else.
    "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)s | %(message)s",
    # The temporary server: a busy machine needs longer than 20 s for the first one, which makes the database.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.harden", description="Runs what is stale in dvc.yaml.")
    parser.add_argument("targets", nargs="*", metavar="STAGE", help="stages to run, with all upstream (default: all)")
    parameters.add_arguments(parser)
    parser.add_argument("--force", action="store_true", help="run the stages even where nothing changed")
    parser.add_argument("--retries", type=int, default=2, metavar="N", help="tries after a failure (default: 2)")
    parser.add_argument(
        "--retry-delay", type=float, default=10, metavar="SECONDS", help="wait before one (default: 10)"
    )
    parser.add_argument("--stage-hours", type=float, default=24, metavar="HOURS", help="limit per try (default: 24)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the flow in this process: 0 when every stage completed, 1 when one failed, 130 when interrupted."""
    given = _arguments(arguments)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # Prefect reads its settings when it is imported.
    from pipelines.flows.harden import harden, results

    try:
        state = harden(
            preset=given.preset,
            set=given.assignments,
            targets=given.targets,
            force=given.force,
            retries=given.retries,
            retry_delay_seconds=given.retry_delay,
            stage_hours=given.stage_hours,
            return_state=True,  # pyright: ignore[reportCallIssue]
        )
    except KeyboardInterrupt:
        print("stopped; the stages go on from their checkpoints next time", file=sys.stderr)
        return 130
    if not state.is_completed():
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    print(f"\n{results(Path.cwd()) or 'no results yet'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
