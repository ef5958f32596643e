"""Shapes of OpenAI's answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class UsageAnswer(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


class FunctionAnswer(BaseModel):
    name: str
    arguments: str


class CallAnswer(BaseModel):
    id: str
    type: Literal["function"]
    function: FunctionAnswer


class MessageAnswer(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str = ""
    tool_calls: list[CallAnswer] = []


class Finished(BaseModel):
    index: int
    finish_reason: str
    stop_reason: str | int | None = None


class Choice(Finished):
    message: MessageAnswer
    logprobs: dict[str, Any] | None
    token_ids: list[int] = []


class TextChoice(Finished):
    text: str
    logprobs: dict[str, Any] | None
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    prompt_token_ids: list[int] = []
    token_ids: list[int] = []


class Answered(BaseModel):
    """ignored_fields: of a lenient server."""

    id: str
    created: int
    model: str
    usage: UsageAnswer
    ignored_fields: list[str] = []


class Completion(Answered):
    object: Literal["chat.completion"]
    choices: list[Choice]
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    prompt_token_ids: list[int] = []


class TextCompletion(Answered):
    object: Literal["text_completion"]
    choices: list[TextChoice]
