"""Who is next: the order in which waiting requests are admitted, one file a policy.

A policy is a queue. It gives each request a rank, by which running requests are served and, from
the last, preempted. To add one, write a file and a row here; the simulator has it at once.
"""

from __future__ import annotations

from collections.abc import Callable

from ridgeline.engine.schedule.policies.fair import FairQueue
from ridgeline.engine.schedule.policies.fcfs import FirstComeQueue
from ridgeline.engine.schedule.policies.priority import PriorityQueue
from ridgeline.engine.schedule.policies.queue import Queue

POLICIES: dict[str, Callable[[], Queue]] = {
    "fcfs": FirstComeQueue,
    "priority": PriorityQueue,
    "fair": FairQueue,
}
