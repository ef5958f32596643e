"""SentencePiece-style BPE from a GGUF vocabulary: pieces are joined by score, and bytes stand in
for what is unknown.

The two neighbours whose joined text is the token of the highest score are joined first, the
leftmost of equals, until none can be. The `tokenizers` package wants each pair of pieces ranked,
which cannot say "leftmost of equals" for tokens of one score (or for one token made of two pairs),
so the merging is written out here. It is quick because pieces that no token could span are merged
apart from each other and remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from heapq import heapify, heappop, heappush

import numpy as np

from ridgeline.model.text.vocabulary import BYTE, Vocabulary

SPACE = "▁"  # U+2581 stands for a space in token text
MAX_REMEMBERED = 1 << 16
MAX_REMEMBERED_CHARS = 48

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def piece_bytes(text: str) -> bytes:
    """The bytes that a normal token's text stands for."""
    return text.replace(SPACE, " ").encode("utf-8", "replace")


def byte_token_bytes(text: str) -> bytes:
    """The byte that a token like `<0x0A>` stands for; any other text stands for itself."""
    match = _BYTE_TOKEN.fullmatch(text)
    return bytes([int(match[1], 16)]) if match else text.encode("utf-8", "replace")


def sentencepiece_encoder(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """A function from plain text (spaces as spaces, no dummy prefix added) to ids."""
    ids = vocabulary.ids
    # Scores are float32 in the file, and ties are decided at that precision.
    costs: list[float] = (-np.asarray(vocabulary.scores, np.float32)).tolist()
    byte_ids = [_byte_id(vocabulary, byte) for byte in range(256)]
    words = _word_start(vocabulary)
    remembered: dict[str, list[int]] = {}

    def encode(text: str) -> list[int]:
        output: list[int] = []
        for word in words.split(text.replace(" ", SPACE)):
            known = remembered.get(word)
            if known is None:
                known = []
                for piece in merge_by_score(word, ids, costs):
                    index = ids.get(piece)
                    if index is not None:
                        known.append(index)
                    else:
                        known.extend(
                            byte_ids[byte]  # type: ignore[misc]
                            for byte in piece.encode()
                            if byte_ids[byte] is not None
                        )
                if len(word) <= MAX_REMEMBERED_CHARS:
                    if len(remembered) >= MAX_REMEMBERED:
                        remembered.clear()
                    remembered[word] = known
            output.extend(known)
        return output

    return encode


def merge_by_score(text: str, ids: dict[str, int], costs: list[float]) -> list[str]:
    """The pieces of `text` when no two neighbours join to a token any more; `costs[id]` is minus
    the score.
    """
    count = len(text)
    ends = list(
        range(1, count + 1)
    )  # ends[i]: where the piece that starts at i stops; 0 once it was absorbed
    before = list(range(-1, count - 1))  # before[i]: where the piece left of the one at i starts
    queue: list[tuple[float, int, int, int]] = []  # cost, left start, right start, right end
    for left in range(count - 1):
        index = ids.get(text[left : left + 2])
        if index is not None:
            queue.append((costs[index], left, left + 1, left + 2))
    heapify(queue)
    while queue:
        _, left, right, end = heappop(queue)
        if ends[left] != right or ends[right] != end:
            continue  # one of the two has changed since
        ends[left], ends[right] = end, 0
        if end < count:
            before[end] = left
            index = ids.get(text[left : ends[end]])
            if index is not None:
                heappush(queue, (costs[index], left, end, ends[end]))
        if left:
            start = before[left]
            index = ids.get(text[start:end])
            if index is not None:
                heappush(queue, (costs[index], start, left, end))
    pieces = []
    start = 0
    while start < count:
        pieces.append(text[start : ends[start]])
        start = ends[start]
    return pieces


def _byte_id(vocabulary: Vocabulary, byte: int) -> int | None:
    """The token for a byte: `<0xXX>`, else the character itself, else the unknown token."""
    index = vocabulary.ids.get(f"<0x{byte:02X}>")
    if index is None and byte < 0x80:
        index = vocabulary.ids.get(chr(byte))
    return vocabulary.unknown_id if index is None else index


def _word_start(vocabulary: Vocabulary) -> re.Pattern[str]:
    """Matches the empty place before each `▁` across which no token reaches."""
    inside = set(re.findall(f"(?s)(.)(?={SPACE})", "\0".join(vocabulary.tokens))) - {"\0"}
    behind = "".join(map(re.escape, sorted(inside)))
    return re.compile(rf"(?<=[^{behind}])(?={SPACE})" if behind else rf"(?<=.)(?={SPACE})", re.S)


def is_byte_token(token_type: int) -> bool:
    return token_type == BYTE
