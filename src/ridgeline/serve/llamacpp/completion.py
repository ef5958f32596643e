"""An answer as llama.cpp's server tells it: pieces as they come, and the objects they come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ridgeline.engine.answer import Logprob
from ridgeline.engine.outputs import RequestOutput
from ridgeline.serve.core.events import AnswerEnd, AnswerEvent, Done, Logprobs, TextDelta


@dataclass(slots=True)
class _Answer:
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    probs: list[dict[str, Any]] = field(default_factory=list)
    end: AnswerEnd | None = None


class CompletionBuilder:
    """Takes the events of each prompt's answers; gives the objects of the stream. Answer `i` of
    prompt `p` has the index `p * count + i`. `whole` is what they come to, in the order of indices.

    settings: of the seed that an answer was drawn by, what it was sampled by. bytes_of: a token's.
    num_probs: how many likeliest are told of a token; 0: nothing is. silent: the prompt alone is
    read, and of the answer nothing told. fields: what is told at the end; None: all.
    """

    def __init__(
        self,
        model: str,
        count: int,
        num_prompts: int,
        *,
        settings: Callable[[int], dict[str, Any]],
        bytes_of: Callable[[int], bytes],
        text_of: Callable[[RequestOutput], str],
        max_context: int,
        num_probs: int = 0,
        keeps_tokens: bool = False,
        silent: bool = False,
        fields: Sequence[str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        self._model = model
        self._count = count
        self._settings = settings
        self._bytes_of = bytes_of
        self._text_of = text_of
        self._max_context = max_context
        self._num_probs = num_probs
        self._keeps_tokens = keeps_tokens
        self._silent = silent
        self._fields = fields
        self._more = more or {}
        self._answers = [_Answer() for _ in range(count * num_prompts)]
        self._ends: dict[int, dict[str, Any]] = {}

    def take(self, number: int, event: AnswerEvent) -> list[dict[str, Any]]:
        if isinstance(event, Done):
            return [self._ended(number, index, event) for index in range(self._count)]
        if not isinstance(event, TextDelta | AnswerEnd):
            return []
        index = number * self._count + event.index
        answer = self._answers[index]
        if isinstance(event, AnswerEnd):
            answer.end = event
            return []
        if self._silent:
            return []
        probs = self._probs(event.logprobs) if self._num_probs and event.logprobs else []
        answer.text += event.text
        answer.tokens += event.token_ids
        answer.probs += probs
        if not event.text and not event.token_ids:
            return []
        piece: dict[str, Any] = {"index": index, "content": event.text}
        piece |= {"tokens": list(event.token_ids), "stop": False}
        return [piece | ({"completion_probabilities": probs} if probs else {})]

    def whole(self) -> list[dict[str, Any]]:
        found = []
        for index, answer in enumerate(self._answers):
            end = self._ends[index] | {"content": answer.text}
            end["tokens"] = answer.tokens if self._keeps_tokens else []
            if self._num_probs:
                end["completion_probabilities"] = answer.probs
            found.append(self._chosen(end))
        return found

    def _ended(self, number: int, place: int, done: Done) -> dict[str, Any]:
        index = number * self._count + place
        answer, output = self._answers[index], done.output
        one = output.outputs[place]
        num_prompt = len(output.prompt_token_ids)
        num_tokens = 0 if self._silent else len(one.token_ids)
        kind, word = _stopped(answer.end, self._silent)
        settings = self._settings(one.seed)
        end: dict[str, Any] = {
            "index": index,
            "content": "",
            "tokens": [],
            "id_slot": -1,
            "stop": True,
            "model": self._model,
            "tokens_predicted": num_tokens,
            "tokens_evaluated": num_prompt,
            "generation_settings": settings,
            "prompt": self._text_of(output),
            "has_new_line": "\n" in answer.text,
            "truncated": kind == "limit" and num_prompt + num_tokens >= self._max_context,
            "stop_type": kind,
            "stopping_word": word,
            "tokens_cached": output.num_cached_tokens,
            "timings": timings_of(output, num_tokens),
        }
        self._ends[index] = end
        return self._chosen(end)

    def _chosen(self, end: dict[str, Any]) -> dict[str, Any]:
        """The fields that were asked for, by their whole paths; those that are not there are left
        out.
        """
        if self._fields is None:
            return end | self._more
        found: dict[str, Any] = {}
        for path in self._fields:
            value: Any = end
            for part in path.split("/"):
                value = value.get(part, _NONE) if isinstance(value, dict) else _NONE
            if value is not _NONE:
                found[path] = value
        return found | self._more

    def _probs(self, logprobs: Logprobs) -> list[dict[str, Any]]:
        """Each token's, the sampled one first in its mapping."""
        found = []
        for entry in logprobs:
            token_id = next(iter(entry))
            ranked = sorted((one.rank, i) for i, one in entry.items() if one.rank is not None)
            top = [self._prob(i, entry[i]) for _, i in ranked]
            found.append(self._prob(token_id, entry[token_id]) | {"top_logprobs": top})
        return found

    def _prob(self, token_id: int, one: Logprob) -> dict[str, Any]:
        found = {"id": token_id, "token": one.decoded_token, "logprob": one.logprob}
        return found | {"bytes": list(self._bytes_of(token_id))}


_NONE: Any = object()


def _stopped(end: AnswerEnd | None, silent: bool) -> tuple[str, str]:
    """How it ended, and the word that ended it."""
    if silent or (end is not None and end.finish_reason == "length"):
        return "limit", ""
    if end is None or end.finish_reason != "stop":
        return "none", ""
    if isinstance(end.stop_reason, str):
        return "word", end.stop_reason
    return "eos", ""


def timings_of(output: RequestOutput, num_tokens: int) -> dict[str, Any]:
    """Milliseconds: of the prompt from when the engine had it, so with its time in the queue."""
    metrics = output.metrics
    finished = metrics.submitted if metrics.finished is None else metrics.finished
    first = finished if metrics.first_token is None else metrics.first_token
    prompt_ms = max(0.0, 1e3 * (first - metrics.submitted))
    answer_ms = max(0.0, 1e3 * (finished - first))
    num_prompt = len(output.prompt_token_ids) - output.num_cached_tokens
    return {
        "cache_n": output.num_cached_tokens,
        "prompt_n": num_prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / num_prompt if num_prompt else 0.0,
        "prompt_per_second": 1e3 * num_prompt / prompt_ms if prompt_ms else 0.0,
        "predicted_n": num_tokens,
        "predicted_ms": answer_ms,
        "predicted_per_token_ms": answer_ms / num_tokens if num_tokens else 0.0,
        "predicted_per_second": 1e3 * num_tokens / answer_ms if answer_ms else 0.0,
    }
