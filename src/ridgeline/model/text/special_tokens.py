"""Cutting special tokens out of text before anything else looks at it.

The order is llama.cpp's (`tokenizer_st_partition`): the longest token first, each from left to
right in what longer ones left. That differs from leftmost-longest only where two tokens'
occurrences overlap, and then it decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_ASCII_SPACE = " \t\n\v\f\r"


MAX_SOUGHT_ONE_BY_ONE = 64


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Special tokens, grouped by their first two characters (by one, for a token of one)."""

    ids: Mapping[str, int]
    groups: Mapping[str, tuple[str, ...]]
    strips_right: frozenset[int]


def index_special_tokens(
    texts: Mapping[str, int], strips_right: frozenset[int] = frozenset()
) -> SpecialTokens:
    """An index of `texts` (token text → id); ids in `strips_right` swallow the space after them."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(text[:2], []).append(text)
    return SpecialTokens(
        ids=texts,
        groups={start: tuple(tokens) for start, tokens in groups.items()},
        strips_right=strips_right,
    )


def split_special(text: str, special: SpecialTokens) -> list[str | int]:
    """`text` as a list of plain pieces (never empty) and special ids."""
    parts: list[str | int] = [text] if text else []
    present = _present(text, special)
    for token in sorted(present, key=lambda token: (-len(token.encode()), special.ids[token])):
        index = special.ids[token]
        cut: list[str | int] = []
        for part in parts:
            if isinstance(part, int) or token not in part:
                cut.append(part)
                continue
            for position, piece in enumerate(part.split(token)):
                if position:
                    cut.append(index)
                    if index in special.strips_right:
                        piece = piece.lstrip(_ASCII_SPACE)
                if piece:
                    cut.append(piece)
        parts = cut
    return parts


def _present(text: str, special: SpecialTokens) -> set[str]:
    """The special tokens that occur anywhere in `text`, overlapping or not."""
    found: set[str] = set()
    for start, tokens in special.groups.items():
        at = text.find(start)
        if at < 0:
            continue
        if len(tokens) <= MAX_SOUGHT_ONE_BY_ONE:
            found.update(token for token in tokens if token in text)
            continue
        sizes = sorted(set(map(len, tokens)))
        while at >= 0:
            for size in sizes:
                token = text[at : at + size]
                if token in special.ids:
                    found.add(token)
            at = text.find(start, at + 1)
    return found
