"""The body of OpenAI's chat completions, as its clients send it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ridgeline.serve.core.bodies import Body


class TextPart(Body):
    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class ImageUrl(Body):
    """detail: how closely to look; here every image is seen alike."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


class OtherPart(Body):
    """Known so that it can be refused by name."""

    type: Literal["input_audio", "file"]
    input_audio: Any = None
    file: Any = None


Part = Annotated[TextPart | ImagePart | OtherPart, Field(discriminator="type")]


class CalledFunction(Body):
    name: str
    arguments: str


class CalledCustom(Body):
    name: str
    input: str


class Call(Body):
    """custom: of a freeform tool, which is called with a text; else function."""

    id: Annotated[str, Field(max_length=256)]
    type: Literal["function", "custom"] = "function"
    function: CalledFunction | None = None
    custom: CalledCustom | None = None
    index: int | None = None


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    audio: None = None
    annotations: list[Any] | None = None
    function_call: None = None


Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class FunctionDefinition(Body):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Body):
    type: Literal["function"]
    function: FunctionDefinition


class Grammar(Body):
    syntax: Literal["lark", "regex"]
    definition: str


class CustomFormat(Body):
    type: Literal["text", "grammar"]
    grammar: Grammar | None = None


class CustomDefinition(Body):
    name: Name
    description: str | None = None
    format: CustomFormat | None = None


class CustomTool(Body):
    """A freeform tool: it is called with a text, not with JSON."""

    type: Literal["custom"]
    custom: CustomDefinition


ToolDefinition = Annotated[FunctionTool | CustomTool, Field(discriminator="type")]


class NamedTool(Body):
    name: str


class NamedFunctionChoice(Body):
    type: Literal["function"]
    function: NamedTool


class NamedCustomChoice(Body):
    type: Literal["custom"]
    custom: NamedTool


NamedChoice = Annotated[NamedFunctionChoice | NamedCustomChoice, Field(discriminator="type")]


class AllowedFunctions(Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedChoice], Field(min_length=1)]


class AllowedChoice(Body):
    """The model is told of all tools, and may call these."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions


class JsonSchema(Body):
    name: str
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputsBody(Body):
    """vLLM's field; one of them."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool = False


class SamplingBody(Body):
    """What the engine samples by: OpenAI's names, and the engine's own where that has more. null is
    as good as left out.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    n: int | None = None
    best_of: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    stop_regex: str | list[str] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    min_tokens: int | None = None
    logit_bias: dict[int, float] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    penalty_last_n: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_n_sigma: float | None = None
    typical_p: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    prompt_logprobs: int | None = None

    def given(self) -> dict[str, Any]:
        """The fields above that were said, as SamplingParams takes them."""
        names = SamplingBody.model_fields
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class ConstrainedBody(SamplingBody):
    """What completions of both kinds have: how the answer is constrained, and how it is served.
    return_token_ids: the prompt's ids come, too, and each answer's. use_beam_search: the n answers
    are the likeliest of a search that keeps best_of (n, if that is not said) at each token.
    """

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputsBody | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    cache_salt: Annotated[str, Field(max_length=256)] = ""
    timeout_seconds: Annotated[float, Field(gt=0, le=1e9)] | None = None
    return_token_ids: bool | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None


class Prediction(Body):
    type: Literal["content"]
    content: str | list[TextPart]


class ChatBody(ConstrainedBody):
    """POST /v1/chat/completions. continue_final_message: the last message is the beginning of the
    answer, and what comes is the rest. prediction: a hint of what the answer will be like, which no
    token depends on.
    """

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=256)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: (
        Literal["auto", "none", "required"]
        | Annotated[
            NamedFunctionChoice | NamedCustomChoice | AllowedChoice, Field(discriminator="type")
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    include_reasoning: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    modalities: list[Literal["text"]] | None = None
    prediction: Prediction | None = None
    request_id: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
