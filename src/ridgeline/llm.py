"""The Python API: `LLM("smollm2").generate(prompts, SamplingParams(...))`.

Result fields are those that users of vLLM's offline API know. Text to tokens to text happens here;
the engine below sees ids only.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ridgeline.assemble import Options, assemble
from ridgeline.config import Settings, read_settings
from ridgeline.engine.beam_requests import BeamRequests
from ridgeline.engine.beams import BeamSearchOutput, BeamSearchParams, search
from ridgeline.engine.engine import Engine
from ridgeline.engine.outputs import RequestOutput
from ridgeline.engine.pooled import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    Floats,
    Pooler,
    ScoringOutput,
    ScoringRequestOutput,
    normalized,
    pair,
    probabilities,
    scores,
    truncated,
)
from ridgeline.engine.prompts import Message, Prompt, Prompts, Tokenized, listed
from ridgeline.engine.request import SamplingParams, checked, params_of_each
from ridgeline.engine.session import Group, Session
from ridgeline.engine.turns import Stream, Turns
from ridgeline.errors import EngineError, ModelError, RequestError
from ridgeline.model.weights.sources import Progress, silent
from ridgeline.step import StepShape

# What `close` gives back.
_PARTS = ("assembled", "prompts", "session")

if TYPE_CHECKING:
    from ridgeline.cost.measure import ReadRoof
    from ridgeline.engine.speech.transcribe import Transcriber
    from ridgeline.engine.speech.windows import TranscribeParams, Transcript
    from ridgeline.model.audio.wav import Sound

    Heard = str | Path | bytes | Floats | Sound


class LLM:
    """A model, loaded and ready. Threads that ask it take turns; a process that forks loads its own
    in the child. `close`, leaving `with`, or dropping it gives its memory back.

    model: a path, a catalogue name, `pypi:package` or `hf:owner/name`. The keyword arguments are
    the fields of `Options`; what is not given is chosen from the model and the machine. progress:
    told of a download.
    Raises ModelError, CapacityError (before a weight is read) or RequestError.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        settings: Settings | None = None,
        progress: Progress = silent,
        **options: Any,
    ) -> None:
        if not isinstance(settings, Settings | None):
            raise RequestError("settings", f"is a Settings, not {type(settings).__name__}")
        self.settings = settings or read_settings()
        try:
            chosen = Options(**options)
        except TypeError:
            known = ", ".join(Options.__dataclass_fields__)
            wrong = ", ".join(sorted(set(options) - set(Options.__dataclass_fields__)))
            raise RequestError(
                wrong or "options", f"is not an option; there are: {known}"
            ) from None
        if isinstance(model, Path):
            model = str(model.expanduser().absolute())  # never a catalogue's name
        if not isinstance(model, str):
            raise ModelError(f"a model is a name or a path, not {type(model).__name__}")
        self._model = model
        self.assembled = assemble(model, self.settings, chosen, progress)
        tokenizer = self.assembled.tokenizer
        vocab_size = self.assembled.vocab_size
        self.prompts = Prompts(
            tokenizer,
            self.assembled.purpose.num_ids(vocab_size),
            self.assembled.template,
            self.assembled.images,
        )
        self.session = Session(
            self.assembled.engine, tokenizer, vocab_size, self.assembled.constraints
        )
        self.turns = Turns(self.session)

    def close(self) -> None:
        """Ends what runs and gives the memory back; nothing can be asked from then on. May be
        called twice.
        """
        self.turns.close()
        for name in _PARTS:
            self.__dict__.pop(name, None)
        gc.collect()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    if not TYPE_CHECKING:  # or a checker would find every name

        def __getattr__(self, name: str) -> object:
            if name in _PARTS:
                raise EngineError("this LLM is closed; load the model again")
            raise AttributeError(f"'LLM' object has no attribute {name!r}")

    def __repr__(self) -> str:
        state = f"task={self.task!r}" if "assembled" in self.__dict__ else "closed"
        return f"<LLM {self._model!r}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an LLM cannot be pickled or copied; load one in each process")

    @property
    def tokenizer(self) -> Any:
        return self.assembled.tokenizer

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the model's files: parts of them that are not used, say."""
        return self.assembled.opened.notes

    @property
    def max_context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.session.max_context

    @property
    def _engine(self) -> Engine:
        return self.session.engine

    def check_chat_template(self) -> None:
        """Raises ModelError if the model has no chat template, or one that cannot be read."""
        self.prompts.template  # noqa: B018 (reads it)

    def step_bytes(self, batch: int, context: int) -> float:
        """Bytes of weights and KV that a decode step of `batch` rows at `context` must move."""
        work = self.assembled.work(StepShape.decode(batch, context))
        return work.weight_bytes + work.kv_read_bytes + work.kv_write_bytes

    def read_roof(self, reached: float = 0.0) -> ReadRoof:
        """This machine's read bandwidth for a working set of the model's size: as it is now, beside
        what `ridgeline measure` kept. reached: GB/s that a program has come to; a figure below it
        is measured again.
        """
        return self.assembled.read_roof(reached)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool | None = None,
    ) -> list[RequestOutput]:
        """Continues each prompt: text, token ids, or {"prompt_token_ids": ids}; a mapping may have
        "multi_modal_data": {"image": ...} besides, of a model that sees (docs/images.md).

        One SamplingParams serves all, or there is one per prompt; None: SamplingParams(). use_tqdm:
        show progress on stderr (default: on a terminal, for more than one prompt). Results are in
        the order of the prompts. A prompt that could never run (empty, or longer than the context)
        raises RequestError before anything runs; a fault while they run ends one request with
        finish_reason "error", and the others are complete.
        """
        arrival = time.monotonic()
        many = listed(prompts)
        params = params_of_each(sampling_params, len(many))
        return self._run([self.prompts.tokenize(p) for p in many], params, arrival, use_tqdm)

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

        messages: {"role": "user", "content": "..."} and so on, as OpenAI's API has them; a content
        may be a list of parts, {"type": "image", "image": path, bytes or array} among them. tools:
        JSON schemas for the template. chat_template_kwargs: what the template may know besides,
        such as enable_thinking. Raises as `generate` does, RequestError also for messages that the
        template refuses, and ModelError where the model has no template.
        """
        arrival = time.monotonic()
        conversations: Sequence[Sequence[Message]]
        conversations = [messages] if _is_conversation(messages) else messages  # type: ignore[assignment,list-item]
        prompts = [
            self.prompts.render(
                conversation,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                variables=chat_template_kwargs,
            )
            for conversation in conversations
        ]
        return self._run(prompts, params_of_each(sampling_params, len(prompts)), arrival, use_tqdm)

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> Stream:
        """Continues one prompt piece by piece. Dropping the stream ends the request."""
        arrival = time.monotonic()
        return self._stream(self.prompts.tokenize(prompt), sampling_params, arrival)

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
        prompt = self.prompts.render(messages, tools=tools, variables=chat_template_kwargs)
        return self._stream(prompt, sampling_params, arrival)

    def _stream(self, prompt: Tokenized, params: SamplingParams | None, arrival: float) -> Stream:
        self._require_task("generate")
        with self.turns.turn() as session:
            return Stream(self.turns, session.submit(prompt, checked(params), arrival=arrival))

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams
    ) -> list[BeamSearchOutput]:
        """The likeliest answers to each prompt as wholes. Raises as `generate` does."""

        if not isinstance(params, BeamSearchParams):
            raise RequestError("params", "must be a BeamSearchParams")
        self._require_task("generate")
        tokenized = [self.prompts.tokenize(p) for p in listed(prompts)]
        with self.turns.turn() as session, BeamRequests(session) as ask:
            return search(ask, tokenized, params, self.prompts.tokenizer, self.max_context)

    @property
    def task(self) -> str:
        """What the model was loaded for: "generate", "embed", "classify" or "transcribe"."""
        return self.assembled.purpose.task

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        normalize: bool = True,
        truncate: bool = False,
    ) -> list[EmbeddingRequestOutput]:
        """An embedding of each text, of length 1 if `normalize`.

        The model is an encoder, or was loaded with task="embed". truncate: a text that is too long
        loses its end, where it would be refused. Raises RequestError as `generate` does.
        """
        texts = self._texts(prompts, "embed", truncate)
        rows = self._pooled(texts)
        rows = normalized(rows) if normalize else rows
        return [
            EmbeddingRequestOutput(text.text, text.token_ids, EmbeddingOutput(row.tolist()))
            for text, row in zip(texts, rows, strict=True)
        ]

    def classify(
        self, prompts: Prompt | Sequence[Prompt], *, truncate: bool = False
    ) -> list[ClassificationRequestOutput]:
        """The classes' probabilities for each text; the model has a head for them."""
        texts = self._texts(prompts, "classify", truncate)
        labels = self.assembled.purpose.labels
        return [
            ClassificationRequestOutput(
                text.text, text.token_ids, ClassificationOutput(row.tolist(), labels)
            )
            for text, row in zip(texts, probabilities(self._pooled(texts)), strict=True)
        ]

    def score(
        self, query: str, documents: str | Sequence[str], *, truncate: bool = False
    ) -> list[ScoringRequestOutput]:
        """How well each document goes with the query.

        An embedding model gives the cosine of the two; a classifier reads both as one text, and
        gives the probability of its last class (of its only one: the sigmoid).
        """
        many = [documents] if isinstance(documents, str) else list(documents)
        if self.task == "embed":
            texts = self._texts([query, *many], "embed", truncate)
            rows = normalized(self._pooled(texts))
            found = scores(rows[:1].repeat(len(many), axis=0), rows[1:])
            texts = texts[1:]
        else:
            encode = self.prompts.tokenizer.encode
            first = encode(query)
            pairs: list[Prompt] = [pair(first, encode(document)) for document in many]
            texts = self._texts(pairs, "classify", truncate)
            found = [float(row[-1]) for row in probabilities(self._pooled(texts))]
        return [
            ScoringRequestOutput(text.token_ids, ScoringOutput(score))
            for text, score in zip(texts, found, strict=True)
        ]

    def transcribe(
        self,
        sounds: Heard | Sequence[Heard],
        params: TranscribeParams | None = None,
        *,
        told: Callable[[int, Transcript], None] | None = None,
    ) -> list[Transcript]:
        """The text of each sound: a path or the bytes of a WAV file, a `Sound`, or an array of
        samples from -1 to 1, 16,000 a second.

        Sounds are read side by side; a transcript does not depend on those beside it. told: called
        with a sound's index and its transcript so far after each window of 30 seconds. Raises
        RequestError for a sound that cannot be read or a parameter that is wrong, before anything
        is computed.
        """
        from ridgeline.engine.speech.transcribe import transcribe_all

        many = sounds if isinstance(sounds, list | tuple) else [sounds]
        with self.turns.turn():
            return transcribe_all(self.transcriber(), many, params, told)

    def transcriber(self) -> Transcriber:
        """What `transcribe` steps, for who steps it otherwise."""
        from ridgeline.engine.speech.transcribe import transcriber_of

        self._require_task("transcribe")
        each = self.assembled
        if not hasattr(each.executor, "encode"):
            raise RequestError("backend", "this one computes nothing, and hears nothing")
        return transcriber_of(
            each.executor,  # type: ignore[arg-type]  # one with an encoder
            each.opened,
            each.bound_graph,
            each.tokenizer,
            each.max_tokens_per_step,
        )

    def least_transcribe_seconds(self, found: Sequence[Transcript]) -> float | None:
        """What this machine needs at least for what these transcripts took; None where the backend
        computes otherwise than the machine could.
        """
        from ridgeline.assemble import machine_device
        from ridgeline.cost.speech import least_speech_seconds

        assembled = self.assembled
        if assembled.timers() is None:
            return None
        return least_speech_seconds(
            assembled.bound_graph,
            assembled.precision,
            machine_device(assembled.bound_graph, self.settings),
            sum(transcript.num_windows for transcript in found),
            sum(transcript.num_attempts for transcript in found),
            sum(transcript.num_tokens for transcript in found),
        )

    def _require_task(self, wanted: str) -> None:
        if self.task != wanted:
            advice = "; load it with task='embed'" if wanted == "embed" else ""
            raise RequestError("task", f"this model was loaded to {self.task}{advice}")

    def _texts(
        self, prompts: Prompt | Sequence[Prompt], task: str, truncate: bool
    ) -> list[Tokenized]:
        self._require_task(task)
        texts = [self.prompts.tokenize(prompt) for prompt in listed(prompts)]
        if not truncate:
            return texts
        longest = self.pooler.max_context
        return [Tokenized(text.text, truncated(text.token_ids, longest)) for text in texts]

    def _pooled(self, texts: Sequence[Tokenized]) -> Floats:
        with self.turns.turn():
            return self.pooler.rows([text.token_ids for text in texts])

    @property
    def width(self) -> int:
        """Numbers that the model gives for a text: of an embedding, classes, or logits."""
        return self.assembled.executor.vocab_size

    @property
    def pooler(self) -> Pooler:
        """What `embed`, `classify` and `score` compute by, for who does so otherwise."""
        assembled = self.assembled
        return Pooler(
            assembled.executor,
            max_context=assembled.bound_graph.max_context,
            max_tokens=assembled.max_tokens_per_step,
            whole=assembled.purpose.whole,
        )

    def _run(
        self,
        prompts: Sequence[Tokenized],
        params: Sequence[SamplingParams],
        arrival: float,
        use_tqdm: bool | None,
    ) -> list[RequestOutput]:
        self._require_task("generate")
        groups: list[Group] = []
        try:
            with self.turns.turn() as session:
                for prompt, own in zip(prompts, params, strict=True):
                    groups.append(session.submit(prompt, own, arrival=arrival, streams=False))
            show = len(groups) > 1 and sys.stderr.isatty() if use_tqdm is None else use_tqdm
            left = {id(group) for group in groups}
            steps = self.assembled.executor.steps_together
            with _Progress(len(groups)) if show else nullcontext() as progress:
                while left:
                    # A stream may run beside: its pieces are not ours to take.
                    with self.turns.turn() as session:
                        touched = [g for g in session.step(steps) if id(g) in left]
                    if progress is not None:
                        progress.show(groups)
                    left.difference_update(id(group) for group in touched if group.done)
                    if not touched:  # other threads may have stepped ours to their ends
                        left = {id(group) for group in groups if not group.done}
        finally:
            for group in groups:
                self.turns.drop(group)
        return [group.output() for group in groups]


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
        self._next = 0.0

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._bar.stop()

    def show(self, groups: Sequence[Group]) -> None:
        """Counts anew, a few times a second."""
        now = time.monotonic()
        if now < self._next and any(not group.done for group in groups):
            return
        self._next = now + 0.1
        rate = sum(group.num_tokens for group in groups) / max(now - self._start, 1e-9)
        self._bar.update(self._task, completed=sum(g.done for g in groups), rate=rate)


def _is_conversation(messages: Sequence[object]) -> bool:
    return not messages or isinstance(messages[0], Mapping)
