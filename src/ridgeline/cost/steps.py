"""Steps as arrays of sums, so that many are priced at once: tokens, rows, and what attends to what.

Rows that decode and prompts are told apart, since an accelerator runs them at different speeds.
Knows no model but the windows of its caches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.cost.efficiency import Array
from ridgeline.cost.lines import MOST_DECODED
from ridgeline.step import StepShape


@dataclass(frozen=True, slots=True)
class Steps:
    """Any number of steps as arrays, of the whole deployment. decode, prefill: rows; decode_tokens,
    prefill_tokens: their new tokens; sampled: rows of logits. pairs, read: for each window, of rows
    that decode and of prompts.
    """

    decode: Array
    decode_tokens: Array
    prefill: Array
    prefill_tokens: Array
    sampled: Array
    decode_pairs: Mapping[int | None, Array]
    decode_read: Mapping[int | None, Array]
    prefill_pairs: Mapping[int | None, Array]
    prefill_read: Mapping[int | None, Array]

    def __len__(self) -> int:
        return len(self.decode)


def steps_of(shapes: Sequence[StepShape], windows: Sequence[int | None]) -> Steps:
    """The sums of concrete steps."""
    parts = []
    for shape in shapes:
        rows = list(zip(shape.new_tokens, shape.context_lens, strict=True))
        parts.append(
            (
                StepShape(*_columns([r for r in rows if r[0] <= MOST_DECODED]), 0),
                StepShape(*_columns([r for r in rows if r[0] > MOST_DECODED]), 0),
                shape.num_sampled,
            )
        )

    def sums(which: int, of: str, window: int | None) -> Array:
        return np.array([getattr(part[which], of)(window) for part in parts], np.float64)

    def counts(which: int, of: str) -> Array:
        return np.array([getattr(part[which], of) for part in parts], np.float64)

    return Steps(
        counts(0, "num_sequences"),
        counts(0, "num_tokens"),
        counts(1, "num_sequences"),
        counts(1, "num_tokens"),
        np.array([part[2] for part in parts], np.float64),
        {w: sums(0, "attended_pairs", w) for w in windows},
        {w: sums(0, "cached_tokens_read", w) for w in windows},
        {w: sums(1, "attended_pairs", w) for w in windows},
        {w: sums(1, "cached_tokens_read", w) for w in windows},
    )


def uniform_steps(
    windows: Sequence[int | None],
    *,
    decode: Array | float = 0.0,
    context: Array | float = 0.0,
    drafts: Array | float = 0.0,
    prompts: Array | float = 0.0,
    prompt_tokens: Array | float = 0.0,
    prompt_context: Array | float = 0.0,
) -> Steps:
    """Steps of `decode` rows with `context` tokens before their 1 + drafts new ones, and of
    `prompts` rows with `prompt_tokens` new ones after `prompt_context`; fractions are means.
    """
    arrays = np.broadcast_arrays(
        *(
            np.atleast_1d(np.asarray(x, np.float64))
            for x in (decode, context, drafts, prompts, prompt_tokens, prompt_context)
        )
    )
    decode_, context_, drafts_, prompts_, tokens_, before_ = arrays
    new = 1.0 + drafts_
    return Steps(
        decode_,
        decode_ * new,
        prompts_,
        prompts_ * tokens_,
        decode_ * new + prompts_,
        {w: decode_ * _pairs(new, context_, w) for w in windows},
        {w: decode_ * _read(new, context_, w) for w in windows},
        {w: prompts_ * _pairs(tokens_, before_, w) for w in windows},
        {w: prompts_ * _read(tokens_, before_, w) for w in windows},
    )


def _pairs(new: Array, context: Array, window: int | None) -> Array:
    if window is None:
        return np.asarray(new * context + new * (new + 1) / 2)
    growing = np.clip(window - context, 0.0, new)
    return np.asarray(growing * context + growing * (growing + 1) / 2 + (new - growing) * window)


def _read(new: Array, context: Array, window: int | None) -> Array:
    return new + (context if window is None else np.minimum(context, window - 1))


def _columns(rows: list[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(r[0] for r in rows), tuple(r[1] for r in rows)
