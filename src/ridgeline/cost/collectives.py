"""Seconds of collectives, each by the algorithm that is fastest for its message.

Let m be the bytes of the value, n the ranks, B the bytes per second that a rank sends and reaches,
L the floor of a kernel in which all ranks write to each other once. An all-reduce is

    one shot   L + (n - 1) m / B                     each rank sends all of it to all others
    two shots  2 L + 2 (n - 1)/n m / B               ranks reduce a part each and hand it round
    ring       FIXED L + HOP L 2 (n - 1) + 2 (n - 1)/n m / B
    tree       FIXED L + HOP L 2 log2(n) + 2 m / B
    in switch  FIXED L + (n + 1)/n m / B             NVLS: the switch adds, 8 ranks or more

whichever is least, but for small messages the kernels of engines, who choose by the number of
tokens or bytes (`shots_of`). The first two are of one scale-up domain of
at most 8. FIXED and HOP are from floors of NCCL 2.27: 6.3, 9.6 and 15.6 us at 2, 4 and 8 ranks of
H100, 10, 15 and 26 of B200, where one shot takes 3.1 and 4.8 (aiconfigurator-core 0.12.0,
2026-11-21). Nothing of it is hidden behind other work: an all-reduce is waited for.

An all-to-all of tokens, where a rank sends s bytes and X is its floor for each doubling of n:

    direct     X log2(n) + max(f s / B, (1 - f) s / N)       a copy to each rank that wants one
    by node    X log2(n d) + max(c s / B, s / N)             one to each node, which hands it on

N: bytes per second within a scale-up domain of d ranks; f: of the copies, those beyond the domain;
c: nodes beyond it that a token goes to, for each copy. Ranks of one domain have f = 1 and B = N.
DeepEP has both: kernels of low latency, for answers, and normal ones, for prompts (DeepSeek, 2025).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

COLLECTIVES = ("none", "all_reduce", "all_gather", "all_to_all")
FIXED = 1.6
HOP = 0.26
# Ranks that engines' own kernels join, and from which the switch adds.
DIRECT_RANKS = 8
SWITCH_RANKS = 8
ONE_SHOT_TOKENS = 128


def all_reduce_seconds(
    message_bytes: Array,
    ways: Array,
    rate: Array,
    latency: float,
    in_switch: Array,
    shots: Array | float = 0.0,
) -> Array:
    """Seconds of one; rate: B. in_switch: whether the link's switch adds. shots: 1 or 2 where an
    engine takes that kernel whatever is fastest, else 0. 0 for one rank.
    """
    n, m = np.maximum(ways, 1.0), message_bytes / rate
    part = (n - 1.0) / n
    never = np.inf
    direct = n <= DIRECT_RANKS
    one, two = latency + (n - 1.0) * m, 2.0 * latency + 2.0 * part * m
    ways_there_are = np.stack(
        [
            np.where(direct, one, never),
            np.where(direct, two, never),
            latency * (FIXED + HOP * 2.0 * (n - 1.0)) + 2.0 * part * m,
            latency * (FIXED + HOP * 2.0 * np.log2(n)) + 2.0 * m,
            np.where(
                in_switch & (n >= SWITCH_RANKS),
                latency * FIXED + (n + 1.0) / n * m,
                never,
            ),
        ]
    )
    best = ways_there_are.min(0)
    chosen = np.where(direct & (shots == 1), one, np.where(direct & (shots == 2), two, best))
    return np.where(n > 1.0, chosen, 0.0)


def shots_of(message_bytes: Array, tokens: Array, ways: Array, by_tokens: Array) -> Array:
    """1 or 2 where an engine's own kernel is taken for an all-reduce, 0 where what is fastest is.

    by_tokens: TensorRT-LLM's kernels, which also add and norm, send one shot of up to 128 tokens
    (kOneShotMaxToken in allReduceFusionKernels.h, as in FlashInfer's). The others' send one below
    512 KiB, of more than four ranks 256, and two up to 8 MiB (vLLM: custom_all_reduce.cuh, .py).
    """
    few = np.where(ways <= 4.0, 2.0**19, 2.0**18)
    by_bytes = np.where(message_bytes < few, 1, np.where(message_bytes <= 2.0**23, 2, 0))
    return np.where(by_tokens, np.where(tokens <= ONE_SHOT_TOKENS, 1, 0), by_bytes)


class Routes(NamedTuple):
    """How tokens of an all-to-all go. near: N; domain: d; far: f; crossing: c."""

    near: Array
    domain: Array
    far: Array
    crossing: Array


def routes_of(ways: Array, top_k: Array, domain: float, near: Array) -> Routes:
    """top_k: of experts that a token goes to, each as likely to be anywhere; 0: no tokens go."""
    nodes = ways / domain
    apart = (nodes > 1.0) & (top_k > 0)
    copies = np.maximum((ways - 1.0) * (1.0 - (1.0 - 1.0 / ways) ** top_k), 1e-9)
    least = np.maximum(nodes, 1.0)
    others = (least - 1.0) * (1.0 - (1.0 - 1.0 / least) ** top_k)
    return Routes(
        near,
        np.full_like(ways, domain),
        np.where(apart, (ways - domain) / np.maximum(ways - 1.0, 1.0), 1.0),
        np.where(apart, others / copies, 1.0),
    )


def exchange_seconds(
    sent_bytes: Array, ways: Array, rate: Array, latency: float, routes: Routes
) -> Array:
    """Seconds of one all-to-all; rate: B. 0 for one rank."""
    far, near = sent_bytes / rate, sent_bytes / routes.near
    beyond = routes.far < 1.0
    within = np.where(beyond, (1.0 - routes.far) * near, 0.0)
    direct = latency * np.log2(ways) + np.maximum(routes.far * far, within)
    handed = latency * np.log2(ways * np.maximum(routes.domain, 1.0))
    by_node = handed + np.maximum(routes.crossing * far, near)
    return np.where(ways > 1.0, np.where(beyond, np.minimum(direct, by_node), direct), 0.0)


def message_of(link_bytes: Array, ways: Array) -> Array:
    """The value's bytes of an all-reduce whose ranks send `link_bytes` each, by a ring."""
    n = np.maximum(ways, 1.0)
    return np.where(n > 1.0, link_bytes * n / np.maximum(2.0 * (n - 1.0), 1e-9), 0.0)


def collective_seconds(
    kind: Array,
    link_bytes: Array,
    ways: Array,
    rate: Array,
    latency: float,
    exchange_latency: float,
    in_switch: Array,
    routes: Routes,
    shots: Array | float = 0.0,
) -> Array:
    """Seconds of one of each `kind` (indices in COLLECTIVES), whose ranks send `link_bytes`."""
    n = np.maximum(ways, 1.0)
    reduce = all_reduce_seconds(message_of(link_bytes, n), n, rate, latency, in_switch, shots)
    gather = np.where(n > 1.0, latency + link_bytes / rate, 0.0)
    exchange = exchange_seconds(link_bytes, n, rate, exchange_latency, routes)
    return np.asarray(np.choose(kind, [np.zeros_like(n), reduce, gather, exchange]))
