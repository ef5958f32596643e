"""Bodies of Ollama's API, as its clients send them, and its options as sampling parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from ridgeline.errors import RequestError
from ridgeline.serve.core.bodies import Body


class Options(Body):
    """What the engine has, and what can be refused by name."""

    seed: int | None = None
    num_predict: int | None = None
    num_ctx: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    tfs_z: float | None = None
    penalize_newline: bool | None = None
    stop: list[str] | str | None = None
    num_keep: int | None = None
    numa: bool | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    vocab_only: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    embedding_only: bool | None = None
    num_thread: int | None = None


class Function(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    arguments: dict[str, Any] = Field(default_factory=dict)
    index: int | None = None
    description: str | None = None


class Call(Body):
    function: Function
    id: str | None = None
    type: Literal["function"] | None = None


class Message(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Call] | None = None


class ToolFunction(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"] = "function"
    function: ToolFunction


class _Asking(Body):
    model: str
    stream: bool = True
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class GenerateBody(_Asking):
    """POST /api/generate"""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool = False
    images: list[Any] | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None


class ChatBody(_Asking):
    """POST /api/chat"""

    messages: list[Message] = Field(default_factory=list)
    tools: list[Tool] | None = None


class PullBody(Body):
    """POST /api/pull"""

    model: str | None = None
    name: str | None = None
    insecure: bool | None = None
    stream: bool = True


class ShowBody(Body):
    """POST /api/show"""

    model: str | None = None
    name: str | None = None
    verbose: bool = False


# Penalties look at so many of the last tokens, where nothing is said.
LAST_TOKENS = 64

_REFUSED = {
    "num_batch": "how much is computed at once is the scheduler's to decide",
    "num_gpu": "where the model runs was decided when it was loaded",
    "main_gpu": "where the model runs was decided when it was loaded",
    "low_vram": "where the model runs was decided when it was loaded",
    "numa": "is set when the server starts",
    "f16_kv": "the cache's format is set when the server starts (--kv-format)",
    "logits_all": "ask for logprobs instead",
    "vocab_only": "the model is loaded whole",
    "use_mmap": "how the model is loaded was decided when the server started",
    "use_mlock": "how the model is loaded was decided when the server started",
    "embedding_only": "is set when the server starts",
    "num_thread": "threads are set when the server starts (--threads)",
}


# What of each is true of this server: by the option's name, values of which each says so.
Facts = Mapping[str, Collection[Any]]


def check_loading(body: _Asking, facts: Facts, *, lenient: bool) -> list[str]:
    """Options that say how a model is to be loaded or computed: raises RequestError for what is not
    so; lenient: their names.
    """
    options = body.options or Options()
    untrue = []
    for name, why in _REFUSED.items():
        value = getattr(options, name)
        if value is None or value in facts.get(name, ()):
            continue
        if not lenient:
            raise RequestError(f"options.{name}", why)
        untrue.append(f"options.{name}")
    return untrue


def sampling_of(body: _Asking, max_context: int) -> dict[str, Any]:
    """Arguments of SamplingParams. Unsaid, they are Ollama's: temperature 0.8, top_k 40, top_p 0.9,
    penalties on the last 64 tokens; but none is applied that is not asked for.
    """
    options = body.options or Options()
    for name, off in (("tfs_z", 1.0), ("penalize_newline", True)):
        if getattr(options, name) not in (None, off):
            raise RequestError(f"options.{name}", "is not here; leave it out")
    if options.num_keep:
        raise RequestError("options.num_keep", "a context is never shifted; leave it out")
    if options.num_ctx is not None and options.num_ctx > max_context:
        raise RequestError("options.num_ctx", f"is above the model's context, {max_context}")
    found: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
    names = {
        "seed": "seed",
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "typical_p": "typical_p",
        "repeat_penalty": "repetition_penalty",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "mirostat": "mirostat",
        "mirostat_tau": "mirostat_tau",
        "mirostat_eta": "mirostat_eta",
        "stop": "stop",
    }
    for theirs, ours in names.items():
        if (value := getattr(options, theirs)) is not None:
            found[ours] = value
    if found.get("mirostat"):
        # It cuts by itself: Ollama's own cuts step back.
        for name in ("top_k", "top_p"):
            if getattr(options, name) is None:
                del found[name]
    last = LAST_TOKENS if options.repeat_last_n is None else options.repeat_last_n
    if last < -1:
        raise RequestError("options.repeat_last_n", "is a number of tokens, or -1 (all)")
    found["penalty_last_n"] = last
    if options.num_predict is not None and options.num_predict >= 0:
        found["max_tokens"] = options.num_predict
    if body.logprobs or body.top_logprobs is not None:
        if not body.logprobs:
            raise RequestError("top_logprobs", "needs logprobs to be true")
        found["logprobs"] = body.top_logprobs or 0
    return found


class Kept(Protocol):
    keep_alive: float | str | None


# As Go writes durations; a number alone is seconds.
_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|[+-]?\d+(?:\.\d*)?")


def check_keep_alive(body: Kept, *, lenient: bool) -> list[str]:
    """The model stays loaded as long as the server runs: every wish is met but that it be unloaded,
    for which RequestError is raised; lenient: the field's name is given, if that was the wish.
    """
    wish = body.keep_alive
    if isinstance(wish, str):
        if not _DURATION.fullmatch(wish):
            raise RequestError("keep_alive", f'{wish[:50]!r} is no duration, such as "10m" or 600')
        unloads = not re.search("[1-9]", wish)
    else:
        unloads = wish == 0
    if unloads and not lenient:
        raise RequestError("keep_alive", "the model stays loaded as long as the server runs")
    return ["keep_alive"] if unloads else []


def messages_of(body: ChatBody) -> list[dict[str, Any]]:
    """As chat templates know them; a tool's result is of the last call of that name."""
    found: list[dict[str, Any]] = []
    ids: dict[str, list[str]] = {}
    for place, message in enumerate(body.messages):
        where = f"messages[{place}]"
        content = with_images(message.content or "", message.images, f"{where}.images")
        entry: dict[str, Any] = {"role": message.role, "content": content}
        if message.thinking:
            entry["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = []
            for number, call in enumerate(message.tool_calls):
                call_id = call.id or f"call{place:03d}{number:02d}"
                ids.setdefault(call.function.name, []).append(call_id)
                function = {"name": call.function.name, "arguments": call.function.arguments}
                calls.append({"id": call_id, "type": "function", "function": function})
            entry["tool_calls"] = calls
        if message.role == "tool":
            name = message.tool_name
            known = ids.get(name or "", [])
            result_of = message.tool_call_id or (known.pop(0) if known else None)
            if name is not None:
                entry["name"] = name
            if result_of is not None:
                entry["tool_call_id"] = result_of
        found.append(entry)
    return found


def with_images(text: str, images: list[Any] | None, where: str) -> str | list[dict[str, Any]]:
    """The text; with images, files in base64, these come before it."""
    if not images:
        return text
    parts: list[dict[str, Any]] = []
    for place, image in enumerate(images):
        if not isinstance(image, str):
            raise RequestError(f"{where}[{place}]", "must be a file in base64")
        parts.append({"type": "image_url", "image_url": f"data:;base64,{image}"})
    return [*parts, {"type": "text", "text": text}]
