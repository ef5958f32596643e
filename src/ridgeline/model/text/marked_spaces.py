"""BPE by rank over text as it is, with spaces as `▁`: Gemma 4's vocabulary in a GGUF file.

Nothing is cut into words but runs of line ends, which are one token if there is one (llama.cpp's
`gemma4`). What no piece stands for is bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ridgeline.errors import ModelError
from ridgeline.model.text.byte_level import merge_pairs
from ridgeline.model.text.sentencepiece import SPACE
from ridgeline.model.text.vocabulary import Vocabulary

_LINES = re.compile(r"\n+|[^\n]+")


def marked_spaces_encoder(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """A function from plain text to ids. Raises `ModelError` for merges that cannot be."""
    from tokenizers import Tokenizer, models

    ids = vocabulary.ids
    try:
        model = models.BPE(
            vocab=ids, merges=merge_pairs(vocabulary.merges), byte_fallback=True, fuse_unk=False
        )
    except Exception as error:  # the package's word for a merge of or to a piece that is no token
        raise ModelError(f"tokenizer.ggml.merges: {str(error)[:160]}") from None
    tokenizer = Tokenizer(model)

    def encode(text: str) -> list[int]:
        found: list[int] = []
        for piece in _LINES.findall(text.replace(" ", SPACE)):
            whole = ids.get(piece) if piece[0] == "\n" else None
            if whole is not None:
                found.append(whole)
            else:
                found.extend(tokenizer.encode(piece, add_special_tokens=False).ids)
        return found

    return encode
