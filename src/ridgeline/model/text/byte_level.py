"""Byte-level BPE built from a GGUF vocabulary, on the `tokenizers` package's merging.

Bytes are written as printable characters (GPT-2's table), words are cut by `pre_tokenizers`, and
merges are applied by rank. No Unicode normalization: GGUF carries none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ridgeline.errors import ModelError
from ridgeline.model.text.pre_tokenizers import IGNORES_MERGES, expressions_of
from ridgeline.model.text.vocabulary import Vocabulary


def byte_characters() -> list[str]:
    """The character that stands for each byte: itself where it is printable Latin-1, else from
    U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in set(printable))
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(0x100 + place) for place, byte in enumerate(others)})
    return [table[byte] for byte in range(256)]


BYTE_OF_CHARACTER: Mapping[str, int] = {char: byte for byte, char in enumerate(byte_characters())}


def byte_level_bytes(text: str) -> bytes:
    """The bytes that token text `text` stands for; text that is not byte-mapped stands for itself
    in UTF-8.
    """
    try:
        return bytes(map(BYTE_OF_CHARACTER.__getitem__, text))
    except KeyError:
        return text.encode("utf-8", "replace")


def byte_level_encoder(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """A function from plain text to ids. Raises `ModelError` for an unknown pre-tokenizer or merges
    that cannot be.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    expressions = expressions_of(vocabulary.pre)
    pairs = merge_pairs(vocabulary.merges)
    ignore_merges = vocabulary.pre in IGNORES_MERGES
    pieces, replaced = _completed(vocabulary.ids, BYTE_OF_CHARACTER)
    try:
        model = models.BPE(vocab=pieces, merges=pairs, ignore_merges=ignore_merges)
    except Exception:  # the package's word for a merge of or to a piece that is no token; rare
        needed = {
            *BYTE_OF_CHARACTER,
            *(piece for pair in pairs for piece in (*pair, "".join(pair))),
        }
        pieces, replaced = _completed(vocabulary.ids, needed)
        model = models.BPE(vocab=pieces, merges=pairs, ignore_merges=ignore_merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(text), "isolated") for text in expressions),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        if replaced and not replaced.keys().isdisjoint(ids):
            return [actual for index in ids for actual in replaced.get(index, (index,))]
        return ids

    return encode


def merge_pairs(merges: Sequence[str]) -> list[tuple[str, str]]:
    """Merges as pairs, the first of equal ones kept; parted by the first space after the start."""
    if len(set(merges)) != len(merges):
        merges = list(dict.fromkeys(merges))
    # One split of all is several times quicker than one a merge, and start-up waits for it.
    parts = " ".join(merges).split(" ") if merges else []
    if len(parts) != 2 * len(merges) or "" in parts:
        return [_pair(merge, place) for place, merge in enumerate(merges)]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _pair(merge: str, place: int) -> tuple[str, str]:
    space = merge.find(" ", 1)
    if space < 0 or space == len(merge) - 1:
        raise ModelError(
            f"tokenizer.ggml.merges[{place}]: {merge[:80]!r} is not two pieces with a space between"
        )
    return merge[:space], merge[space + 1 :]


def _completed(
    known: dict[str, int], needed: Iterable[str]
) -> tuple[dict[str, int], dict[int, tuple[int, ...]]]:
    """The vocabulary with every piece that is `needed` for merging: bytes, and what merges name.

    Some vocabularies lack bytes (SmolLM's 21 of 256) or a merge's result. Such a piece still takes
    part in merging, so it gets an id past the end, and the second mapping says what it becomes: its
    ASCII characters' tokens, which is what llama.cpp emits, and nothing for the rest.
    """
    missing = sorted(set(needed).difference(known))
    pieces = dict(known)
    replaced: dict[int, tuple[int, ...]] = {}
    for index, piece in enumerate(missing, len(known)):
        pieces[piece] = index
        replaced[index] = tuple(known[char] for char in piece if char < "\x80" and char in known)
    return pieces, replaced
