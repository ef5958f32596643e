"""A request: what a caller asks for (`SamplingParams`) and how far it is (`Request`).

Field names are those that users of vLLM's offline API know. A value that is not allowed is a
`RequestError` that names the field; nothing is clamped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from enum import Enum
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ridgeline.engine.constrain.structured import StructuredOutputs
from ridgeline.engine.kv.prefix import CacheMiss
from ridgeline.engine.ledger import Trace
from ridgeline.errors import RequestError, RidgelineError
from ridgeline.model.text.stop_regex import MAX_PATTERN_CHARACTERS, StopRegex
from ridgeline.step import Image, RowSampling, Scored

if TYPE_CHECKING:
    from ridgeline.engine.constrain.follow import Follower

FinishReason = Literal["stop", "length", "abort", "error", "deadline"]
Rank = tuple[float, int]


# Bounds that keep one request's parameters from costing its neighbours time.
MAX_STOPS, MAX_STOP_CHARACTERS = 64, 4096
MAX_STOP_REGEXES = 8
MAX_BIASES = 4096
MAX_BAD_WORDS, MAX_BAD_WORD_TOKENS = 1024, 64
MAX_BREAKERS, MAX_BREAKER_CHARACTERS = 32, 64


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue a prompt. docs/sampling.md says what each field does, and in which order.

    n: answers per prompt, with seeds seed, seed + 1, ... best_of: so many are made, and the n
    likeliest per token are given. seed None: one is drawn, and the answer says which. max_tokens
    None: until the model stops or its context is full. temperature 0: the likeliest token.

    Off, and the default: top_k 0 (or -1); top_p, typical_p and repetition_penalty 1; mirostat 0 (2
    is on); stop, bad_words and logit_bias empty; allowed_token_ids, logprobs and prompt_logprobs
    None; all other numbers 0. penalty_last_n: repetition, frequency and presence penalties look at
    so many of the last tokens; -1: at all.

    dry_sequence_breakers: no repetition goes across a token whose text has one of these.
    bad_words: texts, or token ids, that do not come; a text as the tokenizer cuts it, alone and
    after a space. min_tokens: before so many, no stop token, stop string or stop_regex ends the
    answer. stop, stop_regex: what ends the answer, left out of it unless
    include_stop_str_in_output. logprobs, prompt_logprobs: of each token of the answer, of the
    prompt, and of this many likeliest besides. structured_outputs: the form that the answer keeps
    to (docs/structured_outputs.md).

    Raises RequestError, naming the field, for a value or a combination that means nothing.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    best_of: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = -1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: Sequence[str] = ("\n", ":", '"', "*")
    no_repeat_ngram_size: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: Sequence[str | Sequence[int]] = ()
    allowed_token_ids: Sequence[int] | None = None
    min_tokens: int = 0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    stop_regex: str | Sequence[str] = ()
    prompt_logprobs: int | None = None
    structured_outputs: StructuredOutputs | None = None

    def __post_init__(self) -> None:
        for name in (*_WHOLES, *_OPTIONALS, *_NUMBERS):
            value = getattr(self, name)
            if value is not None and type(value) not in _OWN:  # NumPy's, as numbers of an array are
                object.__setattr__(self, name, _own_number(value))
        for name, (low, high) in _WHOLES.items():
            _whole(name, getattr(self, name), low, high)
        for name, (low, high) in _OPTIONALS.items():
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), low, high)
        for name, (least, most, is_above) in _NUMBERS.items():
            _number(name, getattr(self, name), least, most, open_low=is_above)
        for name in ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(name, f"{getattr(self, name)!r} is not true or false")
        if not isinstance(self.structured_outputs, StructuredOutputs | None):
            raise RequestError("structured_outputs", "must be a StructuredOutputs")
        if self.mirostat == 1:
            raise RequestError("mirostat", "1 is not here; it may be 0 (off) or 2")
        self._check_texts()
        self._check_tokens()
        self._check_together()

    def _check_texts(self) -> None:
        _texts("stop", _listed(self.stop), MAX_STOPS, MAX_STOP_CHARACTERS)
        _texts("stop_regex", _listed(self.stop_regex), MAX_STOP_REGEXES, MAX_PATTERN_CHARACTERS)
        _texts("dry_sequence_breakers", self.dry_sequence_breakers, MAX_BREAKERS)
        if any(len(text) > MAX_BREAKER_CHARACTERS for text in self.dry_sequence_breakers):
            raise RequestError(
                "dry_sequence_breakers", f"one has more than {MAX_BREAKER_CHARACTERS} characters"
            )
        if self.stop_regexes:
            StopRegex(self.stop_regexes)  # refuses what it does not know

    def _check_tokens(self) -> None:
        _ids("stop_token_ids", self.stop_token_ids)
        if self.allowed_token_ids is not None:
            _ids("allowed_token_ids", self.allowed_token_ids)
            if not self.allowed_token_ids:
                raise RequestError("allowed_token_ids", "is empty; no token could come")
        if not isinstance(self.logit_bias, Mapping) or len(self.logit_bias) > MAX_BIASES:
            raise RequestError(
                "logit_bias", f"must map up to {MAX_BIASES} token ids to numbers from -100 to 100"
            )
        for token_id, amount in self.logit_bias.items():
            _whole("logit_bias", token_id, 0, 2**31 - 1)
            _number("logit_bias", amount, -100.0, 100.0)
        many = f"must be up to {MAX_BAD_WORDS} texts or lists of token ids"
        if not _is_list(self.bad_words) or len(self.bad_words) > MAX_BAD_WORDS:
            raise RequestError("bad_words", many)
        for word in self.bad_words:
            if not isinstance(word, str):
                _ids("bad_words", word)
            if not word or len(word) > (1024 if isinstance(word, str) else MAX_BAD_WORD_TOKENS):
                raise RequestError(
                    "bad_words", f"one is empty or longer than {MAX_BAD_WORD_TOKENS} tokens"
                )

    def _check_together(self) -> None:
        """What contradicts itself is told, never decided for the caller."""
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                "min_tokens", f"{self.min_tokens} is above max_tokens, {self.max_tokens}"
            )
        if self.structured_outputs is not None and self.ignore_eos:
            raise RequestError("ignore_eos", "and structured_outputs: a grammar says when to end")
        if self.best_of is not None and self.best_of < self.n:
            raise RequestError("best_of", f"{self.best_of} is below n, {self.n}")
        draws_only = {
            "dynatemp_range": self.dynatemp_range > 0,
            "typical_p": self.typical_p < 1,
            "xtc_probability": self.xtc_probability > 0,
            "mirostat": self.mirostat > 0,
            "best_of": self.best_of is not None and self.best_of > self.n,
        }
        for name, is_on in draws_only.items():
            if is_on and self.temperature == 0:
                raise RequestError(name, "needs a temperature above 0, and it is 0")
        filters = {
            "top_n_sigma": self.top_n_sigma > 0,
            "top_k": self.top_k > 0,
            "typical_p": self.typical_p < 1,
            "top_p": self.top_p < 1,
            "min_p": self.min_p > 0,
            "xtc_probability": self.xtc_probability > 0,
        }
        for name, is_on in filters.items():
            if is_on and self.mirostat:
                raise RequestError("mirostat", f"cuts by itself; leave {name} out, or mirostat")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def stop_regexes(self) -> tuple[str, ...]:
        return (self.stop_regex,) if isinstance(self.stop_regex, str) else tuple(self.stop_regex)

    @property
    def stops_by_text(self) -> bool:
        """Whether something ends the answer that only its text tells."""
        return bool(self.stop or self.stop_regex)

    @property
    def chooses(self) -> bool:
        """Whether more answers are made than given."""
        return self.num_sequences > self.n

    @property
    def num_sequences(self) -> int:
        """Answers that are made: best_of, of which n are given."""
        return self.n if self.best_of is None else self.best_of


_BIG = 2**31 - 1
_TINY = 1e-37
_WHOLES: dict[str, tuple[int, int]] = {
    "n": (1, 1024),
    "top_k": (-1, _BIG),
    "dry_allowed_length": (1, _BIG),
    "penalty_last_n": (-1, _BIG),
    "dry_penalty_last_n": (-1, _BIG),
    "no_repeat_ngram_size": (0, _BIG),
    "min_tokens": (0, _BIG),
    "mirostat": (0, 2),
}
_OPTIONALS: dict[str, tuple[int, int]] = {
    "best_of": (1, 1024),
    "seed": (0, 2**64 - 1),
    "max_tokens": (1, _BIG),
    "logprobs": (0, 256),
    "prompt_logprobs": (0, 256),
}
# From, to, and whether the first is itself left out.
_NUMBERS: dict[str, tuple[float, float, bool]] = {
    "temperature": (0.0, 100.0, False),
    "dynatemp_range": (0.0, 100.0, False),
    "dynatemp_exponent": (0.0, 100.0, False),
    "top_n_sigma": (0.0, 1000.0, False),
    "typical_p": (0.0, 1.0, True),
    "top_p": (0.0, 1.0, True),
    "min_p": (0.0, 1.0, False),
    "xtc_probability": (0.0, 1.0, False),
    "xtc_threshold": (0.0, 1.0, False),
    "mirostat_tau": (0.0, 100.0, True),
    "mirostat_eta": (0.0, 1.0, False),
    "repetition_penalty": (0.0, 100.0, True),
    "frequency_penalty": (-100.0, 100.0, False),
    "presence_penalty": (-100.0, 100.0, False),
    "dry_multiplier": (0.0, 100.0, False),
    "dry_base": (1.0, 100.0, False),
}


_OWN = frozenset((int, float, bool))


def _own_number(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _whole(name: str, value: object, low: int, high: int) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | Integral)
        or not low <= int(value) <= high
    ):
        raise RequestError(name, f"{value!r} is not a whole number from {low} to {high}")


def _number(name: str, value: object, low: float, high: float, open_low: bool = False) -> None:
    ok = (
        isinstance(value, int | float | Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
    # Above a lower bound is above it in float32, too, in which samplers compute.
    least = low + _TINY if open_low else low
    if not ok or not least <= value <= high:  # type: ignore[operator]
        above = "above" if open_low else "from"
        raise RequestError(name, f"{value!r} is not a number {above} {low:g} up to {high:g}")


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _ids(name: str, value: object) -> None:
    if not _is_list(value):
        raise RequestError(name, "must be a list of token ids")
    for token_id in value:  # type: ignore[attr-defined]
        _whole(name, token_id, 0, _BIG)


def _texts(name: str, value: object, most: int, characters: int | None = None) -> None:
    if not _is_list(value) or any(not isinstance(t, str) or not t for t in value):  # type: ignore[attr-defined]
        raise RequestError(name, "must be strings of at least one character")
    texts: Sequence[str] = value  # type: ignore[assignment]
    if len(texts) > most:
        raise RequestError(name, f"has {len(texts)} strings; {most} are allowed")
    odd = (text for text in texts if not text.isascii())
    if any("\ud800" <= character <= "\udfff" for text in odd for character in text):
        raise RequestError(name, "has half of a surrogate pair, which no text can have")
    total = sum(map(len, texts))
    if characters is not None and total > characters:
        raise RequestError(name, f"has {total} characters; {characters} are allowed")


def checked(params: object) -> SamplingParams:
    """Of one prompt; None: SamplingParams()."""
    return params_of_each(params, 1)[0]


def params_of_each(params: object, num_prompts: int) -> list[SamplingParams]:
    """One for all prompts, or one each; None: SamplingParams(). RequestError for anything else."""
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * num_prompts
    if not isinstance(params, Sequence) or not all(isinstance(p, SamplingParams) for p in params):
        raise RequestError("sampling_params", "must be a SamplingParams, or a list of them")
    if len(params) != num_prompts:
        raise RequestError(
            "sampling_params", f"has {len(params)} entries for {num_prompts} prompts"
        )
    return list(params)


class Status(Enum):
    """WAITING: no row. RUNNING: has a row and blocks. FINISHED: has given both back."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Service:
    """How a request is to be served, beside what it is to say; no token depends on it.

    tenant: whose it is: the policy "fair" shares the machine out among tenants, and the prefix
    cache keeps them apart. priority: lower is sooner, under the policy "priority". timeout_seconds:
    counted from the call; then the request ends with finish_reason "deadline", and one that would
    come too late is not begun (Overloaded). cache_salt: keeps the prefix cache apart within a
    tenant: only requests with the same one share.
    """

    tenant: str = ""
    priority: int = 0
    timeout_seconds: float | None = None
    cache_salt: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.tenant, str) or len(self.tenant) > 256:
            raise RequestError("tenant", "must be a text of at most 256 characters")
        _whole("priority", self.priority, -(2**31), 2**31 - 1)
        if self.timeout_seconds is not None:
            _number("timeout_seconds", self.timeout_seconds, 0.0, 1e9, open_low=True)
        if not isinstance(self.cache_salt, str) or len(self.cache_salt) > 256:
            raise RequestError("cache_salt", "must be a text of at most 256 characters")

    @property
    def cache_key(self) -> bytes:
        """What the names of this request's blocks begin with; no two pairs of tenant and salt have
        the same one, since no text has the byte between them.
        """
        tenant = self.tenant.encode()
        return tenant + b"\xff" + self.cache_salt.encode() if self.cache_salt else tenant


ORDINARY_SERVICE = Service()


@dataclass(slots=True, eq=False)
class Request:
    """One answer in the making: what is asked, and the scheduler's record of it.

    token_ids: prompt and answer so far; array("i") is hashed fastest. salt: keeps the prefix cache
    apart. tenant, priority (lower is sooner): for the policies that look at them. arrival,
    deadline: seconds of the clock that `schedule` is told; at its deadline a request ends. fork_of:
    a request whose tokens begin with the same ones; what that has computed is shared, once it has
    computed its prompt. images: of the prompt, in order. grammar: what the answer keeps to
    (`constrain.compile.Grammar.text`); follower: how far it is.

    The record. number: order of coming. rank: order of service. num_planned: tokens computed once
    all planned steps have run; num_computed: by steps that were booked. num_pending: tokens that
    planned steps will sample. blocks: the row's table of the first group of layers, other_tables:
    of the others; each holds entries from its own of `firsts` on, and NO_BLOCK before. stops:
    boundaries at which a snapshot of its recurrent states is wanted; snapshots: those that planned
    steps take, tokens and slot. num_told: entries that the executor has been told of. names: of its
    full blocks; num_published: of these, in the prefix cache. num_cached: tokens that were there at
    the first admission; cache_miss: why not more. num_preemptions, num_recomputed: times that it
    gave its blocks back, and tokens computed again for it. admitted: when it first had a row.
    num_scored: where the prompt's log-probabilities are wanted, tokens whose logits have served for
    it. suspected_to: a step that would have brought it so far failed, and it has not been there
    since. num_received: tokens whose keys and values another engine computed and sent; whoever
    admits the request takes them as computed, once: what a preemption gives back is computed here.
    num_forced: tokens of its answer that were not sampled, since its grammar left no other.
    trace: where its time goes; None: nobody wants to know.
    """

    id: str
    token_ids: MutableSequence[int]
    num_prompt: int
    max_tokens: int
    sampling: RowSampling
    stop_token_ids: frozenset[int]
    salt: bytes = b""
    tenant: str = ""
    priority: int = 0
    arrival: float = 0.0
    deadline: float | None = None
    fork_of: str | None = None
    grammar: str | None = None
    images: tuple[Image, ...] = ()
    status: Status = Status.WAITING
    number: int = 0
    rank: Rank = (0.0, 0)
    row: int = -1
    num_planned: int = 0
    num_computed: int = 0
    num_pending: int = 0
    num_charged: int = 0
    blocks: list[int] = field(default_factory=list)
    other_tables: list[list[int]] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    snapshots: list[tuple[int, int]] = field(default_factory=list)
    num_told: int = 0
    names: list[bytes] = field(default_factory=list)
    num_published: int = 0
    num_cached: int | None = None
    cache_miss: CacheMiss | None = None
    num_preemptions: int = 0
    num_recomputed: int = 0
    admitted: float | None = None
    num_scored: int = 0
    suspected_to: int = 0
    num_received: int = 0
    num_forced: int = 0
    experts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    follower: Follower | None = None

    def close(self) -> None:
        """Ends the record of its time; nothing if it has none, or has ended."""
        if self.trace is not None:
            self.trace.close(time.monotonic(), self.num_preemptions)

    trace: Trace | None = None

    @property
    def scores_prompt(self) -> bool:
        """Whether logits of the prompt are still wanted, each for the token that follows it."""
        return self.sampling.num_prompt_logprobs >= 0 and self.num_scored < self.num_prompt - 1

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt


class Event(NamedTuple):
    """What a step did to a request: a token, or its end, or both; or it scored a part of the
    prompt. error says why it ended in "error".
    """

    request_id: str
    token_id: int | None = None
    logprob: float = 0.0
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None
    error: RidgelineError | None = None
    scored: Scored | None = None
