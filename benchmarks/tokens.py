"""Token ids beside llama.cpp's, string by string, on a corpus and on random strings.

usage: tokens.py MODEL.gguf [--strings 100000] [--seed 0] [--pre NAME] [--corpus corpus.json]
[--goldens out.json]

Needs llama-cpp-python and gguf beside Ridgeline's own dependencies. Prints the strings compared and
the differences (which should be none), and the time that each side took. Half of the strings are
read with special tokens parsed, half with them as plain text; half with BOS/EOS added. `--pre` puts
another pre-tokenizer in the place of the file's, on both sides. `--goldens` writes llama.cpp's ids
of the corpus for the tests.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ridgeline.model.text.tokenizer import Tokenizer

Encode = Callable[[str, bool, bool], list[int]]

# First and last code point of scripts and blocks, drawn from with equal chance.
BLOCKS = (
    (0x20, 0x7E),
    (0x20, 0x7E),
    (0x00, 0x1F),
    (0x7F, 0xFF),
    (0x100, 0x24F),
    (0x250, 0x36F),
    (0x370, 0x3FF),
    (0x400, 0x52F),
    (0x590, 0x5FF),
    (0x600, 0x6FF),
    (0x900, 0x97F),
    (0xE00, 0xE7F),
    (0x1100, 0x11FF),
    (0x1E00, 0x1FFF),
    (0x2000, 0x206F),
    (0x2070, 0x2BFF),
    (0x3000, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF),
    (0xFE00, 0xFFFF),
    (0x10000, 0x1FFFF),
    (0x1F1E6, 0x1F1FF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x3FFFF),
    (0xE0000, 0x10FFFF),
)
SPACES = (
    " ",
    " ",
    " ",
    "  ",
    "    ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\v",
    "\f",
    "\x85",
    "\xa0",
    "\u2003",
    "\u3000",
)
PARTS = (
    "'s",
    "'LL",
    "don't",
    "I'Ve",
    "'\u017f",
    "0",
    "12",
    "345",
    "1234567",
    "½",
    "Ⅷ",
    "٣",
    "▁",
    "▁▁",
    "...",
    "--",
    "}{",
)
EMOJI = ("👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇯🇵", "❤️", "\u200d", "\ufe0f", "\u0301", "e\u0301")


def random_text(rng: random.Random, tokens: Sequence[str], special: Sequence[str]) -> str:
    """A string of up to about 80 characters: words of the vocabulary, scripts, white space, emoji,
    special tokens.
    """
    parts: list[str] = []
    for _ in range(rng.randint(0, 12)):
        kind = rng.random()
        if kind < 0.35:
            first, last = rng.choice(BLOCKS)
            size = rng.randint(1, 6)
            chars = (chr(rng.randint(first, last)) for _ in range(size))
            parts.append("".join(char for char in chars if not "\ud800" <= char <= "\udfff"))
        elif kind < 0.65:
            parts.append(rng.choice(tokens))
        elif kind < 0.8:
            parts.append(rng.choice(SPACES) * rng.choice((1, 1, 1, 2, 3, 9, 33)))
        elif kind < 0.9:
            parts.append(rng.choice(PARTS))
        elif kind < 0.95:
            parts.append(rng.choice(EMOJI))
        elif special:
            text = rng.choice(special)
            cut = rng.randint(0, len(text)) if rng.random() < 0.3 else len(text)
            parts.append(text[:cut])
        if rng.random() < 0.1 and parts:
            parts.append(parts[-1] * rng.randint(1, 7))
    return "".join(parts)


def peer_encode(path: Path, pre: str | None) -> Encode:
    """llama.cpp's ids. `add_special` means the BOS/EOS that the file asks for."""
    from llama_cpp import Llama, llama_tokenize  # type: ignore[import-not-found]

    overrides = {"tokenizer.ggml.pre": pre} if pre else None
    llama = Llama(str(path), vocab_only=True, verbose=False, kv_overrides=overrides)
    room = 1 << 20
    buffer = (ctypes.c_int32 * room)()
    vocab = llama._model.vocab

    def encode(text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        count = llama_tokenize(vocab, data, len(data), buffer, room, add_special, parse_special)
        if count < 0:
            raise RuntimeError(f"llama_tokenize needs room for {-count} ids")
        return buffer[:count]

    encode.keep = llama  # type: ignore[attr-defined]
    return encode


def gguf_metadata(path: Path) -> dict[str, object]:
    """The metadata of a GGUF file by the gguf package's reader, so that our own has no part in the
    comparison.
    """
    import gguf

    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pre", default=None)
    parser.add_argument("--corpus", type=Path, default=None)
    parser.add_argument("--goldens", type=Path, default=None)
    options = parser.parse_args()

    metadata = gguf_metadata(options.model)
    if options.pre:
        metadata["tokenizer.ggml.pre"] = options.pre
    start = time.perf_counter()
    tokenizer = Tokenizer.from_gguf(metadata)
    load_seconds = time.perf_counter() - start
    peer = peer_encode(options.model, options.pre)
    special = [tokenizer.token_text(index) for index in sorted(tokenizer.special_ids)][:200]
    tokens = [
        tokenizer.token_bytes(index).decode("utf-8", "ignore")
        for index in range(tokenizer.vocab_size)
    ]

    corpus: list[str] = json.loads(options.corpus.read_text("utf-8")) if options.corpus else []
    if options.goldens:
        rows = [[peer(text, True, True), peer(text, False, False)] for text in corpus]
        options.goldens.write_text(
            json.dumps(rows, separators=(",", ":")).replace("]],", "]],\n") + "\n"
        )
    rng = random.Random(options.seed)
    texts = corpus + [random_text(rng, tokens, special) for _ in range(options.strings)]
    ours_seconds = peer_seconds = 0.0
    different = ids = 0
    for text in texts:
        add_special, parse_special = rng.random() < 0.5, rng.random() < 0.5
        start = time.perf_counter()
        expected = peer(text, add_special, parse_special)
        between = time.perf_counter()
        actual = tokenizer.encode(text, add_special=add_special, parse_special=parse_special)
        ours_seconds += time.perf_counter() - between
        peer_seconds += between - start
        ids += len(expected)
        if actual != expected:
            different += 1
            if different <= 20:
                print(json.dumps({"text": text, "ours": actual, "llama.cpp": expected}))
    print(
        f"{options.model.name}: {len(texts)} strings, {ids} ids, {different} different; "
        f"load {load_seconds:.3f} s, encode {ours_seconds:.2f} s, llama.cpp {peer_seconds:.2f} s"
    )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
