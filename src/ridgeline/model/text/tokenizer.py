"""Text to token ids and back.

`Tokenizer` does not know where a vocabulary came from: `from_gguf` builds one from a GGUF file's
metadata with ids identical to llama.cpp's, `from_directory` one from a Hugging Face directory with
ids identical to the `tokenizers` package's. It holds no request state and may be shared by threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ridgeline.errors import ModelError, RequestError
from ridgeline.model.text.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
)


class Encode(Protocol):
    """Text to ids; `add_special` adds what the model's files say goes around a text,
    `parse_special` reads special tokens' text as those tokens.
    """

    def __call__(self, text: str, add_special: bool, parse_special: bool) -> list[int]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A model's vocabulary and the rules of its use.

    `eos_ids` holds every id that ends a generation (end of text, of turn, of message).
    `special_ids` are those that `skip_special` hides. `add_bos` and `add_eos` say what
    `add_special` does. A text starts with a dummy space where `strips_leading_space`, and `decode`
    takes it off again.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    pad_id: int | None
    eos_ids: frozenset[int]
    special_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    strips_leading_space: bool
    chat_template: str | None
    _encode: Encode = field(repr=False)
    _text: Callable[[int], str] = field(repr=False)
    _bytes: Callable[[int], bytes] = field(repr=False)
    _known: dict[int, bytes] = field(repr=False, default_factory=dict)

    @staticmethod
    def from_gguf(metadata: Mapping[str, object]) -> Tokenizer:
        """The tokenizer that a GGUF file's metadata describes. Raises `ModelError` naming the key
        that is wrong.
        """
        return _tokenizer_of(read_vocabulary(metadata))

    @staticmethod
    def from_directory(path: str | Path) -> Tokenizer:
        """The tokenizer of a Hugging Face model directory (`tokenizer.json` and the files beside
        it).

        Raises `ModelError` naming the file that is missing or cannot be read.
        """
        from ridgeline.model.text.huggingface import read_directory

        return read_directory(Path(path))

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """The ids of `text`.

        `add_special` adds BOS or EOS where the model's files ask for it; a rendered chat template
        already holds what it wants, so encode that with `add_special=False`. `parse_special=False`
        reads the text of control tokens as plain text, which is how text from a stranger goes in.
        Raises `RequestError` for a lone surrogate.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                "prompt",
                f"character {error.start} is half of a surrogate pair; send whole characters",
            ) from None
        return self._encode(text, add_special, parse_special)

    def decode(
        self, ids: Iterable[int], *, skip_special: bool = True, continues: bool = False
    ) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD.

        `continues` says that the ids follow others, so that a leading space is text and not
        SentencePiece's dummy. Raises `RequestError` for an id outside the vocabulary.
        """
        skipped = self.special_ids if skip_special else frozenset[int]()
        data = b"".join([self.token_bytes(index) for index in ids if index not in skipped])
        if self.strips_leading_space and not continues and data.startswith(b" "):
            data = data[1:]
        return data.decode("utf-8", "replace")

    def token_bytes(self, index: int) -> bytes:
        """The bytes that token `index` adds to a text: often not whole characters, and none for an
        unused id.
        """
        known = self._known.get(index)
        if known is None:
            self._check(index)
            known = self._known[index] = self._bytes(index)
        return known

    def token_text(self, index: int) -> str:
        """The token as the vocabulary writes it (`Ġthe`, `▁the`, `<|im_end|>`)."""
        self._check(index)
        return self._text(index)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.vocab_size:
            raise RequestError(
                "token id", f"{index} is outside the vocabulary (0 to {self.vocab_size - 1})"
            )


def _tokenizer_of(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer(
        vocab_size=len(vocabulary.tokens),
        bos_id=vocabulary.bos_id,
        eos_id=vocabulary.eos_id,
        unknown_id=vocabulary.unknown_id,
        pad_id=vocabulary.pad_id,
        eos_ids=vocabulary.eos_ids,
        special_ids=(vocabulary.control | vocabulary.unknown) - vocabulary.shown,
        add_bos=vocabulary.add_bos,
        add_eos=vocabulary.add_eos,
        strips_leading_space=vocabulary.add_space_prefix,
        chat_template=vocabulary.chat_template,
        _encode=_gguf_encode(vocabulary),
        _text=vocabulary.tokens.__getitem__,
        _bytes=_gguf_bytes(vocabulary),
    )


def _gguf_encode(vocabulary: Vocabulary) -> Encode:
    from ridgeline.model.text.special_tokens import index_special_tokens, split_special

    if vocabulary.kind == "bpe":
        from ridgeline.model.text.byte_level import byte_level_encoder as encoder
    elif vocabulary.kind == "marked":
        from ridgeline.model.text.marked_spaces import marked_spaces_encoder as encoder
    else:
        from ridgeline.model.text.sentencepiece import sentencepiece_encoder as encoder
    encode_plain = encoder(vocabulary)
    texts = vocabulary.tokens
    hidden = vocabulary.control | vocabulary.unknown
    every = index_special_tokens(
        {texts[index]: index for index in hidden | vocabulary.user_defined}, vocabulary.strips_right
    )
    # A token that its author typed as text is cut out even where control tokens are not.
    as_text = index_special_tokens(
        {texts[index]: index for index in vocabulary.user_defined - hidden}, vocabulary.strips_right
    )
    before = [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []
    after = [vocabulary.eos_id] if vocabulary.add_eos and vocabulary.eos_id is not None else []
    if vocabulary.add_bos and not before:
        raise ModelError("tokenizer.ggml.bos_token_id: is missing, but add_bos_token asks for it")
    if vocabulary.add_eos and not after:
        raise ModelError("tokenizer.ggml.eos_token_id: is missing, but add_eos_token asks for it")

    def encode(text: str, add_special: bool, parse_special: bool) -> list[int]:
        ids: list[int] = list(before) if add_special else []
        prefix = vocabulary.add_space_prefix
        for part in split_special(text, every if parse_special else as_text):
            if isinstance(part, int):
                ids.append(part)
                prefix = vocabulary.add_space_prefix
            else:
                ids.extend(encode_plain(" " + part if prefix else part))
                prefix = False
        if add_special:
            ids.extend(after)
        return ids

    return encode


def _gguf_bytes(vocabulary: Vocabulary) -> Callable[[int], bytes]:
    from ridgeline.model.text.byte_level import byte_level_bytes
    from ridgeline.model.text.sentencepiece import byte_token_bytes, piece_bytes

    normal = byte_level_bytes if vocabulary.kind == "bpe" else piece_bytes
    raw = vocabulary.control | vocabulary.unknown | vocabulary.user_defined
    texts, types = vocabulary.tokens, vocabulary.types

    def token_bytes(index: int) -> bytes:
        if index in raw or types[index] in (CONTROL, UNKNOWN, USER_DEFINED):
            return texts[index].encode("utf-8", "replace")
        if types[index] == NORMAL:
            return normal(texts[index])
        return byte_token_bytes(texts[index]) if types[index] == BYTE else b""

    return token_bytes
