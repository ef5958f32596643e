"""Beam search: the likeliest answers as wholes, by widening the likeliest beginnings.

It stands on ordinary requests, one for each beam and token, that are forks of the one that the beam
grew from: whole blocks are shared, one is copied, and one token is computed. So that there is
something to fork, a request stays for a second token, which nobody looks at; where rows are too few
for both, it ends first, and the prefix cache has its whole blocks. Scores are sums of the model's
own log-probabilities, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ridgeline.engine.outputs import RequestOutput
from ridgeline.engine.prompts import Tokenized
from ridgeline.engine.request import FinishReason, SamplingParams
from ridgeline.errors import RequestError, RidgelineError
from ridgeline.model.text.tokenizer import Tokenizer

# Runs requests, all at once, until each has a token or has ended; results in their order. A third
# argument says for each which request of the call before it is a fork of; None: of none.
Ask = Callable[
    [Sequence[Tokenized], Sequence[SamplingParams], Sequence[int | None]], list[RequestOutput]
]

# What is to be run next, as `Ask` takes it; it is sent what that gave.
Searching = Generator[
    tuple[list[Tokenized], list[SamplingParams], list[int | None]],
    list[RequestOutput],
    "list[BeamSearchOutput]",
]

MAX_WIDTH = 128  # twice as many log-probabilities are asked for a beam


@dataclass(frozen=True, slots=True)
class BeamSearchParams:
    """beam_width: beginnings kept at each token, and answers given. max_tokens: of an answer.
    ignore_eos: the model's end is a token like others. length_penalty: an answer of n tokens has
    the score log-probability / n^length_penalty; 0: long answers lose by their length.
    skip_special_tokens: their text is left out.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    length_penalty: float = 1.0
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        for name, most in (("beam_width", MAX_WIDTH), ("max_tokens", 2**31 - 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise RequestError(name, f"{value!r} is not a whole number from 1 to {most}")
        for name in ("ignore_eos", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(name, f"{getattr(self, name)!r} is not true or false")
        penalty = self.length_penalty
        if (
            isinstance(penalty, bool)
            or not isinstance(penalty, int | float)
            or not -10 <= penalty <= 10
        ):
            raise RequestError("length_penalty", f"{penalty!r} is not a number from -10 to 10")


@dataclass(frozen=True, slots=True)
class BeamSequence:
    """One answer. token_ids: without the prompt, with the token that ended it. score: what the
    answers are ordered by.
    """

    token_ids: tuple[int, ...]
    text: str
    cumulative_logprob: float
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class BeamSearchOutput:
    """A prompt and its answers, the best first. error: of the last beam, if all came to one."""

    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    sequences: tuple[BeamSequence, ...]
    error: RidgelineError | None = None


@dataclass(frozen=True, slots=True)
class _Beam:
    """parent: the request, of those that were asked last, that it grew from."""

    token_ids: tuple[int, ...]
    logprob: float
    parent: int | None = None


class _Grown(NamedTuple):
    """A beam and a token more, of which there are too many to write each one out."""

    logprob: float
    beam: _Beam
    token_id: int
    parent: int


@dataclass(slots=True)
class _Search:
    """One prompt's: live beams, the likeliest first, and answers that have ended."""

    prompt: Tokenized
    live: list[_Beam]
    ended: list[BeamSequence]
    error: RidgelineError | None = None


def search(
    ask: Ask,
    prompts: Sequence[Tokenized],
    params: BeamSearchParams,
    tokenizer: Tokenizer,
    max_context: int,
) -> list[BeamSearchOutput]:
    """All prompts side by side, a token at a time. Raises RequestError for a prompt that could
    never run.
    """
    steps = searching(prompts, params, tokenizer, max_context)
    wanted = next(steps, None)
    while wanted is not None:
        outputs = ask(*wanted)
        try:
            wanted = steps.send(outputs)
        except StopIteration as ended:
            found: list[BeamSearchOutput] = ended.value
            return found
    return []


def searching(
    prompts: Sequence[Tokenized],
    params: BeamSearchParams,
    tokenizer: Tokenizer,
    max_context: int,
) -> Searching:
    """The same for whoever runs requests in his own time; of no prompts, no step is wanted."""
    step = SamplingParams(
        temperature=0, seed=0, max_tokens=2, ignore_eos=True, logprobs=2 * params.beam_width
    )
    searches = [_Search(prompt, [_Beam((), 0.0)], []) for prompt in prompts]
    for _ in range(params.max_tokens):
        asked = [(s, beam) for s in searches for beam in s.live]
        if not asked:
            break
        wanted = [Tokenized(None, [*s.prompt.token_ids, *beam.token_ids]) for s, beam in asked]
        outputs = yield wanted, [step] * len(wanted), [beam.parent for _s, beam in asked]
        grown: dict[int, list[_Grown]] = {}
        for index, ((s, beam), output) in enumerate(zip(asked, outputs, strict=True)):
            grown.setdefault(id(s), []).extend(_grow(s, beam, output, index))
        for s in searches:
            if s.live:
                _select(s, grown[id(s)], params, tokenizer, max_context)
    return [_output(s, params, tokenizer) for s in searches]


def _grow(s: _Search, beam: _Beam, output: RequestOutput, index: int) -> list[_Grown]:
    answer = output.outputs[0]
    if not answer.logprobs:
        s.error = answer.error
        return []
    return [
        _Grown(beam.logprob + entry.logprob, beam, token_id, index)
        for token_id, entry in answer.logprobs[0].items()
    ]


def _select(
    s: _Search,
    grown: list[_Grown],
    params: BeamSearchParams,
    tokenizer: Tokenizer,
    max_context: int,
) -> None:
    """The likeliest go on, or have ended; ties by the token ids."""
    s.live = []
    for one in sorted(grown, key=lambda g: (-g.logprob, g.beam.token_ids, g.token_id)):
        if len(s.live) == params.beam_width:
            break
        beam = _Beam((*one.beam.token_ids, one.token_id), one.logprob, one.parent)
        if beam.token_ids[-1] in tokenizer.eos_ids and not params.ignore_eos:
            s.ended.append(_sequence(beam, "stop", params, tokenizer))
        else:
            s.live.append(beam)
    if s.live and len(s.prompt.token_ids) + len(s.live[0].token_ids) >= max_context:
        s.ended += [_sequence(beam, "length", params, tokenizer) for beam in s.live]
        s.live = []


def _sequence(
    beam: _Beam, reason: FinishReason, params: BeamSearchParams, tokenizer: Tokenizer
) -> BeamSequence:
    shown = beam.token_ids[:-1] if reason == "stop" else beam.token_ids
    text = tokenizer.decode(
        [i for i in shown if i < tokenizer.vocab_size],
        skip_special=params.skip_special_tokens,
        continues=True,
    )
    score = beam.logprob / len(beam.token_ids) ** params.length_penalty
    return BeamSequence(beam.token_ids, text, beam.logprob, score, reason)


def _output(s: _Search, params: BeamSearchParams, tokenizer: Tokenizer) -> BeamSearchOutput:
    left = [_sequence(beam, "length", params, tokenizer) for beam in s.live if beam.token_ids]
    best = sorted([*s.ended, *left], key=lambda q: (-q.score, q.token_ids))[: params.beam_width]
    error = None if best else s.error
    return BeamSearchOutput(s.prompt.text, tuple(s.prompt.token_ids), tuple(best), error)
