"""MLflow's client: where it connects to, within which bounds, and what it says in one line where it cannot.

Where to: MLFLOW_TRACKING_URI, else mlflow.db and mlartifacts/ in the project.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.foundation.lines import shown
from components.tracking import database
from components.tracking.delivery import Unreachable, first_line, require_reachable

# Set unless the user has: MLflow's own defaults keep trying for many minutes.
BOUNDS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def place() -> str:
    """Where records go: MLFLOW_TRACKING_URI, else a database in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def open_client(uri: str) -> Any:
    """MLflow's client. Errors: Unreachable, within seconds."""
    if importlib.util.find_spec("mlflow") is None:
        raise Unreachable("MLflow is not installed")
    try:
        return _opened(uri)
    except Unreachable:
        raise
    # Besides MLflow's own errors those of SQLAlchemy and of whatever module an address asks for.
    except Exception as error:
        raise unreachable(uri, error) from error


def unreachable(uri: str, error: Exception) -> Unreachable:
    """The error as one line that names the tracker."""
    return Unreachable(str(error) if isinstance(error, InputError) else f"MLflow at {shown(uri)}: {first_line(error)}")


def _opened(uri: str) -> Any:
    require_reachable(uri)
    for key, value in BOUNDS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    if (file := database.file_of(uri)) is None:
        return MlflowClient(uri)
    with database.alone(file, lambda there: _require_version(there, uri)):
        client = MlflowClient(uri)
        # Each makes its tables when it is first asked.
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
        return client


def _require_version(file: Path, uri: str) -> None:
    """Says what MLflow would say of other tables, with the whole remedy; what it cannot tell is left to MLflow."""
    from alembic.script import ScriptDirectory
    from mlflow.store import db_migrations

    scripts = ScriptDirectory(str(Path(next(iter(db_migrations.__path__)))))
    known = [script.revision for script in scripts.walk_revisions()]
    database.require_version(file, shown(uri), known, known[0])


def asked(question: Callable[[Any], Any]) -> Any:
    """What `question` finds out from the client. Errors: InputError, also where nothing was recorded."""
    uri = place()
    if (file := database.file_of(uri)) and not file.exists():
        # Opening it would make it.
        raise InputError(f"{uri}: no such database, nothing has been recorded here (set MLFLOW_TRACKING_URI?)")
    try:
        return question(open_client(uri))
    except Unreachable as error:
        raise InputError(str(error)) from None
    except Exception as error:
        if not type(error).__module__.startswith("mlflow."):
            raise
        raise InputError(f"MLflow at {shown(uri)}: {first_line(error)}") from None


def download(uri: str, folder: Path) -> Path:
    """Where the files of a model or an artifact are, after copying them into the folder."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=place()))
