"""Loads that were recorded elsewhere: when requests came, how long they and their answers were, and
which of them began alike.

Of each 512 tokens of a prompt a trace may have an id: equal ids at equal places are equal prefixes
(Mooncake's; Azure's say nothing of it). No text is in either. `trace_files` reads them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from ridgeline.engine.kv.prefix import prefix_hashes
from ridgeline.engine.request import Request
from ridgeline.step import RowSampling

HASHED_TOKENS = 512
MOST_TOKENS = 1 << 24  # of a prompt, and of an answer
_GREEDY = RowSampling()
_NO_STOPS: frozenset[int] = frozenset()
# Of a block within what one id names.
_PLACES = [place.to_bytes(2, "little") for place in range(1 << 14)]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace. seconds: since the first. prefix: ids of its blocks of 512 tokens,
    the last of which may be partly filled; none where the trace does not say. session: whose it is.
    """

    seconds: float
    num_prompt: int
    num_output: int
    prefix: tuple[int, ...] = ()
    session: str = ""


def repeated(trace: Sequence[Arrival], count: int) -> Iterator[Arrival]:
    """`count` requests: the trace again and again, each time later and with prefixes of its own."""
    gap = trace[-1].seconds / max(1, len(trace) - 1)
    most = max((max(a.prefix) for a in trace if a.prefix), default=0) + 1
    for index in range(count):
        turn, at = divmod(index, len(trace))
        arrival = trace[at]
        later = turn * most
        yield Arrival(
            arrival.seconds + turn * (trace[-1].seconds + gap),
            arrival.num_prompt,
            arrival.num_output,
            tuple([i + later for i in arrival.prefix]) if later else arrival.prefix,
            arrival.session,
        )


def as_requests(arrivals: Iterable[Arrival], block_tokens: int | None = None) -> Iterator[Request]:
    """Requests for the simulator, made as they are asked for."""
    return (as_request(index, arrival, block_tokens) for index, arrival in enumerate(arrivals))


def as_request(index: int, arrival: Arrival, block_tokens: int | None = None) -> Request:
    """A token's id is the id of its block, so prompts are alike where the trace says so, and
    nowhere where it says nothing. block_tokens: of the caches that it will meet; it then has its
    names already, made of the trace's ids, of which there are fewer than of tokens.
    """
    if arrival.prefix:
        tokens = array("i")
        each = (np.array(arrival.prefix, np.intc) + 1).repeat(HASHED_TOKENS)
        tokens.frombytes(each[: arrival.num_prompt].tobytes())
    else:
        tokens = array("i", [index + 1]) * arrival.num_prompt
    request = Request(
        id=str(index),
        token_ids=tokens,
        num_prompt=len(tokens),
        max_tokens=arrival.num_output,
        sampling=_GREEDY,
        stop_token_ids=_NO_STOPS,
        tenant=arrival.session,
        arrival=arrival.seconds,
    )
    if block_tokens is not None:
        ids = arrival.prefix or (index + 1,)
        request.names = _names(tokens, ids, block_tokens, len(ids) == len(arrival.prefix))
    return request


def _names(
    tokens: array[int], ids: Sequence[int], block_tokens: int, by_block: bool
) -> list[bytes]:
    """Of the full blocks of a prompt, alike where their tokens and all before are alike. The first
    is the one that its tokens have, which routers go by. by_block: each id is of 512 tokens.
    """
    count = len(tokens) // block_tokens
    each = HASHED_TOKENS // block_tokens if by_block else count
    if not count or count > len(_PLACES) or (by_block and HASHED_TOKENS % block_tokens):
        return []
    names = list(prefix_hashes(tokens[:block_tokens], block_tokens))
    # Of all ids up to one: goes on where the last one's ended.
    digest = blake2b(names[0], digest_size=16, person=b"ridgeline-trace")
    if each == 1:
        for block in ids[:count]:
            digest.update(block.to_bytes(8, "little"))
            names.append(digest.digest())
        del names[1]  # the first has its name
        return names
    for at, block in enumerate(ids):
        digest.update(block.to_bytes(8, "little"))
        left = min(each, count - at * each)
        if left <= 0:
            break
        stem = digest.digest()[:14]
        names += [stem + place for place in _PLACES[:left]][1 if at == 0 else 0 :]
    return names
