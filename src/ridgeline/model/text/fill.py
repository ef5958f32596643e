"""Filling a gap in a text: the marks that models of code were taught to do it by, and the ids that
ask for it.

Three marks (StarCoder, Qwen Coder, DeepSeek Coder, CodeGemma, CodeLlama): prefix, suffix, and what
is written after the middle's mark is what lies between; "Efficient Training of Language Models to
Fill in the Middle" (Bavarian et al., 2022), its order PSM. Two marks (Codestral): the suffix first,
and the answer goes on with the prefix. Other files of the same project come before all, each behind
a mark and its name if the model knows such a mark ("Qwen2.5-Coder Technical Report", 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.model.text.vocabulary import FILL_IN_MIDDLE

TWO_MARKS = ("[PREFIX]", "[SUFFIX]")


@dataclass(frozen=True, slots=True)
class FillMarks:
    """Token ids of the marks. middle: None where the suffix comes first. project, file: before a
    project's name and a file's; None: the model has no such mark.
    """

    prefix: int
    suffix: int
    middle: int | None
    project: int | None = None
    file: int | None = None

    def around(
        self,
        tokenizer: Tokenizer,
        prefix: str,
        suffix: str,
        *,
        files: Sequence[tuple[str, str]] = (),
        begun: str = "",
    ) -> list[int]:
        """The ids that ask for what lies between two texts. Marks within them are text. files:
        names and texts of others, told before. begun: how the text between begins.
        """
        begin = tokenizer.bos_id if tokenizer.add_bos else None
        start = [] if begin is None else [begin]
        start += self._told(tokenizer, files) if files else []
        before, after, between = (_ids(tokenizer, text) for text in (prefix, suffix, begun))
        if self.middle is None:
            return [*start, self.suffix, *after, self.prefix, *before, *between]
        return [*start, self.prefix, *before, self.suffix, *after, self.middle, *between]

    def _told(self, tokenizer: Tokenizer, files: Sequence[tuple[str, str]]) -> list[int]:
        """What nobody names is named as by llama.cpp: the ids are the same."""
        found: list[int] = []
        if self.project is not None:
            found += [self.project, *_ids(tokenizer, "myproject\n")]
        for name, text in files:
            if self.file is None:
                found += _ids(tokenizer, "\n\n--- snippet ---\n\n")
            else:
                found += [self.file, *_ids(tokenizer, f"{name}\n")]
            found += _ids(tokenizer, text)
        if self.file is not None:
            found += [self.file, *_ids(tokenizer, "filename\n")]
        return found


def fill_marks(tokenizer: Tokenizer) -> FillMarks | None:
    """The marks of a model's vocabulary; None: it was not taught to fill gaps."""
    prefix, suffix, middle = (_first(tokenizer, names) for names in FILL_IN_MIDDLE[:3])
    if prefix is not None and suffix is not None and middle is not None:
        project, file = (_first(tokenizer, names) for names in FILL_IN_MIDDLE[4:6])
        return FillMarks(prefix, suffix, middle, project, file)
    prefix, suffix = (_first(tokenizer, (name,)) for name in TWO_MARKS)
    if prefix is not None and suffix is not None:
        return FillMarks(prefix, suffix, None)
    return None


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special=False, parse_special=False)


def _first(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    """The first of the names that is one token, which text without marks is not read as."""
    for name in names:
        ids = tokenizer.encode(name, add_special=False)
        if len(ids) == 1 and tokenizer.token_text(ids[0]) == name:
            return ids[0]
    return None
