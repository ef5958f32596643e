"""One answer's text: tokens in, characters out, stop strings found.

Text is given out as soon as it can no longer change: never half a character, never a part of a stop
string.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ridgeline.engine.request import Event, FinishReason, SamplingParams
from ridgeline.errors import RidgelineError
from ridgeline.model.text.detokenizer import Detokenizer
from ridgeline.model.text.stops import StopMatcher
from ridgeline.model.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely a token was, before temperature and filters.

    logprob: natural. rank: 1 is the likeliest; None where it was not among those asked for.
    decoded_token: its text alone, with a replacement character for a part of a character.
    """

    logprob: float
    rank: int | None
    decoded_token: str


@dataclass(slots=True)
class Answer:
    """The answer to one request so far; `take` folds in an event and gives what text is new.

    text, token_ids: all so far. stop_reason: the stop string, stop_regex or stop token id that
    ended it, None for the model's own end. logprobs: per token, {id: Logprob} with the sampled one
    first.
    """

    tokenizer: Tokenizer
    params: SamplingParams
    seed: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: RidgelineError | None = None
    _detokenizer: Detokenizer = field(init=False)
    _stops: StopMatcher = field(init=False)
    _finds_stops: bool = field(init=False)

    def __post_init__(self) -> None:
        self._detokenizer = Detokenizer(
            self.tokenizer, skip_special=self.params.skip_special_tokens, continues=True
        )
        self._stops = StopMatcher(
            self.params.stop_strings,
            patterns=self.params.stop_regexes,
            include=self.params.include_stop_str_in_output,
        )
        self._finds_stops = self.params.stops_by_text

    def take(self, event: Event) -> str:
        """Folds in an event. After a stop string finish_reason is "stop" while the request runs on:
        the caller ends it.
        """
        if self.finish_reason is not None:
            return ""
        delta = ""
        token_id, params = event.token_id, self.params
        if token_id is not None:
            self.token_ids.append(token_id)
            self.cumulative_logprob += event.logprob
            if params.logprobs is not None:
                self.logprobs.append(self._logprobs(token_id, event))
            ends = event.finish_reason == "stop"
            # Rows that pad a vocabulary to a round size can be sampled, and have no text.
            if not ends and token_id < self.tokenizer.vocab_size:
                delta = self._detokenizer.push(token_id)
                if self._finds_stops and len(self.token_ids) > params.min_tokens:
                    delta = self._stops.push(delta)
            elif ends and token_id in params.stop_token_ids:
                self.stop_reason = token_id
        if self._stops.matched is not None:
            self.finish_reason, self.stop_reason = "stop", self._stops.matched
        elif event.finish_reason is not None:
            self.finish_reason, self.error = event.finish_reason, event.error
            delta += self._stops.push(self._detokenizer.flush())
            delta += self._stops.flush()
            if self._stops.matched is not None:
                self.finish_reason, self.stop_reason = "stop", self._stops.matched
        self.text += delta
        return delta

    def _logprobs(self, sampled: int, event: Event) -> dict[int, Logprob]:
        ranks = {token_id: rank for rank, (token_id, _) in enumerate(event.top_logprobs, 1)}
        found = {sampled: event.logprob} | dict(event.top_logprobs)
        return {
            token_id: Logprob(value, ranks.get(token_id), piece(self.tokenizer, token_id))
            for token_id, value in found.items()
        }


def piece(tokenizer: Tokenizer, token_id: int) -> str:
    """A token's text alone; none for the rows that pad a vocabulary to a round size."""
    if token_id >= tokenizer.vocab_size:
        return ""
    return tokenizer.decode([token_id], skip_special=False, continues=True)
