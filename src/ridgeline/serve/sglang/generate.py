"""SGLang's way of /generate: texts or ids in, and each answer with what is known of it.

A piece of a stream has the whole of the answer so far, as its clients read it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ridgeline.engine.answer import Logprob
from ridgeline.engine.prompts import Prompt
from ridgeline.errors import RequestError
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    Done,
    PromptRead,
    TextDelta,
    raise_error,
)
from ridgeline.serve.core.http import (
    begun,
    checked_body,
    closing,
    compact,
    sent,
    server_sent,
    traced,
    while_there,
)
from ridgeline.serve.core.many import Numbered, answer_many
from ridgeline.serve.openai.chat import told_end, told_error
from ridgeline.serve.sglang.bodies import GenerateBody, Sampling, sampling_of


class GeneratedText(BaseModel):
    text: str
    output_ids: list[int]
    meta_info: dict[str, Any]
    ignored_fields: list[str] = []


class Answers:
    """Takes the events of the asks; gives what each answer is so far, the last time whole.

    rids: what the client calls its prompts. starts: of each prompt, from where on its logprobs are
    told; None: they are not. texts: whether logprobs come with the tokens' texts.
    """

    def __init__(
        self,
        asks: Sequence[Ask],
        rids: Sequence[str],
        starts: Sequence[int | None],
        silent: Sequence[bool],
        *,
        texts: bool,
    ) -> None:
        self._asks, self._rids, self._starts, self._silent = asks, rids, starts, silent
        self._texts = texts
        self._first = [0, *accumulate(ask.sampling.n for ask in asks)]
        size = self._first[-1]
        self._found: list[dict[str, Any]] = [{"text": "", "output_ids": []} for _ in range(size)]
        self._logprobs: list[list[Mapping[int, Logprob]]] = [[] for _ in range(size)]
        self._ends: list[AnswerEnd | None] = [None] * size
        self._num_prompt = [0] * len(asks)

    def take(self, number: int, event: AnswerEvent) -> list[dict[str, Any]]:
        if isinstance(event, PromptRead):
            self._num_prompt[number] = len(event.token_ids)
            return []
        if isinstance(event, Done):
            places = range(self._first[number], self._first[number + 1])
            for place in places:
                self._end(number, place, event)
            return [{**self._found[place], "index": place} for place in places]
        if not isinstance(event, TextDelta | AnswerEnd):
            return []
        place = self._first[number] + event.index
        if isinstance(event, AnswerEnd):
            self._ends[place] = event
            return []
        if self._silent[number] or not (event.text or event.token_ids):
            return []
        found = self._found[place]
        found["text"] += event.text
        found["output_ids"] += event.token_ids
        self._logprobs[place] += event.logprobs or ()
        found["meta_info"] = self._known(number, place)
        return [{**found, "index": place}]

    def whole(self) -> list[dict[str, Any]]:
        return self._found

    def _known(self, number: int, place: int) -> dict[str, Any]:
        info: dict[str, Any] = {
            "id": self._rids[number],
            "finish_reason": None,
            "prompt_tokens": self._num_prompt[number],
            "completion_tokens": len(self._found[place]["output_ids"]),
        }
        most = self._asks[number].sampling.logprobs
        if most is not None:
            told = self._logprobs[place]
            info["output_token_logprobs"] = [self._own(each) for each in told]
            if most:
                info["output_top_logprobs"] = [self._top(each) for each in told]
        return info

    def _end(self, number: int, place: int, done: Done) -> None:
        found, metrics = self._found[place], done.output.metrics
        info = self._known(number, place)
        info["finish_reason"] = _finish(self._ends[place], found["output_ids"])
        info["cached_tokens"] = done.output.num_cached_tokens
        if metrics.finished is not None:
            info["e2e_latency"] = metrics.finished - metrics.arrival
        start, scored = self._starts[number], done.output.prompt_logprobs
        if start is not None and scored is not None:
            ids = done.output.prompt_token_ids[start:]
            entries = [each for each in list(scored)[start + 1 :] if each is not None]
            first = [None, ids[0], self._text_of(scored[start], ids[0])] if ids else None
            info["input_token_logprobs"] = [
                *([first] if first else []),
                *(self._own(each) for each in entries),
            ]
            if self._asks[number].sampling.prompt_logprobs:
                tops = [self._top(each) for each in entries]
                info["input_top_logprobs"] = [*([None] if first else []), *tops]
        found["meta_info"] = info

    def _own(self, entry: Mapping[int, Logprob]) -> list[Any]:
        """Of a token that came, or was there: the first of its mapping."""
        token_id = next(iter(entry))
        return [entry[token_id].logprob, token_id, self._text_of(entry, token_id)]

    def _top(self, entry: Mapping[int, Logprob]) -> list[list[Any]]:
        ranked = sorted((one.rank, i) for i, one in entry.items() if one.rank is not None)
        return [[entry[i].logprob, i, self._text_of(entry, i)] for _, i in ranked]

    def _text_of(self, entry: Mapping[int, Logprob] | None, token_id: int) -> str | None:
        if not self._texts or entry is None:
            return None
        return entry[token_id].decoded_token


def _finish(end: AnswerEnd | None, ids: Sequence[int]) -> dict[str, Any] | None:
    if end is None or end.finish_reason not in ("stop", "length"):
        return {"type": "abort"}
    if end.finish_reason == "length" or not ids:
        return {"type": "length", "length": len(ids)}
    matched = ids[-1] if end.stop_reason is None else end.stop_reason
    return {"type": "stop", "matched": matched}


async def generated(core: Core, request: Request, tenant: str, value: dict[str, Any]) -> Response:
    body, ignored = checked_body(value, GenerateBody, lenient=core.options.lenient)
    core.check_model(body.model)
    prompts, many = _prompts(core, body)
    count = len(prompts)
    given = _each(body.sampling_params, count, "sampling_params") or [Sampling()] * count
    wants = _each(body.return_logprob, count, "return_logprob") or [False] * count
    tops = _each(body.top_logprobs_num, count, "top_logprobs_num") or [0] * count
    from_ = _each(body.logprob_start_len, count, "logprob_start_len") or [-1] * count
    request_id = core.new_id("gen-")
    ids = [request_id if count == 1 else f"{request_id}-{i}" for i in range(count)]
    rids = _each(body.rid, count, "rid") or ids
    starts = [from_[i] if wants[i] and from_[i] >= 0 else None for i in range(count)]
    if body.stream and any(start is not None for start in starts):
        raise RequestError("logprob_start_len", "of prompts logprobs come only without stream")
    asks = []
    for i, prompt in enumerate(prompts):
        most = tops[i] if wants[i] else None
        params = sampling_of(given[i], most, most if starts[i] is not None else None)
        service = core.service(tenant)
        ask = Ask(prompt, params, service=service, request_id=ids[i], tells_prompt=True)
        asks.append(traced(ask, request))
    if sum(ask.sampling.n for ask in asks) > core.limit:
        raise RequestError("sampling_params.n", f"{core.limit} answers are allowed, all together")
    silent = [one.max_new_tokens == 0 for one in given]
    answers = Answers(asks, rids, starts, silent, texts=body.return_text_in_logprobs)
    headers = {"x-request-id": request_id}
    if ignored:
        headers["ridgeline-ignored-fields"] = ", ".join(ignored)
    events = answer_many(core, asks)
    if body.stream:
        started = await while_there(request, begun(events))
        return server_sent(started, _said(answers), told_error, last=told_end, headers=headers)
    await while_there(request, _folded(answers, events))
    more = {"ignored_fields": ignored} if ignored else {}
    whole = [one | more for one in answers.whole()]
    return JSONResponse(whole if many or len(whole) > 1 else whole[0], headers=headers)


def _said(answers: Answers) -> Callable[[Numbered], str]:
    def said(numbered: Numbered) -> str:
        number, event = numbered
        raise_error(event)
        return "".join(sent(compact(piece)) for piece in answers.take(number, event))

    return said


async def _folded(answers: Answers, events: AsyncIterator[list[Numbered]]) -> None:
    async with closing(events):
        async for batch in events:
            for number, event in batch:
                raise_error(event)
                answers.take(number, event)


def _prompts(core: Core, body: GenerateBody) -> tuple[list[Prompt], bool]:
    """The prompts, and whether they were given as a list."""
    if (body.text is None) == (body.input_ids is None):
        raise RequestError("text", "or input_ids: one of the two is needed")
    if isinstance(body.text, str):
        return [body.text], False
    given: list[Any] = list(body.text if body.text is not None else body.input_ids or [])
    field = "text" if body.text is not None else "input_ids"
    if not given:
        raise RequestError(field, "is empty; at least one is needed")
    if isinstance(given[0], int):
        return [{"prompt_token_ids": given}], False
    if len(given) > core.options.max_prompts:
        most = core.options.max_prompts
        raise RequestError(field, f"{len(given)} prompts; {most} are allowed")
    if body.text is None:
        if not all(given):
            raise RequestError(field, "one is empty; at least one id is needed")
        return [{"prompt_token_ids": ids} for ids in given], True
    return given, True


def _each(given: Any, count: int, field: str) -> list[Any] | None:
    """Of each prompt, what is said of all or in a list; None: nothing is."""
    if given is None:
        return None
    if not isinstance(given, list):
        if field == "rid" and count > 1:
            return [f"{given}_{i}" for i in range(count)]
        return [given] * count
    if len(given) != count:
        raise RequestError(field, f"says {len(given)} of {count} prompts")
    return given
