"""What a prefix cache of each size would have found of a recorded load, in one pass.

A block's stack distance is how many others were used since it was used last: a cache of the least
recently used that holds more than those still has it (Mattson et al., "Evaluation techniques for
storage hierarchies", 1970). A prompt uses its blocks from the last to the first, as they are given
back, so that of a prefix the end goes first; a cache then holds a prefix up to a length, never a
block without those before it, and one pass over the trace is every size of cache at once.

Requests are taken one after the other: what runs at the same time owns blocks that a real cache
could not give away, and a prompt is found only once it is computed. So this is what a cache of that
size could find; `ridgeline simulate` says what it does find, at one size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import RidgelineError
from ridgeline.plan.traces import HASHED_TOKENS, Arrival


@dataclass(frozen=True, slots=True)
class Reuse:
    """distances: of every full block of a prompt that came before and of whose prefix all blocks
    did, the blocks that a cache must hold to have it, ascending. prompt_tokens: of all requests.
    unique_blocks: different ones. gaps: seconds since each of those blocks was used last.
    """

    distances: NDArray[np.int64]
    gaps: NDArray[np.float64]
    prompt_tokens: int
    unique_blocks: int
    num_requests: int
    seconds: float
    block_tokens: int = HASHED_TOKENS

    def hit_tokens(self, num_blocks: int) -> int:
        """Prompt tokens that a cache of so many blocks has."""
        found = int(np.searchsorted(self.distances, num_blocks, "right"))
        return found * self.block_tokens

    def hit_rate(self, num_blocks: int) -> float:
        return self.hit_tokens(num_blocks) / max(1, self.prompt_tokens)

    @property
    def most(self) -> float:
        """The hit rate of a cache without bound."""
        return len(self.distances) * self.block_tokens / max(1, self.prompt_tokens)


def measure_reuse(trace: Sequence[Arrival]) -> Reuse:
    """RidgelineError for a trace that does not say which prompts begin alike."""
    if not any(arrival.prefix for arrival in trace):
        raise RidgelineError(
            "this trace does not say which prompts begin alike (hash_ids), so nothing is known of "
            "what a cache would find; Mooncake's JSON lines do"
        )
    names, total = _named(trace)
    counts = _Counts(total)
    last: dict[int, int] = {}
    used_at: dict[int, float] = {}
    distances: list[int] = []
    gaps: list[float] = []
    prompt_tokens = now = 0
    for arrival, blocks in zip(trace, names, strict=True):
        prompt_tokens += arrival.num_prompt
        # The last token is always computed, so of a prompt of whole blocks the last is not asked.
        askable = min(len(blocks), (arrival.num_prompt - 1) // HASHED_TOKENS)
        needed = 0
        for block in blocks[:askable]:
            before = last.get(block)
            if before is None:
                break
            # All that were used since, and the blocks before it that this prompt brings back.
            needed = max(needed, counts.since(before) + 1)
            distances.append(needed)
            gaps.append(arrival.seconds - used_at[block])
        for block in reversed(blocks):
            before = last.get(block)
            if before is not None:
                counts.take(before)
            counts.put(now)
            last[block] = now
            used_at[block] = arrival.seconds
            now += 1
    order = np.argsort(np.array(distances, np.int64), kind="stable")
    return Reuse(
        np.array(distances, np.int64)[order],
        np.array(gaps)[order],
        prompt_tokens,
        len(last),
        len(trace),
        trace[-1].seconds,
    )


def _named(trace: Iterable[Arrival]) -> tuple[list[list[int]], int]:
    """Of each request its full blocks, as numbers; equal where all up to there is equal."""
    known: dict[tuple[int, int], int] = {}
    found, total = [], 0
    for arrival in trace:
        blocks, parent = [], -1
        for block in arrival.prefix[: arrival.num_prompt // HASHED_TOKENS]:
            parent = known.setdefault((parent, block), len(known))
            blocks.append(parent)
        found.append(blocks)
        total += len(blocks)
    return found, total


class _Counts:
    """How many of the places from one on are in use: a Fenwick tree over `size` places."""

    def __init__(self, size: int) -> None:
        self._sums = [0] * (size + 1)
        self._total = 0

    def put(self, place: int) -> None:
        self._add(place, 1)
        self._total += 1

    def take(self, place: int) -> None:
        self._add(place, -1)
        self._total -= 1

    def since(self, place: int) -> int:
        """In use after `place`."""
        sums, at, before = self._sums, place + 1, 0
        while at:
            before += sums[at]
            at &= at - 1
        return self._total - before

    def _add(self, place: int, amount: int) -> None:
        sums, at, size = self._sums, place + 1, len(self._sums)
        while at < size:
            sums[at] += amount
            at += at & -at


@dataclass(frozen=True, slots=True)
class Tier:
    """Memory that holds blocks. tokens: that it holds; bytes_per_second: to the accelerator; inf
    where the blocks are in the cache itself. usd_per_hour: None: not known.
    """

    name: str
    tokens: int
    bytes_per_second: float
    usd_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class TierGain:
    """What a tier adds to those above it. saved_seconds: of computing prompts, less `moving`
    seconds of bringing blocks in. break_even: bytes/s at which bringing a block in takes as long as
    computing it.
    """

    tier: Tier
    hit_rate: float
    added_tokens: int
    computed_seconds: float
    moving_seconds: float
    break_even_bytes_per_second: float

    @property
    def saved_seconds(self) -> float:
        return self.computed_seconds - self.moving_seconds

    @property
    def pays(self) -> bool:
        return self.saved_seconds > 0


def tier_gains(
    reuse: Reuse, tiers: Sequence[Tier], prefill_tokens_per_second: float, bytes_per_token: float
) -> list[TierGain]:
    """Each tier below the ones before it, each with what those let go."""
    found, before = [], 0
    for tier, tokens in zip(tiers, accumulate(tier.tokens for tier in tiers), strict=True):
        hits = reuse.hit_tokens(tokens // reuse.block_tokens)
        added = hits - before
        found.append(
            TierGain(
                tier,
                hits / max(1, reuse.prompt_tokens),
                added,
                added / prefill_tokens_per_second,
                added * bytes_per_token / tier.bytes_per_second,
                bytes_per_token * prefill_tokens_per_second,
            )
        )
        before = hits
    return found
