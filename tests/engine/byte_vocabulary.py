"""A vocabulary for tests: each ASCII character, a few longer tokens, an end."""

from __future__ import annotations

from ridgeline.model.text.tokenizer import Tokenizer

ASCII = 128
LONGER = ('":', '","', '{"', '"}', "true", "123", "-a", "ab")
EOS = ASCII + len(LONGER)


def byte_tokenizer() -> Tokenizer:
    pieces = [bytes([i]) for i in range(ASCII)] + [text.encode() for text in LONGER] + [b"</s>"]
    return Tokenizer(
        vocab_size=len(pieces),
        bos_id=None,
        eos_id=EOS,
        unknown_id=None,
        pad_id=None,
        eos_ids=frozenset({EOS}),
        special_ids=frozenset({EOS}),
        add_bos=False,
        add_eos=False,
        strips_leading_space=False,
        chat_template=None,
        _encode=lambda text, _add, _parse: [byte % ASCII for byte in text.encode()],
        _text=lambda index: pieces[index].decode(),
        _bytes=lambda index: pieces[index],
    )
