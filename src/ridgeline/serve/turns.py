"""The event loop's turn at a core, where the steps of the model have them all.

Since a step's threads leave no core idle, a loop that wakes up waits for one of them to be sent
away: under the system's fair schedulers until that one's slice is over, some milliseconds, every
time that it sleeps, and it sleeps for each lock that the other side of the interpreter has. Linux
(EEVDF, since 6.12) lets a thread say how short the turns are that it needs: who wakes up with less
to do than who runs is let in at once, and gets no more of the machine than before.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

# The system's shortest. What a wake of the loop takes is longer; the rest comes in further turns.
TURN_SECONDS = 1e-4
_SET_ATTRIBUTES, _GET_ATTRIBUTES = {"x86_64": (314, 315), "aarch64": (274, 275)}.get(
    platform.machine(), (None, None)
)


class _Attributes(ctypes.Structure):
    """`struct sched_attr` as it was first published (Linux 3.14), 48 bytes."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def ask_for_short_turns(seconds: float = TURN_SECONDS) -> bool:
    """For the calling thread, and threads that it starts from then on. False where the system has
    no ear for it: an older one, another than Linux, a policy of its own; nothing is changed then.
    """
    if sys.platform != "linux" or _SET_ATTRIBUTES is None:
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    found = _Attributes()
    size = ctypes.sizeof(found)
    if call(_GET_ATTRIBUTES, 0, ctypes.byref(found), size, 0) or found.policy != os.SCHED_OTHER:
        return False
    found.size, found.runtime = size, round(1e9 * seconds)
    return bool(call(_SET_ATTRIBUTES, 0, ctypes.byref(found), 0) == 0)
