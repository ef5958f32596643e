"""The event loop's turns at a core: asked for where the system knows them, for one thread alone."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from ridgeline.serve import turns
from ridgeline.serve.turns import TURN_SECONDS, ask_for_short_turns

T = TypeVar("T")


def in_a_thread(asked: Callable[[], T]) -> T:
    """What is asked for stays with the thread: not the one that runs other tests."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(asked()))
    thread.start()
    thread.join()
    return found[0]


def turn_nanoseconds() -> int:
    found = turns._Attributes()
    size = ctypes.sizeof(found)
    call = ctypes.CDLL(None).syscall
    assert call(turns._GET_ATTRIBUTES, 0, ctypes.byref(found), size, 0) == 0
    return int(found.runtime)


def knows_turns() -> bool:
    """Linux since 6.12: the turn of an ordinary thread can be read."""
    return sys.platform == "linux" and turns._GET_ATTRIBUTES is not None and turn_nanoseconds() > 0


@pytest.mark.skipif(not knows_turns(), reason="the system does not say how long turns are")
def test_the_thread_that_asks_has_short_turns() -> None:
    before = turn_nanoseconds()

    def asked() -> tuple[bool, int, int]:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return ask_for_short_turns(), turn_nanoseconds(), nice

    had = os.getpriority(os.PRIO_PROCESS, 0)
    assert in_a_thread(asked) == (True, round(1e9 * TURN_SECONDS), had)
    assert turn_nanoseconds() == before > 1e9 * TURN_SECONDS


@pytest.mark.skipif(sys.platform != "linux", reason="policies are Linux's")
def test_a_policy_that_somebody_chose_is_left_alone() -> None:
    def asked() -> tuple[bool, int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return ask_for_short_turns(), os.sched_getscheduler(0)

    assert in_a_thread(asked) == (False, os.SCHED_BATCH)


def test_systems_that_do_not_know_it_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_SET_ATTRIBUTES", None)
    assert not in_a_thread(ask_for_short_turns)
