"""Bodies of OpenAI's Responses API, as its clients send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ridgeline.serve.core.bodies import Body


class TextPart(Body):
    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class ImagePart(Body):
    """detail: how closely to look; here every image is seen alike."""

    type: Literal["input_image"]
    detail: Literal["auto", "low", "high", "original"] | None = None
    image_url: str | None = None
    file_id: str | None = None


class OtherPart(Body):
    """Known so that it can be refused by name."""

    type: Literal["input_file", "input_audio"]
    detail: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None
    input_audio: Any = None


Part = Annotated[TextPart | ImagePart | OtherPart, Field(discriminator="type")]


class MessageItem(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class _Call(Body):
    call_id: Annotated[str, Field(max_length=256)]
    name: str
    id: str | None = None
    status: str | None = None
    caller: Any = None
    namespace: str | None = None


class CallItem(_Call):
    type: Literal["function_call"]
    arguments: str


class CustomCallItem(_Call):
    """A call of a freeform tool: input is a text of any kind."""

    type: Literal["custom_tool_call"]
    input: str


class _CallOutput(Body):
    call_id: Annotated[str, Field(max_length=256)]
    output: str | list[Part]
    id: str | None = None
    status: str | None = None
    name: str | None = None
    caller: Any = None


class CallOutputItem(_CallOutput):
    type: Literal["function_call_output"]


class CustomCallOutputItem(_CallOutput):
    type: Literal["custom_tool_call_output"]


class LocalShellAction(Body):
    """What Codex runs: a program and its arguments, without a shell unless that is the program."""

    type: Literal["exec"] = "exec"
    command: list[str]
    env: dict[str, str] | None = None
    timeout_ms: int | None = None
    user: str | None = None
    working_directory: str | None = None


class LocalShellCallItem(Body):
    type: Literal["local_shell_call"]
    call_id: Annotated[str, Field(max_length=256)]
    action: LocalShellAction
    id: str | None = None
    status: str | None = None


class LocalShellOutputItem(Body):
    """id: of the call, which some clients name as call_id as well or instead."""

    type: Literal["local_shell_call_output"]
    output: str
    id: Annotated[str, Field(max_length=256)] | None = None
    call_id: Annotated[str, Field(max_length=256)] | None = None
    status: str | None = None


class ReasoningPart(Body):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Body):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ReasoningPart] = Field(default_factory=list)
    content: list[ReasoningPart] | None = None
    encrypted_content: str | None = None
    status: str | None = None


class CompactionItem(Body):
    """What a conversation before it came to: see `compaction`."""

    type: Literal["compaction", "compaction_summary"]
    encrypted_content: str
    id: str | None = None
    status: str | None = None
    created_by: str | None = None


class TriggerItem(Body):
    """Behind all others: the answer is to be a compaction of them."""

    type: Literal["compaction_trigger"]


class ReferenceItem(Body):
    type: Literal["item_reference"]
    id: str


Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class FunctionTool(Body):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | None = None


class CustomFormat(Body):
    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomTool(Body):
    """A freeform tool: it is called with a text, not with JSON."""

    type: Literal["custom"]
    name: Name
    description: str | None = None
    format: CustomFormat | None = None
    defer_loading: Literal[False] | None = None


class NamespaceTool(Body):
    type: Literal["namespace"]
    name: Name
    description: str | None = None
    tools: list[Annotated[FunctionTool | CustomTool, Field(discriminator="type")]]


class LocalShellTool(Body):
    """Commands that the client runs; the model knows a function for it."""

    type: Literal["local_shell"]


class HostedTool(Body):
    """Known so that it can be refused by name, or left out by a lenient server."""

    model_config = ConfigDict(extra="allow")
    type: Literal[
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "file_search",
        "code_interpreter",
        "computer_use_preview",
        "image_generation",
        "mcp",
        "tool_search",
        "shell",
        "apply_patch",
    ]


ToolDefinition = Annotated[
    FunctionTool | CustomTool | NamespaceTool | LocalShellTool | HostedTool,
    Field(discriminator="type"),
]


class NamedChoice(Body):
    type: Literal["function", "custom"]
    name: str


class AllowedTool(Body):
    type: Literal["function", "custom"]
    name: str


class AllowedChoice(Body):
    """The model is told of all tools, and may call these."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Field(min_length=1)]


Choice = (
    Literal["auto", "none", "required"]
    | Annotated[NamedChoice | AllowedChoice, Field(discriminator="type")]
    | None
)


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(Body):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Body):
    include_obfuscation: bool | None = None


class ConversationParam(Body):
    id: str


class ResponsesBody(Body):
    """POST /v1/responses; the fields below `stream_options` are ours.

    input: a text, or items: they are checked one by one by their types (`items.read_items`).
    client_metadata, prompt_cache_key, prompt_cache_retention and service_tier are hints to OpenAI's
    machines that no token depends on; a response says the tier that it had.
    """

    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    background: bool | None = None
    conversation: str | ConversationParam | None = None
    include: list[str] | None = None
    client_metadata: dict[str, Any] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    reasoning: ReasoningConfig | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    store: bool | None = None
    temperature: float | None = None
    text: TextConfig | None = None
    tool_choice: Choice = None
    tools: list[ToolDefinition] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    top_p: float | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    priority: int = 0
    cache_salt: str = ""


class CountBody(Body):
    """POST /v1/responses/input_tokens: what a response would be asked with."""

    model: str | None = None
    input: str | list[dict[str, Any]] = ""
    conversation: str | ConversationParam | None = None
    instructions: str | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    reasoning: ReasoningConfig | None = None
    text: TextConfig | None = None
    tool_choice: Choice = None
    tools: list[ToolDefinition] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompactBody(Body):
    """POST /v1/responses/compact. What tools there are, and how answers are to be, is taken, as
    Codex sends it, and has no part in a summary.
    """

    model: str | None = None
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    reasoning: ReasoningConfig | None = None
    service_tier: Literal["auto", "default", "fast", "flex", "priority"] | None = None
    text: TextConfig | None = None
    tools: list[ToolDefinition] | None = None
