"""Images in prompts: taken out of messages, and put where the prompt's tokens stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ridgeline.errors import RequestError
from ridgeline.model.image_files import pixels_of
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


def looked_at(sources: Sequence[tuple[str, object]], images: ImageModel) -> list[Image]:
    """Each image as the model has it, its place in the prompt not yet known."""
    return [
        images.image(0, pixels_of(source, images.size_for, where, bicubic=images.bicubic))
        for where, source in sources
    ]


def written_out(text: str, seen: Sequence[Image], images: ImageModel, tokenizer: Tokenizer) -> str:
    """`text` with all that the model has where a template, or a caller, writes only the token that
    an image begins with, or that stands for it.
    """
    each = tokenizer.token_text(images.token)
    if images.begin is None or images.end is None:
        marker, around = each, ("", "")
    else:
        marker = tokenizer.token_text(images.begin)
        around = f"\n\n{marker}", f"{tokenizer.token_text(images.end)}\n\n"
    first, *rest = text.split(marker)
    counts = [image.count for image in seen] + [1] * len(rest)
    return first + "".join(
        f"{around[0]}{each * count}{around[1]}{part}"
        for count, part in zip(counts, rest, strict=False)
    )


def placed(
    token_ids: Sequence[int], seen: Sequence[Image], images: ImageModel
) -> tuple[Image, ...]:
    """Each image where the prompt has a run of its tokens, in order. RequestError where runs and
    images do not come out even.
    """
    found: list[Image] = []
    at = 0
    places = [i for i, token in enumerate(token_ids) if token == images.token]
    needed = sum(image.count for image in seen)
    if len(places) != needed:
        raise RequestError(
            "images",
            f"the prompt has {len(places)} tokens that stand for images; {len(seen)} images have "
            f"{needed} in all",
        )
    for image in seen:
        first = places[at]
        if places[at : at + image.count] != list(range(first, first + image.count)):
            raise RequestError("images", f"the tokens of an image, at {first}, do not lie together")
        found.append(replace(image, first=first))
        at += image.count
    return tuple(found)
