"""Callers of one session take turns: one thread at a time, of the process that loaded the model.

The session and the executor below are not thread-safe; two threads in one step would end the
process. It knows nothing of prompts and models.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

from ridgeline.engine.outputs import Delta, RequestOutput
from ridgeline.engine.session import Group, Session
from ridgeline.errors import EngineError


class Turns:
    """Owns who is at the session. After `close`, while it is lent, and in the child of a fork, a
    turn is refused.
    """

    def __init__(self, session: Session) -> None:
        self._session: Session | None = session
        self._process = os.getpid()
        self._lock = Lock()
        self._holder: int | None = None
        self._dropped: deque[Group] = deque()
        self._lent = False

    @contextmanager
    def turn(self) -> Iterator[Session]:
        """The session, and nobody else at it; waits for whoever is. EngineError where there will be
        no turn.
        """
        if self._process != os.getpid():
            raise EngineError("this LLM was loaded before the fork; load one in each process")
        if self._lock.locked() and self._holder == get_ident():
            raise EngineError("this LLM is at work and called this; ask it when that has ended")
        with self._lock:
            self._holder = get_ident()
            try:
                if self._session is None:
                    raise EngineError("this LLM is closed; load the model again")
                if self._lent:
                    raise EngineError("this LLM is an AsyncEngine's; ask that, or close it first")
                self._sweep(self._session)
                yield self._session
            finally:
                self._holder = None

    def drop(self, group: Group) -> None:
        """Frees what a group holds: now, or before the next turn where somebody has this one. Safe
        to call anywhere, of a collector of garbage too.
        """
        if group.done:
            return
        self._dropped.append(group)
        if self._process == os.getpid() and self._lock.acquire(blocking=False):
            try:
                if self._session is not None and not self._lent:
                    self._sweep(self._session)
            finally:
                self._lock.release()

    def lend(self) -> Session:
        """The session, to one who steps it without turns until `give_back`; what runs is over."""
        with self.turn() as session:
            session.abandon_all()
            self._lent = True
            return session

    def give_back(self) -> None:
        self._lent = False

    def close(self) -> None:
        """No turns from now on; what runs is over. May be called twice."""
        if self._process != os.getpid():
            self._session = None  # the threads, and the lock, are the parent's
        if self._session is None:
            return
        with self.turn() as session:
            session.abandon_all()
            self._session = None

    def _sweep(self, session: Session) -> None:
        while self._dropped:
            session.abandon(self._dropped.popleft())


class Stream(Iterator[Delta]):
    """The pieces of one prompt's answers as they come. It owns the request until the last piece."""

    def __init__(self, turns: Turns, group: Group) -> None:
        self._turns = turns
        self._group = group
        self._cancelled = False
        self._closed = False

    def __next__(self) -> Delta:
        group = self._group
        while not self._closed:
            # Another thread may fill it, in its own turn.
            with self._turns.turn() as session:
                if group.deltas:
                    return group.deltas.pop(0)
                if group.done:
                    break
                if self._cancelled:
                    session.cancel(group)
                else:
                    session.step()
        raise StopIteration

    def cancel(self) -> None:
        """Ends the answers at the next piece, as "abort". Safe to call in a signal handler."""
        self._cancelled = True

    @property
    def output(self) -> RequestOutput:
        """The prompt and its answers so far."""
        return self._group.output()

    def close(self) -> None:
        """Ends what still runs and frees its memory; also when the stream is dropped half read."""
        self._closed = True
        self._turns.drop(self._group)

    def __del__(self) -> None:
        self.close()
