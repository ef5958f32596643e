"""The Python API: `LLM("smollm2").generate(prompts, SamplingParams(...))`.

Result fields are those that users of vLLM's offline API know. Text to tokens to text happens here;
the engine below sees ids only.
"""

from __future__ import annotations

import itertools
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ridgeline.assemble import Options, assemble
from ridgeline.config import Settings, read_settings
from ridgeline.engine.answer import Answer
from ridgeline.engine.outputs import CompletionOutput, Delta, RequestMetrics, RequestOutput
from ridgeline.engine.request import Event, Request, SamplingParams
from ridgeline.errors import RequestError
from ridgeline.model.weights.sources import Progress, silent
from ridgeline.step import StepShape

if TYPE_CHECKING:
    from ridgeline.cost.device import ReadRoof
    from ridgeline.model.text.chat import ChatTemplate

Prompt = str | Sequence[int] | Mapping[str, Any]
Message = Mapping[str, Any]


@dataclass(slots=True)
class _Group:
    """The requests of one prompt (n answers) while they run."""

    id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    answers: list[Answer]
    requests: list[Request]
    arrival: float
    submitted: float
    first_token: float | None = None
    finished: float | None = None
    deltas: list[Delta] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return all(a.finish_reason is not None for a in self.answers)

    def output(self) -> RequestOutput:
        return RequestOutput(
            request_id=self.id,
            prompt=self.prompt,
            prompt_token_ids=self.prompt_token_ids,
            outputs=tuple(_completion(i, a) for i, a in enumerate(self.answers)),
            finished=self.done,
            metrics=RequestMetrics(self.arrival, self.submitted, self.first_token, self.finished),
            num_cached_tokens=self.requests[0].num_cached or 0,
        )


def _completion(index: int, answer: Answer) -> CompletionOutput:
    wanted = answer.params.logprobs is not None
    return CompletionOutput(
        index=index,
        text=answer.text,
        token_ids=tuple(answer.token_ids),
        cumulative_logprob=answer.cumulative_logprob if wanted else None,
        logprobs=tuple(answer.logprobs) if wanted else None,
        finish_reason=answer.finish_reason,
        stop_reason=answer.stop_reason,
        seed=answer.seed,
        error=answer.error,
    )


class LLM:
    """A model, loaded and ready. Not thread-safe.

    model: a path, a catalogue name, `pypi:package` or `hf:owner/name`. The keyword arguments are
    the fields of `Options`; what is not given is chosen from the model and the machine. progress:
    told of a download.
    Raises ModelError, CapacityError (before a weight is read) or RequestError.
    """

    def __init__(
        self,
        model: str,
        *,
        settings: Settings | None = None,
        progress: Progress = silent,
        **options: Any,
    ) -> None:
        self.settings = settings or read_settings()
        try:
            chosen = Options(**options)
        except TypeError:
            known = ", ".join(Options.__dataclass_fields__)
            wrong = ", ".join(sorted(set(options) - set(Options.__dataclass_fields__)))
            raise RequestError(
                wrong or "options", f"is not an option; there are: {known}"
            ) from None
        self._assembled = assemble(model, self.settings, chosen, progress)
        self._engine = self._assembled.engine
        self._ids = itertools.count()
        self._groups: dict[str, tuple[_Group, int]] = {}
        self._template: ChatTemplate | None = None

    @property
    def tokenizer(self) -> Any:
        return self._assembled.tokenizer

    @property
    def max_context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self._engine.state.limits.max_context

    def check_chat_template(self) -> None:
        """Raises ModelError if the model has no chat template, or one that cannot be read."""
        self._chat_template()

    def step_bytes(self, batch: int, context: int) -> float:
        """Bytes of weights and KV that a decode step of `batch` rows at `context` must move."""
        work = self._assembled.work(StepShape.decode(batch, context))
        return work.weight_bytes + work.kv_read_bytes + work.kv_write_bytes

    def read_roof(self, reached: float = 0.0) -> ReadRoof:
        """This machine's read bandwidth for a working set of the model's size; measured once, and
        again if a program has reached more than is kept (GB/s).
        """
        return self._assembled.read_roof(reached)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool | None = None,
    ) -> list[RequestOutput]:
        """Continues each prompt: text, token ids, or {"prompt_token_ids": ids}.

        One SamplingParams serves all, or there is one per prompt; None: SamplingParams(). use_tqdm:
        show progress on stderr (default: on a terminal, for more than one prompt). Results are in
        the order of the prompts. A prompt that could never run (empty, or longer than the context)
        raises RequestError before anything runs; a fault while they run ends one request with
        finish_reason "error", and the others are complete.
        """
        arrival = time.monotonic()
        many = _as_list(prompts)
        params = _params_for(many, sampling_params)
        return self._run([self._tokenize(p) for p in many], params, arrival, use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        use_tqdm: bool | None = None,
    ) -> list[RequestOutput]:
        """Answers one conversation or several, through the model's own chat template.

        messages: {"role": "user", "content": "..."} and so on, as OpenAI's API has them. tools:
        JSON schemas for the template. chat_template_kwargs: what the template may know besides,
        such as enable_thinking. Raises as `generate` does, RequestError also for messages that the
        template refuses, and ModelError where the model has no template.
        """
        arrival = time.monotonic()
        conversations: Sequence[Sequence[Message]]
        conversations = [messages] if _is_conversation(messages) else messages  # type: ignore[assignment,list-item]
        variables = dict(chat_template_kwargs or {})
        prompts = [self._render(c, tools, add_generation_prompt, variables) for c in conversations]
        return self._run(prompts, _params_for(prompts, sampling_params), arrival, use_tqdm)

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> Stream:
        """Continues one prompt piece by piece. Dropping the stream ends the request."""
        arrival = time.monotonic()
        group = self._submit(self._tokenize(prompt), sampling_params or SamplingParams(), arrival)
        return Stream(self, group)

    def stream_chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Stream:
        """Answers a conversation piece by piece. Dropping the stream ends the request."""
        arrival = time.monotonic()
        prompt = self._render(messages, tools, True, dict(chat_template_kwargs or {}))
        return Stream(self, self._submit(prompt, sampling_params or SamplingParams(), arrival))

    # ---- text to ids

    def _tokenize(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, str):
            return prompt, self._assembled.tokenizer.encode(prompt)
        ids: object = prompt
        if isinstance(prompt, Mapping):
            if set(prompt) == {"prompt"} and isinstance(prompt["prompt"], str):
                return self._tokenize(prompt["prompt"])
            if set(prompt) != {"prompt_token_ids"}:
                raise RequestError("prompt", 'a mapping holds "prompt" or "prompt_token_ids" only')
            ids = prompt["prompt_token_ids"]
        vocab_size = self._assembled.vocab_size
        if not isinstance(ids, Sequence) or not all(
            isinstance(i, int) and 0 <= i < vocab_size for i in ids
        ):
            raise RequestError("prompt_token_ids", f"must be whole numbers below {vocab_size}")
        return None, list(ids)

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: dict[str, Any],
    ) -> tuple[str | None, list[int]]:
        if not messages:
            raise RequestError("messages", "are empty; at least one is needed")
        text = self._chat_template().render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )
        # The template writes the special tokens itself.
        return text, self._assembled.tokenizer.encode(text, add_special=False)

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            self._template = self._assembled.template()
        return self._template

    # ---- running

    def _submit(
        self, prompt: tuple[str | None, list[int]], params: SamplingParams, arrival: float
    ) -> _Group:
        text, ids = prompt
        seed = secrets.randbits(63) if params.seed is None else params.seed
        number = next(self._ids)
        stops = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            stops |= self._assembled.tokenizer.eos_ids
        group = _Group(
            id=f"request-{number}",
            prompt=text,
            prompt_token_ids=tuple(ids),
            answers=[],
            requests=[],
            arrival=arrival,
            submitted=time.monotonic(),
        )
        try:
            for index in range(params.n):
                own_seed = (seed + index) % 2**64  # answer i of a prompt uses seed + i
                request = Request(
                    id=f"request-{number}-{index}",
                    token_ids=list(ids),
                    num_prompt=len(ids),
                    max_tokens=params.max_tokens or max(1, self.max_context - len(ids)),
                    sampling=params.row_sampling(own_seed),
                    stop_token_ids=stops,
                )
                self._engine.submit(request)
                group.requests.append(request)
                group.answers.append(Answer(self._assembled.tokenizer, params, own_seed))
                self._groups[request.id] = (group, index)
        except BaseException:
            self._abort(group)
            raise
        return group

    def _step(self) -> None:
        for event in self._engine.step():
            self._take(event)

    def _take(self, event: Event) -> None:
        group, index = self._groups[event.request_id]
        answer = group.answers[index]
        now = time.monotonic()
        if group.first_token is None and event.token_id is not None:
            group.first_token = now
        text = answer.take(event)
        if event.finish_reason is not None or answer.finish_reason is not None:
            self._engine.abort(event.request_id)
            del self._groups[event.request_id]
        if group.done:
            group.finished = now
        ids = () if event.token_id is None else (event.token_id,)
        last = group.output() if group.done else None
        group.deltas.append(Delta(index, text, ids, answer.finish_reason, last))

    def _abort(self, group: _Group) -> None:
        for request in group.requests:
            self._engine.abort(request.id)
            self._groups.pop(request.id, None)

    def _run(
        self,
        prompts: Sequence[tuple[str | None, list[int]]],
        params: Sequence[SamplingParams],
        arrival: float,
        use_tqdm: bool | None,
    ) -> list[RequestOutput]:
        groups: list[_Group] = []
        try:
            for prompt, own in zip(prompts, params, strict=True):
                groups.append(self._submit(prompt, own, arrival))
            show = len(groups) > 1 and sys.stderr.isatty() if use_tqdm is None else use_tqdm
            with _Progress(len(groups)) if show else nullcontext() as progress:
                while not all(group.done for group in groups):
                    self._step()
                    if progress is not None:
                        progress.show(groups)
                    for group in groups:
                        group.deltas.clear()
        finally:
            for group in groups:
                if not group.done:
                    self._abort(group)
        return [group.output() for group in groups]

    def _cancel(self, group: _Group) -> None:
        for request in group.requests:
            event = self._engine.abort(request.id)
            if event is not None:
                self._take(event)


class Stream(Iterator[Delta]):
    """The pieces of one prompt's answers as they come. It owns the request until the last piece."""

    def __init__(self, llm: LLM, group: _Group) -> None:
        self._llm = llm
        self._group = group
        self._cancelled = False

    def __next__(self) -> Delta:
        group = self._group
        while not group.deltas:
            if group.done:
                raise StopIteration
            if self._cancelled:
                self._llm._cancel(group)
            else:
                self._llm._step()
        return group.deltas.pop(0)

    def cancel(self) -> None:
        """Ends the answers at the next piece, as "abort". Safe to call in a signal handler."""
        self._cancelled = True

    @property
    def output(self) -> RequestOutput:
        """The prompt and its answers so far."""
        return self._group.output()

    def close(self) -> None:
        """Ends what still runs and frees its memory; also when the stream is dropped half read."""
        if not self._group.done:
            self._llm._abort(self._group)

    def __del__(self) -> None:
        self.close()


class _Progress(AbstractContextManager["_Progress"]):
    """A bar on stderr: prompts done and output tokens per second."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        self._bar = Progress(
            TextColumn("prompts"),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
            TextColumn("{task.fields[rate]:.0f} tok/s"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, rate=0.0)
        self._start = time.monotonic()

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._bar.stop()

    def show(self, groups: Sequence[_Group]) -> None:
        tokens = sum(len(a.token_ids) for g in groups for a in g.answers)
        rate = tokens / max(time.monotonic() - self._start, 1e-9)
        self._bar.update(self._task, completed=sum(g.done for g in groups), rate=rate)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise RequestError("prompts", "must be a text, a list of token ids, or a list of these")
    items = list(prompts)
    if items and all(isinstance(item, int) for item in items):
        return [items]  # type: ignore[list-item]
    return items  # type: ignore[return-value]


def _params_for(
    prompts: Sequence[object],
    sampling_params: SamplingParams | Sequence[SamplingParams] | None,
) -> list[SamplingParams]:
    if sampling_params is None:
        return [SamplingParams()] * len(prompts)
    if isinstance(sampling_params, SamplingParams):
        return [sampling_params] * len(prompts)
    if not isinstance(sampling_params, Sequence) or not all(
        isinstance(params, SamplingParams) for params in sampling_params
    ):
        raise RequestError("sampling_params", "must be a SamplingParams, or a list of them")
    if len(sampling_params) != len(prompts):
        raise RequestError(
            "sampling_params", f"has {len(sampling_params)} entries for {len(prompts)} prompts"
        )
    return list(sampling_params)


def _is_conversation(messages: Sequence[object]) -> bool:
    return not messages or isinstance(messages[0], Mapping)
