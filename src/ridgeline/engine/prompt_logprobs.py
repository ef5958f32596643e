"""How likely the model found each token of a prompt, kept small: 8 bytes a number.

A prompt of 32,000 tokens with the 20 likeliest of each is 5 MB so; dictionaries are made of an
entry when it is looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import overload

from ridgeline.engine.answer import Logprob, piece
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.step import Scored


class PromptLogprobs(Sequence[Mapping[int, Logprob] | None]):
    """One entry a token of the prompt: {token id: Logprob}, its own first; None for the first
    token, which nothing was before, and where the request ended before it was computed.
    """

    def __init__(self, num_prompt: int, parts: Sequence[Scored], tokenizer: Tokenizer) -> None:
        self._num_prompt = num_prompt
        self._parts = sorted(parts, key=lambda part: part.first)
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return self._num_prompt

    @overload
    def __getitem__(self, index: int) -> Mapping[int, Logprob] | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mapping[int, Logprob] | None]: ...
    def __getitem__(
        self, index: int | slice
    ) -> Mapping[int, Logprob] | list[Mapping[int, Logprob] | None] | None:
        places = range(self._num_prompt)[index]
        return (
            [self._entry(i) for i in places] if isinstance(places, range) else self._entry(places)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PromptLogprobs) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def _entry(self, position: int) -> Mapping[int, Logprob] | None:
        found = bisect_right(self._parts, position, key=lambda part: part.first) - 1
        if found < 0:
            return None
        part = self._parts[found]
        start = (position - part.first) * part.width
        ids = part.token_ids[start : start + part.width]
        if not ids:
            return None
        values = part.logprobs[start : start + part.width]
        ranks = {token_id: rank for rank, token_id in enumerate(ids[1:], 1)}
        return {
            token_id: Logprob(value, ranks.get(token_id), piece(self._tokenizer, token_id))
            for token_id, value in zip(ids, values, strict=True)
        }
