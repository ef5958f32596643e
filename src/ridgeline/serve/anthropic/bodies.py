"""Bodies of Anthropic's Messages API, as its clients send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ridgeline.serve.core.bodies import Body


class CacheControl(Body):
    """Prompts are cached by their beginnings anyway; the field asks for what is always done."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    scope: str | None = None


class TextBlock(Body):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: list[Any] | None = None


class ImageSource(Body):
    """Of type base64; others are known so that they can be refused: nothing is fetched."""

    type: str = ""
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None


class ImageBlock(Body):
    type: Literal["image"]
    source: ImageSource
    cache_control: CacheControl | None = None


class OtherBlock(Body):
    """Known so that it can be refused by name."""

    type: Literal["document", "search_result", "container_upload", "file"]
    source: Any = None
    title: str | None = None
    context: str | None = None
    content: Any = None
    citations: Any = None
    cache_control: CacheControl | None = None


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: Annotated[str, Field(max_length=256)]
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Any = None
    toolset_name: str | None = None


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(max_length=256)]
    content: str | list[TextBlock | ImageBlock | OtherBlock] = ""
    is_error: bool = False
    cache_control: CacheControl | None = None
    toolset_name: str | None = None


class ThinkingBlock(Body):
    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Body):
    type: Literal["redacted_thinking"]
    data: str


Block = Annotated[
    TextBlock
    | ImageBlock
    | OtherBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock,
    Field(discriminator="type"),
]


class Message(Body):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ToolDefinition(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    input_schema: dict[str, Any] = Field(default_factory=dict)
    type: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    input_examples: list[dict[str, Any]] | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: Literal[False] | None = None
    eager_input_streaming: bool | None = None


class Choice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Body):
    """budget_tokens: how much the model may think; what bounds the answer is max_tokens. display:
    "omitted": thinking is given sealed, as its signature, and not as text.
    """

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1024)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class ThinkingTurns(Body):
    type: Literal["thinking_turns", "all"]
    value: Annotated[int, Field(ge=1)] | None = None


class ClearThinking(Body):
    """keep: the thinking of so many turns of the assistant's, the last; or all."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"] | ThinkingTurns | None = None


class InputTokens(Body):
    type: Literal["input_tokens"]
    value: Annotated[int, Field(ge=1)]


class ToolUses(Body):
    type: Literal["tool_uses"]
    value: Annotated[int, Field(ge=0)]


class ClearToolUses(Body):
    """trigger: the prompt has more tokens, or the history more uses, than that. keep: the last
    uses. clear_tool_inputs: of all tools that are cleared, or of these.
    """

    type: Literal["clear_tool_uses_20250919"]
    trigger: Annotated[InputTokens | ToolUses, Field(discriminator="type")] | None = None
    keep: ToolUses | None = None
    clear_at_least: InputTokens | None = None
    exclude_tools: list[str] | None = None
    clear_tool_inputs: bool | list[str] | None = None


class OtherEdit(Body):
    """Known so that it can be refused by name."""

    model_config = ConfigDict(extra="allow")
    type: Literal["compact_20260112"]


class ContextManagement(Body):
    edits: list[
        Annotated[ClearThinking | ClearToolUses | OtherEdit, Field(discriminator="type")]
    ] = Field(default_factory=list)


class Metadata(Body):
    user_id: str | None = None


class CountBody(Body):
    """POST /v1/messages/count_tokens"""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: Choice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    context_management: ContextManagement | None = None
    cache_control: CacheControl | None = None


class MessagesBody(CountBody):
    """POST /v1/messages; the fields below `stream` are ours."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stream: bool = False
    seed: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    priority: int = 0
    cache_salt: str = ""
