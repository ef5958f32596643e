"""The process: one uvicorn server over one engine, its limits on connections, and its end.

SIGTERM or Ctrl-C: new work is refused with 503, what runs is finished, within `drain_seconds`. The
same again: the process ends at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from ridgeline.errors import RidgelineError
from ridgeline.serve.accept import Acceptor
from ridgeline.serve.app import build_guard, logged
from ridgeline.serve.core.core import Core
from ridgeline.serve.protocol import protocol_of
from ridgeline.serve.refusals import Refusals
from ridgeline.serve.turns import ask_for_short_turns

logger = logging.getLogger("ridgeline.serve")

# Objects made until the youngest are looked through, and how often that until older ones are.
GC_THRESHOLDS = (5_000, 20, 20)


class _Server(uvicorn.Server):
    """uvicorn, with an end of our own."""

    def __init__(
        self,
        config: uvicorn.Config,
        core: Core,
        refusals: Refusals,
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._core = core
        self._refusals = refusals
        self._ready = ready
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        loop = self._loop = asyncio.get_running_loop()
        if self.should_exit:
            return

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                _loop=loop,
            )
            return made

        refuse = partial(self._refusals.of, self.server_state)
        door = self._core.door
        for listening in sockets or ():
            acceptor = Acceptor(listening, protocol, lambda: door.crowded, refuse)
            self.servers.append(acceptor)  # type: ignore[arg-type]  # it ends as theirs do
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {one: signal.signal(one, self.handle_exit) for one in signals}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._core.door.draining or self._loop is None:
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
            return
        self._core.door.draining = True
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        seconds = self._core.options.drain_seconds
        running = self._core.door.running
        if running:
            told = "ending: %d answers are being finished, for %g s at most"
            logger.warning(told, running, seconds)
        deadline = time.monotonic() + seconds
        while self._core.door.running and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        left = self._core.door.running
        if left:
            logger.warning("ending: %d answers are cut off", left)
            self.config.timeout_graceful_shutdown = 1
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises RidgelineError that says why not."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        raise RidgelineError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return made


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RidgelineError(f"--host {host}: {error.strerror or error}") from None
    addresses = [str(one[4][0]) for one in found]
    return all(one == "::1" or one.startswith("127.") for one in addresses)


def serve(core: Core, listening: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
    """Serves until a signal ends it. ready: called once requests are answered."""
    # Between steps the engine's thread runs Python; requests should not wait 5 ms for their turn.
    sys.setswitchinterval(0.001)
    ask_for_short_turns()
    guard = build_guard(core)
    app = logged(guard, core)
    refusals = Refusals(guard, core.options.access_log)
    # What lives as long as the process is not looked through for garbage again and again: that
    # took tens of milliseconds, in which no step began and nothing was written.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    config = uvicorn.Config(
        app,
        http=protocol_of(refusals),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    try:
        _Server(config, core, refusals, ready).run(sockets=[listening])
    finally:
        core.close()
        gc.unfreeze()  # else what is frozen outlives the interpreter, and nanobind says so
