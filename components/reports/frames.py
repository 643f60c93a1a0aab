"""Tidy tables in pandas, which is an extra: imported here alone, and only when a table is made."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.foundation.errors import InputError


def frame(content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
    """A `pandas.DataFrame` of columns by name, or of rows. Error: pandas is not installed."""
    return _pandas().DataFrame(content)


def joined(frames: Iterable[Any]) -> Any:
    """The rows of all `frames`, which have the same columns, in one."""
    return _pandas().concat(frames, ignore_index=True)


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError:
        raise InputError("tables: need pandas, which is not installed (pip install '.[report]')") from None
    return pandas
