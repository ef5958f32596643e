"""What callers give as a prompt, as token ids: text, ids, or a conversation through the template.

It knows the tokenizer and the chat template, and nothing of requests or engines. Safe to call from
several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ridgeline.errors import RequestError
from ridgeline.model.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ridgeline.model.text.chat import ChatTemplate

Prompt = str | Sequence[int] | Mapping[str, Any]
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A prompt's token ids, and its text unless ids were given (after the template, if any)."""

    text: str | None
    token_ids: list[int]


class Prompts:
    """vocab_size: ids below it can be computed, though the tokenizer may have fewer. load_template
    raises ModelError if the model has none; it is called when first needed.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, load_template: Callable[[], ChatTemplate]
    ) -> None:
        self.tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._load_template = load_template
        self._template: ChatTemplate | None = None

    @property
    def template(self) -> ChatTemplate:
        if self._template is None:
            self._template = self._load_template()
        return self._template

    def tokenize(self, prompt: Prompt) -> Tokenized:
        """Raises RequestError for anything but text, ids below the vocabulary's size, or a mapping
        with one of the two.
        """
        if isinstance(prompt, str):
            return Tokenized(prompt, self.tokenizer.encode(prompt))
        ids: object = prompt
        if isinstance(prompt, Mapping):
            if set(prompt) == {"prompt"} and isinstance(prompt["prompt"], str):
                return self.tokenize(prompt["prompt"])
            if set(prompt) != {"prompt_token_ids"}:
                raise RequestError("prompt", 'a mapping holds "prompt" or "prompt_token_ids" only')
            ids = prompt["prompt_token_ids"]
        if not isinstance(ids, Sequence) or not all(
            isinstance(i, int) and 0 <= i < self._vocab_size for i in ids
        ):
            raise RequestError(
                "prompt_token_ids", f"must be whole numbers below {self._vocab_size}"
            )
        return Tokenized(None, list(ids))

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> Tokenized:
        """A conversation through the model's own template. Raises RequestError for messages that
        the template refuses, ModelError where the model has no template.
        """
        if not messages:
            raise RequestError("messages", "are empty; at least one is needed")
        text = self.template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            **dict(variables or {}),
        )
        # The template writes the special tokens itself.
        return Tokenized(text, self.tokenizer.encode(text, add_special=False))
