"""Bodies of llama.cpp's server, as its clients send them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ridgeline.serve.core.bodies import Body

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Milliseconds = Annotated[float, Field(ge=-1, le=1e12)]


class PromptObject(Body):
    """A prompt as an object: its text, and what is seen or heard in it."""

    prompt_string: str
    multimodal_data: list[Any] | None = None


Mixed = list[TokenId | str]


class SamplingBody(Body):
    """What is asked of an answer, whatever its prompt is. null is as good as left out."""

    model: str | None = None
    n_predict: Annotated[int, Field(ge=-2, le=2**31 - 1)] | None = None
    n_cmpl: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stop: list[str] | None = None
    temperature: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_n_sigma: float | None = None
    typical_p: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    samplers: Annotated[list[str], Field(max_length=64)] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    logit_bias: list[tuple[TokenId | str, bool | float]] | dict[str, bool | float] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    n_probs: Annotated[int, Field(ge=0, le=256)] | None = None
    return_tokens: bool | None = None
    response_fields: Annotated[list[str], Field(max_length=256)] | None = None
    cache_prompt: bool | None = None
    id_slot: int | None = None
    n_keep: int | None = None
    n_cache_reuse: int | None = None
    n_indent: int | None = None
    n_discard: int | None = None
    min_keep: int | None = None
    t_max_prompt_ms: Milliseconds | None = None
    t_max_predict_ms: Milliseconds | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None
    post_sampling_probs: bool | None = None
    sse_ping_interval: int | None = None
    lora: list[Any] | None = None


class CompletionBody(SamplingBody):
    """POST /completion. prompt: a text, token ids, both mixed, or a list of these, which are
    answered side by side.
    """

    prompt: str | PromptObject | list[TokenId | str | PromptObject | Mixed]


class Extra(Body):
    """A file, or a piece of one, that is told before the gap. time: when the editor took it."""

    text: str
    filename: str = ""
    time: Any = None


class InfillBody(SamplingBody):
    """POST /infill. prompt: how the text in the gap begins."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[Extra] = Field(default_factory=list)
    prompt: str = ""


class ContentBody(Body):
    """POST /tokenize, in llama.cpp's way: it is a body with `content`."""

    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
