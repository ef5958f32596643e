"""A request: what a caller asks for (`SamplingParams`) and how far it is (`Request`).

Field names are those that users of vLLM's offline API know. A value that is not allowed is a
`RequestError` that names the field; nothing is clamped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from ridgeline.engine.kv.prefix import CacheMiss
from ridgeline.errors import RequestError, RidgelineError
from ridgeline.step import RowSampling

FinishReason = Literal["stop", "length", "abort", "error", "deadline"]
Rank = tuple[float, int]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue a prompt.

    n: answers per prompt, with seeds seed, seed + 1, ... temperature 0: the likeliest token. top_k
    0 (or -1), top_p 1 and min_p 0 are off. seed None: one is drawn, and the answer says which.
    max_tokens None: until the model stops or its context is full. stop: strings that end the
    answer, left out of it unless include_stop_str_in_output. logprobs: of the sampled token and
    this many likeliest besides.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        _whole("n", self.n, 1, 1024)
        _number("temperature", self.temperature, 0.0, 100.0)
        _number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _whole("top_k", self.top_k, -1, 2**31 - 1)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.0, 100.0, open_low=True)
        if self.seed is not None:
            _whole("seed", self.seed, 0, 2**64 - 1)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1, 2**31 - 1)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, 256)
        if any(not isinstance(s, str) or not s for s in self.stop_strings):
            raise RequestError("stop", "must be strings of at least one character")
        for token_id in self.stop_token_ids:
            _whole("stop_token_ids", token_id, 0, 2**31 - 1)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def row_sampling(self, seed: int) -> RowSampling:
        return RowSampling(
            repetition_penalty=self.repetition_penalty,
            temperature=self.temperature,
            top_k=max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            seed=seed,
            num_logprobs=-1 if self.logprobs is None else self.logprobs,
        )


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(name, f"{value!r} is not a whole number from {low} to {high}")


def _number(name: str, value: object, low: float, high: float, open_low: bool = False) -> None:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not low <= value <= high or (open_low and value == low):  # type: ignore[operator]
        above = "above" if open_low else "from"
        raise RequestError(name, f"{value!r} is not a number {above} {low:g} up to {high:g}")


class Status(Enum):
    """WAITING: no row. RUNNING: has a row and blocks. FINISHED: has given both back."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """One answer in the making: what is asked, and the scheduler's record of it.

    token_ids: prompt and answer so far. salt: keeps the prefix cache apart. tenant, priority (lower
    is sooner): for the policies that look at them. arrival, deadline: seconds of the clock that
    `schedule` is told; at its deadline a request ends. fork_of: a request whose tokens begin with
    the same ones; what that has computed is shared, once it has computed its prompt.

    The record. number: order of coming. rank: order of service. num_planned: tokens computed once
    all planned steps have run; num_computed: by steps that were booked. num_pending: tokens that
    planned steps will sample. blocks: the row's table, of which the executor has been told
    num_told. names: of its full blocks; num_published: of these, in the prefix cache. num_cached:
    tokens that were there at the first admission; cache_miss: why not more. num_preemptions,
    num_recomputed: times that it gave its blocks back, and tokens computed again for it. admitted:
    when it first had a row.
    """

    id: str
    token_ids: list[int]
    num_prompt: int
    max_tokens: int
    sampling: RowSampling
    stop_token_ids: frozenset[int]
    salt: bytes = b""
    tenant: str = ""
    priority: int = 0
    arrival: float = 0.0
    deadline: float | None = None
    fork_of: str | None = None
    status: Status = Status.WAITING
    number: int = 0
    rank: Rank = (0.0, 0)
    row: int = -1
    num_planned: int = 0
    num_computed: int = 0
    num_pending: int = 0
    num_charged: int = 0
    blocks: list[int] = field(default_factory=list)
    num_told: int = 0
    names: list[bytes] = field(default_factory=list)
    num_published: int = 0
    num_cached: int | None = None
    cache_miss: CacheMiss | None = None
    num_preemptions: int = 0
    num_recomputed: int = 0
    admitted: float | None = None

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt


@dataclass(frozen=True, slots=True)
class Event:
    """What a step did to a request: a token, or its end, or both. error says why it ended in
    "error".
    """

    request_id: str
    token_id: int | None = None
    logprob: float = 0.0
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None
    error: RidgelineError | None = None
