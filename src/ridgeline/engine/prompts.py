"""What callers give as a prompt, as token ids: text, ids, or a conversation through the template.

It knows the tokenizer and the chat template, and nothing of requests or engines. Safe to call from
several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any

from ridgeline.engine.prompt_images import looked_at, placed, taken_out, written_out
from ridgeline.errors import RequestError
from ridgeline.model.images import ImageModel
from ridgeline.model.text.fill import FillMarks, fill_marks
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.step import Image

if TYPE_CHECKING:
    from ridgeline.model.text.chat import ChatTemplate

Prompt = str | Sequence[int] | Mapping[str, Any]
Message = Mapping[str, Any]


def listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt as a list of it; several as they are. RequestError for what is neither."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    items = _items(prompts)
    if items is None:
        raise RequestError("prompts", "must be a text, a list of token ids, or a list of these")
    if items and all(_is_whole(item) for item in items):
        return [items]
    return items


def _items(value: object) -> list[Any] | None:
    """Of a sequence or an array (NumPy's, torch's); None of anything else, bytes among it."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return None
    if isinstance(value, Sequence):
        return list(value)
    found = value.tolist() if hasattr(value, "tolist") else None
    return found if isinstance(found, list) else None


def _is_whole(value: object) -> bool:
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A prompt's token ids, and its text unless ids were given (after the template, if any)."""

    text: str | None
    token_ids: list[int]
    images: tuple[Image, ...] = ()


class Prompts:
    """vocab_size: ids below it can be computed, though the tokenizer may have fewer. load_template
    raises ModelError if the model has none; it is called when first needed. images: of a model that
    sees them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        load_template: Callable[[], ChatTemplate],
        images: ImageModel | None = None,
    ) -> None:
        self._images = images
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
        with one of the two; with "multi_modal_data": {"image": one or a list} for each token in the
        text that an image begins with, or each run of ids that stand for one; or a text with
        "suffix": the answer is what lies between.
        """
        if isinstance(prompt, str):
            return Tokenized(prompt, self.tokenizer.encode(prompt))
        ids: object = prompt
        if isinstance(prompt, Mapping) and "multi_modal_data" in prompt:
            return self._with_images(prompt)
        if isinstance(prompt, Mapping):
            if set(prompt) == {"prompt", "suffix"}:
                return self._filled(prompt["prompt"], prompt["suffix"])
            if set(prompt) == {"prompt"} and isinstance(prompt["prompt"], str):
                return self.tokenize(prompt["prompt"])
            if set(prompt) != {"prompt_token_ids"}:
                known = '"prompt", "prompt" and "suffix", or "prompt_token_ids"'
                raise RequestError("prompt", f"a mapping holds {known} only")
            ids = prompt["prompt_token_ids"]
        found = _items(ids)
        if found is None:
            kind = type(ids).__name__
            raise RequestError("prompt", f"must be a text or a list of token ids, not {kind}")
        if not all(_is_whole(i) and 0 <= i < self._vocab_size for i in found):
            raise RequestError(
                "prompt_token_ids", f"must be whole numbers below {self._vocab_size}"
            )
        return Tokenized(None, [int(i) for i in found])

    def _filled(self, prefix: object, suffix: object) -> Tokenized:
        if not isinstance(prefix, str) or not isinstance(suffix, str):
            raise RequestError("suffix", "and the prompt before it must be texts")
        marks = self.fill_marks
        if marks is None:
            raise RequestError(
                "suffix", "this model's vocabulary has no marks for a gap; it only continues text"
            )
        return Tokenized(None, marks.around(self.tokenizer, prefix, suffix))

    @cached_property
    def fill_marks(self) -> FillMarks | None:
        """By which gaps are filled; None: the model was not taught to."""
        return fill_marks(self.tokenizer)

    def _with_images(self, prompt: Mapping[str, Any]) -> Tokenized:
        data = prompt["multi_modal_data"]
        if not isinstance(data, Mapping) or set(data) != {"image"}:
            raise RequestError("multi_modal_data", 'holds "image" only: one, or a list of them')
        many = data["image"] if isinstance(data["image"], list | tuple) else [data["image"]]
        sources = [(f"multi_modal_data.image[{i}]", image) for i, image in enumerate(many)]
        images = self._seeing("multi_modal_data")
        seen = looked_at(sources, images)
        rest = {key: value for key, value in prompt.items() if key != "multi_modal_data"}
        if isinstance(rest.get("prompt"), str):
            rest["prompt"] = written_out(rest["prompt"], seen, images, self.tokenizer)
        plain = self.tokenize(rest)
        return replace(plain, images=placed(plain.token_ids, seen, images))

    @property
    def sees(self) -> bool:
        """Whether prompts may have images."""
        return self._images is not None

    def _seeing(self, where: str) -> ImageModel:
        if self._images is None:
            raise RequestError(where, "this model reads text, not images")
        return self._images

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
        if not isinstance(messages, Sequence):
            raise RequestError("messages", "must be a list")
        if isinstance(tools, str | bytes) or not all(isinstance(t, Mapping) for t in tools or ()):
            raise RequestError("tools", "must be a list of objects")
        taken = {"messages", "tools", "add_generation_prompt"} & set(variables or {})
        if taken:
            raise RequestError("chat_template_kwargs", f"{min(taken)!r} has its own argument")
        messages, sources = taken_out(messages)
        images = self._seeing(sources[0][0]) if sources else None
        text = self.template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            **dict(variables or {}),
        )
        seen: list[Image] = []
        if images is not None:
            seen = looked_at(sources, images)
            text = written_out(text, seen, images, self.tokenizer)
        # The template writes the special tokens itself.
        token_ids = self.tokenizer.encode(text, add_special=False)
        return Tokenized(text, token_ids, () if images is None else placed(token_ids, seen, images))
