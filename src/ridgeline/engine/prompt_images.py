"""Images in prompts: taken out of messages, and put where the prompt's tokens stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ridgeline.errors import RequestError
from ridgeline.model.image_files import square
from ridgeline.model.images import ImageModel
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.step import Image

Message = Mapping[str, Any]
KINDS = ("image", "image_url")


def taken_out(messages: Sequence[Message]) -> tuple[list[Message], list[tuple[str, object]]]:
    """The messages with a bare {"type": "image"} for each image, as templates know them, and the
    images in their order, each with the place that it was found in.
    """
    plain: list[Message] = []
    found: list[tuple[str, object]] = []
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, list | tuple):
            plain.append(message)
            continue
        parts: list[object] = []
        for k, part in enumerate(content):
            if not isinstance(part, Mapping) or part.get("type") not in KINDS:
                parts.append(part)
                continue
            where = f"messages[{i}].content[{k}]"
            found.append((where, _source(part, where)))
            parts.append({"type": "image"})
        plain.append({**message, "content": parts})
    return plain, found


def _source(part: Message, where: str) -> object:
    kind = part["type"]
    source = part.get(kind)
    if kind == "image_url" and isinstance(source, Mapping):
        source = source.get("url")
    if source is None:
        raise RequestError(f"{where}.{kind}", "is missing")
    if kind == "image_url" and not (isinstance(source, str) and source.startswith("data:")):
        raise RequestError(
            f"{where}.image_url", "must be a data: URL with the image in base64; none is fetched"
        )
    return source


def written_out(text: str, images: ImageModel, tokenizer: Tokenizer) -> str:
    """`text` with all that the model has where a template, or a caller, writes only the token that
    an image begins with.
    """
    begin, end, each = (
        tokenizer.token_text(index) for index in (images.begin, images.end, images.token)
    )
    return text.replace(begin, f"\n\n{begin}{each * images.num_tokens}{end}\n\n")


def placed(
    token_ids: Sequence[int], sources: Sequence[tuple[str, object]], images: ImageModel
) -> tuple[Image, ...]:
    """Each image where the prompt has a run of its tokens, in order. RequestError where runs and
    images do not come out even.
    """
    found: list[Image] = []
    at, count = 0, images.num_tokens
    places = [i for i, token in enumerate(token_ids) if token == images.token]
    if len(places) != count * len(sources):
        raise RequestError(
            "images",
            f"the prompt has {len(places)} tokens that stand for images; {len(sources)} images "
            f"have {count} each",
        )
    for where, source in sources:
        first = places[at]
        if places[at : at + count] != list(range(first, first + count)):
            raise RequestError("images", f"the tokens of an image, at {first}, do not lie together")
        pixels = square(source, images.size, where, bicubic=images.bicubic)
        found.append(images.image(first, pixels))
        at += count
    return tuple(found)
