"""A model's tokens as llguidance wants them: the bytes that each adds to an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ridgeline.errors import RequestError
from ridgeline.model.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class _Tokens:
    """What llguidance asks a tokenizer for. A special token's text is not a text that an answer
    has, so it only comes where a grammar names the token itself.
    """

    def __init__(self, tokenizer: Tokenizer, num_tokens: int, eos_id: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_id
        self.bos_token_id = None if tokenizer.bos_id is None else tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(i) for i in range(num_tokens)]
        special = tokenizer.special_ids | tokenizer.eos_ids
        self.special_token_ids = sorted(i for i in special if i < num_tokens)
        self._ids = {
            piece: i
            for i, piece in reversed(list(enumerate(self.tokens)))
            if piece and i not in special
        }
        self._longest = min(64, max(map(len, self._ids), default=1))

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of exactly these bytes: llguidance lets a forced span come as these tokens only.

        What a tokenizer adds (a first space) or cannot write would be another text.
        """
        whole = text.encode() if isinstance(text, str) else text
        ids = self._tokenizer.encode(
            whole.decode("utf-8", "replace"), add_special=False, parse_special=False
        )
        known = len(self.tokens)
        if all(i < known for i in ids) and b"".join(self.tokens[i] for i in ids) == whole:
            return ids
        return self._longest_first(whole)

    def _longest_first(self, text: bytes) -> list[int]:
        """As far as the vocabulary has the bytes."""
        ids: list[int] = []
        at = 0
        while at < len(text):
            for size in range(min(self._longest, len(text) - at), 0, -1):
                found = self._ids.get(text[at : at + size])
                if found is not None:
                    ids.append(found)
                    at += size
                    break
            else:
                break
        return ids


def llguidance_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> LLTokenizer:
    """vocab_size: that of the logits. Its masks are of min(that, the tokenizer's) tokens.

    Raises RequestError where the model has no token that ends an answer.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    num_tokens = min(tokenizer.vocab_size, vocab_size)
    ends = sorted(i for i in tokenizer.eos_ids if i < num_tokens)
    if not ends:
        raise RequestError(
            "structured_outputs", "this model has no token that ends an answer, so none can end"
        )
    first = tokenizer.eos_id if tokenizer.eos_id in ends else ends[0]
    assert first is not None
    wrapper = TokenizerWrapper(_Tokens(tokenizer, num_tokens, first))
    return LLTokenizer(wrapper, eos_token=[first, *(i for i in ends if i != first)])
