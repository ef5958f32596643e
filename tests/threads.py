"""How many threads a backend has in tests that do not ask how many.

As many as there are cores for each process of tests. Two processes on two cores with two threads
each would wait for each other's cores at every barrier. There one thread is usual, and two are the
other number, which must give the same bits.
"""

from __future__ import annotations

import os

SHARE = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
USUAL = min(2, SHARE)
OTHER = 3 - USUAL
