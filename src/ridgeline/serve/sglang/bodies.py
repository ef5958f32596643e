"""The body of SGLang's /generate, as its clients send it, and what it asks of the engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ridgeline.engine.constrain.gbnf import lark_of_gbnf
from ridgeline.engine.request import SamplingParams
from ridgeline.errors import RequestError
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.core.phrasing import constrained

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
# A body that has one of these is SGLang's, and no other that comes to /generate.
MARKS = frozenset({"text", "input_ids", "sampling_params"})


class Sampling(Body):
    """max_new_tokens: 128 if not said; 0: the prompt is read, and nothing answered."""

    max_new_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = 128
    min_new_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    stop_regex: str | list[str] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    logit_bias: dict[int, float] | None = None
    sampling_seed: int | None = None
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    ebnf: str | None = None


class GenerateBody(Body):
    """One prompt or a list, as texts or as ids. What is said as a list is said of each prompt."""

    model: str | None = None
    text: str | list[str] | None = None
    input_ids: list[TokenId] | list[list[TokenId]] | None = None
    sampling_params: Sampling | list[Sampling] | None = None
    rid: str | list[str] | None = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: int | list[int] | None = None
    top_logprobs_num: int | list[int] | None = None
    return_text_in_logprobs: bool = False
    stream: bool = False
    log_metrics: bool | None = None
    return_hidden_states: Literal[False] | None = None
    image_data: None = None
    lora_path: None = None


_NAMES = {
    "min_new_tokens": "min_tokens",
    "no_stop_trim": "include_stop_str_in_output",
    "sampling_seed": "seed",
    **{
        name: name
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
            "stop",
            "stop_token_ids",
            "stop_regex",
            "n",
            "ignore_eos",
            "skip_special_tokens",
            "logit_bias",
        )
    },
}


def sampling_of(
    body: Sampling, logprobs: int | None, prompt_logprobs: int | None
) -> SamplingParams:
    found: dict[str, Any] = {
        ours: value
        for theirs, ours in _NAMES.items()
        if (value := getattr(body, theirs)) is not None
    }
    if body.spaces_between_special_tokens and body.skip_special_tokens is False:
        raise RequestError(
            "sampling_params.spaces_between_special_tokens", "special tokens are told as they are"
        )
    if body.max_new_tokens is not None:
        found["max_tokens"] = max(1, body.max_new_tokens)  # of 0 the one is not told
    params = SamplingParams(logprobs=logprobs, prompt_logprobs=prompt_logprobs, **found)
    forms = {"json_schema": body.json_schema, "regex": body.regex, "ebnf": body.ebnf}
    wanted = [name for name, value in forms.items() if value is not None]
    if len(wanted) > 1:
        raise RequestError(f"sampling_params.{wanted[1]}", f"and {wanted[0]}: give one")
    if not wanted:
        return params
    field = f"sampling_params.{wanted[0]}"
    if body.ebnf is not None:
        return constrained(params, field, grammar=lark_of_gbnf(body.ebnf, field))
    if body.regex is not None:
        return constrained(params, field, regex=body.regex)
    return constrained(params, field, json=body.json_schema)
