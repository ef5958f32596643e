"""What all dialects stand on: the engine, how its model is talked to, and who may ask."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ridgeline.async_engine import AsyncEngine
from ridgeline.engine.prompts import Prompts
from ridgeline.engine.request import Service
from ridgeline.llm import LLM
from ridgeline.serve.core.admission import FrontDoor
from ridgeline.serve.core.answer import answer
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.errors import HttpError
from ridgeline.serve.core.events import AnswerEvent, Done
from ridgeline.serve.core.keys import Keys
from ridgeline.serve.core.phrasing import Phrasing
from ridgeline.serve.core.pooling import PoolWorker

MAX_BODY_BYTES = 8 << 20
MAX_SPEECH_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """names: under which the model is asked for, the first is the one that answers carry; any
    other name is refused. keys: none: nobody needs one. lenient: fields that are not known are left
    out and listed, not refused. state: a folder for what outlives the process.

    Of one request: max_body_bytes, four times the default for speech; body_seconds, for it to
    arrive; max_answers, of all its prompts together (n, best_of); max_prompts, of a completions
    request. Of the front door, see `FrontDoor`: max_ttft_seconds, max_queue. drain_seconds: for
    what runs to end after SIGTERM. step_seconds: a step that takes longer is called stuck. hosts:
    names by which a server on loopback may be called, beside localhost's own; None: any.
    access_log: told of each HTTP request, a line of JSON.
    """

    names: tuple[str, ...]
    keys: Keys = field(default_factory=Keys)
    lenient: bool = False
    state: Path | None = None
    max_body_bytes: int = MAX_BODY_BYTES
    body_seconds: float = 30.0
    max_answers: int = 128
    max_prompts: int = 256
    max_ttft_seconds: float = 60.0
    max_queue: int = 1024
    drain_seconds: float = 30.0
    step_seconds: float = 30.0
    hosts: tuple[str, ...] | None = None
    access_log: Callable[[str], None] | None = None


class Core:
    """One server's engine and its ways. Made on the loop that serves."""

    def __init__(self, llm: LLM, options: ServeOptions) -> None:
        self.llm = llm
        if llm.task == "transcribe" and options.max_body_bytes == MAX_BODY_BYTES:
            options = replace(options, max_body_bytes=MAX_SPEECH_BYTES)
        self.options = options
        llm.session.engine.weigh({t.name: t.weight for t in options.keys.tenants.values()})
        self.engine = AsyncEngine(llm, predicts=True)
        self.door = FrontDoor(
            lambda: self.engine.load,
            options.max_ttft_seconds,
            options.max_queue,
            options.keys.tenants,
        )
        # Told of every ask that has come to its end, by whatever dialect.
        self.done_hooks: list[Callable[[Ask, Done], None]] = []
        self.close_hooks: list[Callable[[], object]] = []
        self._pool: PoolWorker | None = None
        # Requests for vectors, ranks, scores and classes that were answered, by what was asked.
        self.pooled: dict[str, int] = {}
        self.phrasing = Phrasing(llm.prompts, llm.session.constraints)
        self.created = int(time.time())
        self._began = time.monotonic()
        self._run = secrets.token_hex(6)
        self._numbers = itertools.count()

    @property
    def model(self) -> str:
        return self.options.names[0]

    def new_id(self, prefix: str) -> str:
        """An id that no other object of this server has, nor of one before it."""
        return f"{prefix}{self._run}{next(self._numbers):08x}"

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def prompts(self) -> Prompts:
        return self.llm.prompts

    def check_model(self, name: str | None) -> None:
        """None: whichever is served. A file's name need not have its ending."""
        if name is not None and not {name, f"{name}.gguf"}.intersection(self.options.names):
            raise HttpError(
                404,
                "not_found",
                f"model: {name!r} is not here; there is {', '.join(self.options.names)}",
                "model",
            )

    def tenant(self, key: str | None) -> str:
        """Whose key it is; the time that takes says nothing of keys."""
        if not self.options.keys:
            return ""
        found = self.options.keys.tenant_of(key)
        if found is None:
            raise HttpError(401, "authentication", "this server wants an API key, and this is none")
        return found.name

    def check_metrics_key(self, key: str | None) -> None:
        if not self.options.keys.may_read_metrics(key):
            raise HttpError(
                401, "authentication", "this wants a key that may read metrics, and this is none"
            )

    def service(
        self,
        tenant: str,
        priority: int = 0,
        cache_salt: str = "",
        timeout_seconds: float | None = None,
    ) -> Service:
        return Service(
            tenant=tenant,
            priority=priority,
            timeout_seconds=timeout_seconds,
            cache_salt=cache_salt,
        )

    def answer(self, ask: Ask) -> AsyncIterator[list[AnswerEvent]]:
        """Events in batches, those that are there at once. Raises, before the first, RequestError
        for what could never run, and Overloaded for what cannot run soon enough. Closing it ends
        the request and frees its memory.
        """
        return answer(self.engine, self.phrasing, self.door, ask, self.done_hooks, self.limit)

    @property
    def limit(self) -> int:
        """Answers that one ask may have."""
        return self.options.max_answers

    def pool(self) -> PoolWorker:
        """The thread of a model that embeds or classifies; made when it is first needed."""
        if self._pool is None:
            self._pool = PoolWorker(self.llm.pooler, self.engine.book)
            self.close_hooks.append(self._pool.close)
        return self._pool

    def count_pooled(self, kind: str) -> None:
        self.pooled[kind] = self.pooled.get(kind, 0) + 1

    @property
    def running(self) -> int:
        """Requests that have a row, and texts of the round that runs."""
        return self.engine.load.running + (0 if self._pool is None else self._pool.running)

    @property
    def waiting(self) -> int:
        """Requests and texts behind those."""
        return self.engine.load.waiting + (0 if self._pool is None else self._pool.waiting)

    @property
    def step_began(self) -> float | None:
        """When what runs began, of `time.monotonic()`; None while nothing does."""
        began = self.engine.step_began
        return self._pool.step_began if began is None and self._pool is not None else began

    def describe_step(self) -> str:
        if self._pool is not None and self._pool.running:
            return f"{self._pool.running} texts"
        return self.engine.describe_step()

    def close(self) -> None:
        self.engine.close()
        for close in self.close_hooks:
            close()
