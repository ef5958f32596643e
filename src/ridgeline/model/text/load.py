"""A model's tokenizer, wherever its files keep it."""

from __future__ import annotations

from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.model.weights.checkpoint import Checkpoint


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer in a GGUF's metadata or beside a directory's config.json."""
    if checkpoint.kind == "gguf":
        return Tokenizer.from_gguf(checkpoint.metadata)
    return Tokenizer.from_directory(checkpoint.path)
