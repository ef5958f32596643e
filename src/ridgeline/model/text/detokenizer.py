"""Text out of a stream of token ids, a whole character at a time.

It does not know when a generation ends; that is the caller's. One object serves one stream.
"""

from __future__ import annotations

import codecs

from ridgeline.model.text.tokenizer import Tokenizer


class Detokenizer:
    """Decodes ids one by one: what `push` and `flush` return, joined, is `tokenizer.decode` of all
    ids.

    Bytes that are not yet a character are held back, so nothing returned ever needs taking back.
    `continues` means as for `Tokenizer.decode`: these ids follow others, and a leading space is
    text.
    """

    def __init__(
        self, tokenizer: Tokenizer, skip_special: bool = True, *, continues: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset[int]()
        self._strips_next = tokenizer.strips_leading_space and not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """The characters that token `index` completes, often none. Raises `RequestError` as
        `decode` does.
        """
        if index in self._skipped:
            return ""
        data = self._tokenizer.token_bytes(index)
        if self._strips_next and data:
            data = data.removeprefix(b" ")
            self._strips_next = False
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What the bytes still held back stand for: U+FFFD, or nothing. The stream may go on after
        it.
        """
        return self._decoder.decode(b"", final=True)
