"""Cutting special tokens out of text before anything else looks at it.

The order is llama.cpp's (`tokenizer_st_partition`): the longest token first, each from left to
right in what longer ones left. That differs from leftmost-longest only where two tokens'
occurrences overlap, and then it decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_ASCII_SPACE = " \t\n\v\f\r"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Special tokens by their first two characters (one, for a token of one), with the lengths to
    try there.
    """

    ids: Mapping[str, int]
    lengths: Mapping[str, tuple[int, ...]]
    strips_right: frozenset[int]


def index_special_tokens(
    texts: Mapping[str, int], strips_right: frozenset[int] = frozenset()
) -> SpecialTokens:
    """An index of `texts` (token text → id). Ids in `strips_right` swallow the white space after
    them.
    """
    lengths: dict[str, set[int]] = {}
    for text in texts:
        lengths.setdefault(text[:2], set()).add(len(text))
    return SpecialTokens(
        ids=texts,
        lengths={start: tuple(sorted(sizes)) for start, sizes in lengths.items()},
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
    for start, sizes in special.lengths.items():
        at = text.find(start)
        while at >= 0:
            for size in sizes:
                token = text[at : at + size]
                if token in special.ids:
                    found.add(token)
            at = text.find(start, at + 1)
    return found
