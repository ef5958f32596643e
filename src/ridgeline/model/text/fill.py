"""Filling a gap in a text: the marks that models of code were taught to do it by, and the ids that
ask for it.

Three marks (StarCoder, Qwen Coder, DeepSeek Coder, CodeGemma, CodeLlama): prefix, suffix, and what
is written after the middle's mark is what lies between; "Efficient Training of Language Models to
Fill in the Middle" (Bavarian et al., 2022), its order PSM. Two marks (Codestral): the suffix first,
and the answer goes on with the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.model.text.vocabulary import FILL_IN_MIDDLE

TWO_MARKS = ("[PREFIX]", "[SUFFIX]")


@dataclass(frozen=True, slots=True)
class FillMarks:
    """Token ids of the marks. middle: None where the suffix comes first."""

    prefix: int
    suffix: int
    middle: int | None

    def around(self, tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
        """The ids that ask for what lies between two texts. Marks within them are text."""
        begin = tokenizer.bos_id if tokenizer.add_bos else None
        start = [] if begin is None else [begin]
        before, after = (
            tokenizer.encode(text, add_special=False, parse_special=False)
            for text in (prefix, suffix)
        )
        if self.middle is None:
            return [*start, self.suffix, *after, self.prefix, *before]
        return [*start, self.prefix, *before, self.suffix, *after, self.middle]


def fill_marks(tokenizer: Tokenizer) -> FillMarks | None:
    """The marks of a model's vocabulary; None: it was not taught to fill gaps."""
    prefix, suffix, middle = (_first(tokenizer, names) for names in FILL_IN_MIDDLE[:3])
    if prefix is not None and suffix is not None and middle is not None:
        return FillMarks(prefix, suffix, middle)
    prefix, suffix = (_first(tokenizer, (name,)) for name in TWO_MARKS)
    if prefix is not None and suffix is not None:
        return FillMarks(prefix, suffix, None)
    return None


def _first(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    """The first of the names that is one token, which text without marks is not read as."""
    for name in names:
        ids = tokenizer.encode(name, add_special=False)
        if len(ids) == 1 and tokenizer.token_text(ids[0]) == name:
            return ids[0]
    return None
