"""The name of a pipeline run."""

import random
from datetime import UTC, datetime, timedelta

from components.foundation.process import new_pipeline_id


def test_names_of_pipeline_runs_sort_by_time():
    """Also within a second: records are sent in this order, and versions are numbered by it."""
    rng, now, names = random.Random(0), datetime(2026, 11, 27, 23, 59, 58, tzinfo=UTC), list[str]()
    for _ in range(3000):
        names.append(new_pipeline_id(now))
        now += timedelta(microseconds=rng.randrange(16, 2000))
    assert names == sorted(names) and len(set(names)) == len(names)
    assert {len(name) for name in names} == {len("20261127-235958-0000")}
