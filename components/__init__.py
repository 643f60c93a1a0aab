"""Temper's parts: a folder is a family with a table of members, a file is a part there is one of."""

import os

# Before torch loads OpenMP: its threads wait for each other at every operation, by default for a millisecond without
# giving way. Beside one busy process that makes two threads five to ten times slower than one; this, three times.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
