"""Who else used the processors during a turn: what the machine spent, less the contender's."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds so far: by the clock, of all processors at work (for another guest of the host, too),
    and of one contender's processes and of those that this process has waited for.
    """

    wall: float
    busy: float
    own: float


def clocks(group: int | None) -> Clocks:
    """group: the process group of a contender that stays, if it does."""
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(word) for word in line[1:9])
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    here = resource.getrusage(resource.RUSAGE_SELF)
    own = ended.ru_utime + ended.ru_stime + here.ru_utime + here.ru_stime
    if group is not None:
        own += _group_seconds(group)
    busy = (user + nice + system + irq + softirq + steal) / TICKS
    return Clocks(time.monotonic(), busy, own)


def foreign_share(before: Clocks, after: Clocks, processors: int) -> float:
    """The part of the machine's time, 0..1, that went to neither idling nor the contender."""
    wall = max(after.wall - before.wall, 1e-9)
    foreign = (after.busy - before.busy) - (after.own - before.own)
    return min(max(foreign / (wall * processors), 0.0), 1.0)


def _group_seconds(group: int) -> float:
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name may hold spaces and brackets: what follows its last bracket is regular.
            fields = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS
