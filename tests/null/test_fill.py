"""Gaps in texts: a vocabulary's marks for them, and the ids that ask for what lies between."""

from __future__ import annotations

import pytest

from ridgeline.engine.prompts import Prompts
from ridgeline.errors import ModelError, RequestError
from ridgeline.model.text.byte_level import byte_characters
from ridgeline.model.text.fill import FillMarks, fill_marks
from ridgeline.model.text.tokenizer import Tokenizer

BYTES = list(byte_characters())
QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def tokenizer_with(*marks: str, bos: bool = False) -> Tokenizer:
    """256 bytes, an end, and marks, from id 257 on."""
    tokens = [*BYTES, "<|endoftext|>", *marks]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * 256 + [3] * (1 + len(marks)),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.bos_token_id": 256,
            "tokenizer.ggml.eos_token_id": 256,
            "tokenizer.ggml.add_bos_token": bos,
        }
    )


def no_template() -> None:
    raise ModelError("none")


def prompts_of(tokenizer: Tokenizer) -> Prompts:
    return Prompts(tokenizer, tokenizer.vocab_size, no_template)  # type: ignore[arg-type]


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special=False, parse_special=False)


@pytest.mark.parametrize("bos", [False, True])
def test_three_marks_stand_before_prefix_suffix_and_answer(bos: bool) -> None:
    tokenizer = tokenizer_with(*QWEN, bos=bos)
    assert fill_marks(tokenizer) == FillMarks(257, 258, 259)
    told = prompts_of(tokenizer).tokenize({"prompt": "ab", "suffix": "c"})
    start = [256] if bos else []
    assert told.token_ids == [*start, 257, *ids(tokenizer, "ab"), 258, *ids(tokenizer, "c"), 259]


def test_with_two_marks_the_suffix_comes_first() -> None:
    tokenizer = tokenizer_with("[SUFFIX]", "[PREFIX]")
    assert fill_marks(tokenizer) == FillMarks(258, 257, None)
    told = prompts_of(tokenizer).tokenize({"prompt": "ab", "suffix": "c"})
    assert told.token_ids == [257, *ids(tokenizer, "c"), 258, *ids(tokenizer, "ab")]


def test_marks_within_texts_are_text() -> None:
    tokenizer = tokenizer_with(*QWEN)
    told = prompts_of(tokenizer).tokenize({"prompt": QWEN[1], "suffix": ""})
    assert told.token_ids.count(258) == 1
    assert told.token_ids[1:-2] == ids(tokenizer, QWEN[1])


@pytest.mark.parametrize("marks", [(), QWEN[:2], ("[SUFFIX]",)])
def test_a_vocabulary_without_marks_is_refused_by_name(marks: tuple[str, ...]) -> None:
    prompts = prompts_of(tokenizer_with(*marks))
    assert prompts.fill_marks is None
    with pytest.raises(RequestError, match="suffix: this model's vocabulary has no marks"):
        prompts.tokenize({"prompt": "a", "suffix": "b"})


@pytest.mark.parametrize("gap", [{"prompt": [1], "suffix": "b"}, {"prompt": "a", "suffix": 1}])
def test_a_gap_is_between_texts(gap: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="suffix"):
        prompts_of(tokenizer_with(*QWEN)).tokenize(gap)
