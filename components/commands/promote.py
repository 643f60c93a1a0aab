"""Gives a registered model an alias, if its evaluation is trusted and its numbers pass. Nothing overrides a rule."""

from typing import NamedTuple

from components.foundation.errors import InputError
from components.tracking import registry
from components.tracking.mlflow_runs import open_client, place
from components.tracking.registry import Bar


class Decision(NamedTuple):
    """Whether a version has the alias now, and one line that names what it passed, or every rule that refuses."""

    promoted: bool
    line: str


def promote(reference: str, bar: Bar) -> Decision:
    """The decision on a version, `models:/NAME/VERSION` or `models:/NAME@ALIAS`, which is carried out.

    Errors: no such version, a bound that is no share, a tracker that does not answer.
    """
    for name, share in (("--min-clean", bar.min_clean), ("--min-worst-case", bar.min_worst_case)):
        if share is not None and not 0 <= share <= 1:
            raise InputError(f"{name}: got {share:g}, want a share from 0 to 1")

    def decided(client: object) -> tuple[str, list[str], list[str]]:
        source = registry.resolve(client, reference)
        return source.title, *registry.promote(client, source, bar)

    title, failed, passed = registry.answered(decided, place(), open_client)
    if failed:
        return Decision(False, f"refused: {title} does not become {bar.alias}: {'; '.join(failed)}")
    return Decision(True, f"{title} is {bar.alias}: {'; '.join(passed)}")
