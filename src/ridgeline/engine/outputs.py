"""What a caller gets: a prompt's answers, whole or piece by piece.

Field names are those that users of vLLM's offline API know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ridgeline.engine.answer import Logprob
from ridgeline.engine.experts import Counts
from ridgeline.engine.kv.prefix import CacheMiss
from ridgeline.engine.ledger import Ledger
from ridgeline.engine.prompt_logprobs import PromptLogprobs
from ridgeline.engine.request import FinishReason
from ridgeline.errors import RidgelineError


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer.

    finish_reason: "stop" (the model ended, or what stop_reason says did), "length", "abort" or
    "error" (error says why); None while it runs. token_ids: all, with the one that ended it; text:
    without that one and without a stop string. logprobs: per token, {token id: Logprob}, the
    sampled one first; None if not asked for. seed: the one used, so that the answer can be had
    again.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    cumulative_logprob: float | None
    logprobs: tuple[Mapping[int, Logprob], ...] | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    seed: int
    error: RidgelineError | None = None


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Moments in seconds of `time.monotonic()`; None: not yet.

    arrival: the call was made. submitted: its text was templated and tokenized, and the engine has
    it. TTFT counts from arrival.
    """

    arrival: float
    submitted: float
    first_token: float | None
    finished: float | None

    @property
    def ttft_seconds(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.arrival


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A prompt and its answers, one for each of SamplingParams.n.

    prompt: its text, a conversation's after the chat template; None if token ids were given.
    num_cached_tokens: of the prompt's, those that the prefix cache had; cache_miss: why it had no
    more of the whole blocks, None if it had them all. prompt_logprobs: None if not asked for.
    ledgers: of each of outputs, where its time went; see `Ledger`.
    expert_counts: of each mixture of experts, by its node's name, how often each was chosen; None
    unless LLM(expert_counts=True). All answers together; see `engine.experts` for what is left out.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    finished: bool
    metrics: RequestMetrics
    num_cached_tokens: int
    cache_miss: CacheMiss | None = None
    prompt_logprobs: PromptLogprobs | None = None
    expert_counts: Counts | None = None
    ledgers: tuple[Ledger, ...] = ()


@dataclass(slots=True)
class Delta:
    """One piece of a stream: the text that is new (perhaps none); output is set on the last. Not
    frozen, since one is made for each token, in a third of the time; nobody changes it.

    logprobs: of its tokens, as `CompletionOutput` has them. stop_reason, error: set with
    finish_reason, as there.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    output: RequestOutput | None
    logprobs: tuple[Mapping[int, Logprob], ...] | None = None
    stop_reason: str | int | None = None
    error: RidgelineError | None = None
