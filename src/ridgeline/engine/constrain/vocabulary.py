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

    def __call__(self, text: str | bytes) -> list[int]:
        whole = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._tokenizer.encode(whole, add_special=False, parse_special=False)


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
