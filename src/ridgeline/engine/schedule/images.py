"""Images in prompts: those whose tokens see all of them are computed in one step each, and what is
in an image is in its blocks' names.
"""

from __future__ import annotations

from ridgeline.engine.request import Request
from ridgeline.errors import RequestError


def up_to_images(request: Request, num_new: int, most: int) -> int:
    """As many of `num_new` tokens as end outside of images that are computed in one step. Where
    that would be none, the image that is next, if it has no more than `most` tokens left.
    """
    begin = request.num_planned
    for image in request.images:
        if image.whole and image.first < begin + num_new < image.end:
            if image.first > begin:
                return image.first - begin
            return image.end - begin if image.end - begin <= most else 0
    return num_new


def in_block(request: Request, first: int, block_tokens: int) -> bytes:
    """Of the images in a block of tokens, what its token ids do not tell."""
    found = [
        b"%d:%d:%s;" % (image.first - first, image.count, image.name)
        for image in request.images
        if image.first < first + block_tokens and image.end > first
    ]
    return b"".join(found)


def check_images(request: Request, max_tokens_per_step: int, max_rows: int) -> None:
    """Raises RequestError where a request's images could never be computed."""
    if not request.images:
        return
    if request.scores_prompt:
        raise RequestError("prompt_logprobs", "are not given of a prompt with images")
    # Each row that answers has its token in a step before prompts have theirs.
    room = max_tokens_per_step - max_rows + 1
    largest = max((image.count for image in request.images if image.whole), default=0)
    if largest > room:
        raise RequestError(
            "images",
            f"one has {largest} tokens, which are computed in one step; a step has {room} for it "
            f"({max_tokens_per_step} tokens, {max_rows} rows)",
        )
