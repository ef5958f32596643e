"""An answer as OpenAI's completion: chunks as they come, and the whole that they come to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ridgeline.engine.answer import Logprob
from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    Done,
    PromptRead,
    TextDelta,
    Usage,
    raise_error,
)
from ridgeline.serve.core.http import compact, sent
from ridgeline.serve.openai.chat_answer import scores_of, usage_of

Entry = Mapping[int, Logprob] | None


class CompletionBuilder:
    """Takes the events of each prompt's answers; gives the chunks of the stream. Answer `i` of
    prompt `p` is choice `p * count + i`. echoes: what each choice begins with, of each prompt.
    logprobs: how many likeliest are told of a token; None: nothing is. piece: a token's text.
    scores: `whole` has the prompts' logprobs, with each of its choices. echo_only: of the answers
    nothing is told. token_ids: ids are told; `PromptRead` must come of each prompt then.
    """

    def __init__(
        self,
        completion_id: str,
        model: str,
        count: int,
        echoes: Sequence[str],
        logprobs: int | None,
        piece: Callable[[int], str],
        *,
        scores: bool = False,
        echo_only: bool = False,
        token_ids: bool = False,
    ) -> None:
        self._echo_only = echo_only
        self._wants_ids = token_ids
        self._prompt_ids: list[tuple[int, ...]] = [()] * len(echoes)
        self._scores: list[list[dict[str, Any] | None] | None] | None = None
        if scores:
            self._scores = [None] * len(echoes)
        self._head = {"id": completion_id, "created": int(time.time()), "model": model}
        # What the chunks of one stream have in common, written once.
        chunk = {**self._head, "object": "text_completion", "choices": []}
        self._before = "data: " + compact(chunk).removesuffix("]}") + '{"index":'
        self._piece = piece
        self._count = count
        self._echoes = echoes
        self._num_logprobs = logprobs
        size = count * len(echoes)
        self._texts = [echoes[i // count] for i in range(size)]
        self._logprobs: list[list[Entry]] = [[] for _ in range(size)]
        self._ids: list[list[int]] = [[] for _ in range(size)]
        self._offsets = [len(text) for text in self._texts]
        self._ends: list[AnswerEnd | None] = [None] * size
        self._usage = Usage(0, 0)
        self._prompt_logprobs: dict[int, list[Any] | None] = {}

    def start(self) -> list[dict[str, Any]]:
        """What is echoed; where the prompts' ids are to be told, it comes with those."""
        if self._wants_ids:
            return []
        return [
            self._chunk(index, text, None, None) for index, text in enumerate(self._texts) if text
        ]

    def said(self, numbered: tuple[int, AnswerEvent]) -> str:
        """The chunks that `take` gives, as they are sent: for texts, of which there are many, only
        what is new is written. Raises as `raise_error` does.
        """
        number, event = numbered
        told = isinstance(event, TextDelta) and event.text and not self._echo_only
        if told and self._num_logprobs is None and not self._wants_ids:
            assert isinstance(event, TextDelta)
            index = number * self._count + event.index
            self._texts[index] += event.text
            choice = f'{index},"text":{compact(event.text)},"logprobs":null'
            return f'{self._before}{choice},"finish_reason":null,"stop_reason":null}}]}}\n\n'
        raise_error(event)
        return "".join(sent(compact(chunk)) for chunk in self.take(number, event))

    def take(self, number: int, event: AnswerEvent) -> list[dict[str, Any]]:
        if isinstance(event, Done):
            self._take_done(number, event)
            return []
        if isinstance(event, PromptRead):
            self._prompt_ids[number] = event.token_ids
            heads = []
            for index in range(number * self._count, (number + 1) * self._count):
                chunk = self._chunk(index, self._texts[index], None, None)
                chunk["choices"][0]["prompt_token_ids"] = event.token_ids
                heads.append(chunk)
            return heads
        index = number * self._count + event.index
        if isinstance(event, TextDelta):
            if self._echo_only:
                return []
            self._texts[index] += event.text
            entries = event.logprobs if self._num_logprobs is not None else None
            ids = list(event.token_ids) if self._wants_ids else []
            self._ids[index] += ids
            if not event.text and not entries and not ids:
                return []
            told = None
            if entries:
                self._logprobs[index] += entries
                told = self._told(entries, self._offsets[index])
                self._offsets[index] += _length(entries)
            chunk = self._chunk(index, event.text, told, None)
            if ids:
                chunk["choices"][0]["token_ids"] = ids
            return [chunk]
        if isinstance(event, AnswerEnd):
            if self._echo_only:
                event = replace(event, finish_reason="length", stop_reason=None)
            self._ends[index] = event
            return [self._chunk(index, "", None, event)]
        return []

    def usage_chunk(self) -> dict[str, Any]:
        head = {**self._head, "object": "text_completion", "choices": []}
        return {**head, "usage": usage_of(self._usage)}

    def whole(self) -> dict[str, Any]:
        choices = []
        for index, text in enumerate(self._texts):
            number = index // self._count
            entries = self._logprobs[index]
            told = None
            if self._num_logprobs is not None:
                start = 0 if self._prompt_logprobs.get(number) else len(self._echoes[number])
                told = self._told([*(self._prompt_logprobs.get(number) or ()), *entries], start)
            choice = self._choice(index, text, told, self._ends[index])
            if self._scores is not None:
                choice["prompt_logprobs"] = self._scores[number]
            if self._wants_ids:
                choice["prompt_token_ids"] = self._prompt_ids[number]
                choice["token_ids"] = self._ids[index]
            choices.append(choice)
        head = {**self._head, "object": "text_completion", "choices": choices}
        return {**head, "usage": usage_of(self._usage)}

    def _take_done(self, number: int, event: Done) -> None:
        self._usage += replace(event.usage, completion_tokens=0) if self._echo_only else event.usage
        scored = event.output.prompt_logprobs
        if self._scores is not None and scored is not None:
            self._scores[number] = scores_of(scored)
        if scored is not None and self._echoes[number] and self._num_logprobs is not None:
            ids = event.output.prompt_token_ids
            entries: list[Any] = list(scored)
            # Nothing was before the first token, so there is no number for it; its text is there.
            entries[0] = {ids[0]: Logprob(math.nan, None, self._piece(ids[0]))}
            self._prompt_logprobs[number] = entries

    def _chunk(
        self, index: int, text: str, logprobs: dict[str, Any] | None, end: AnswerEnd | None
    ) -> dict[str, Any]:
        choice = self._choice(index, text, logprobs, end)
        return {**self._head, "object": "text_completion", "choices": [choice]}

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, end: AnswerEnd | None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": logprobs}
        choice["finish_reason"] = None if end is None else end.finish_reason
        choice["stop_reason"] = None if end is None else end.stop_reason
        return choice

    def _told(self, entries: Sequence[Any], start: int) -> dict[str, Any]:
        """In the shape of the completions API: lists side by side; text_offset from `start`."""
        tokens, values, tops, offsets = [], [], [], []
        offset = start
        for entry in entries:
            sampled = next(iter(entry.values()))
            text = sampled.decoded_token
            tokens.append(text)
            known = not math.isnan(sampled.logprob)
            values.append(sampled.logprob if known else None)
            ranked = entry.values() if known else ()
            tops.append({one.decoded_token: one.logprob for one in ranked} or None)
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def _length(entries: Sequence[Any]) -> int:
    return sum(len(next(iter(entry.values())).decoded_token) for entry in entries)
