"""Real vocabularies: ids are llama.cpp's, and chat templates print what transformers prints.

corpus.json holds the texts; MODEL.json, a text a row, llama.cpp's ids with special tokens added and
read, and with neither. benchmarks/tokens.py wrote them and compares 100,000 random strings more.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ridgeline.model.text.chat import ChatTemplate
from ridgeline.model.text.detokenizer import Detokenizer
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.model.weights.gguf import open_gguf

GOLDEN = Path(__file__).parent.parent / "golden" / "tokens"
CORPUS: list[str] = json.loads((GOLDEN / "corpus.json").read_text("utf-8"))
MODELS = ("smollm2", "gemma3", "qwen")


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[str, Tokenizer]:
    path = request.getfixturevalue(f"{request.param}_path")
    return request.param, Tokenizer.from_gguf(open_gguf(path).metadata)


def test_ids_are_llama_cpps(model: tuple[str, Tokenizer]) -> None:
    name, tokenizer = model
    rows = json.loads((GOLDEN / f"{name}.json").read_text())
    assert len(rows) == len(CORPUS)
    for text, (with_special, plain) in zip(CORPUS, rows, strict=True):
        assert tokenizer.encode(text) == with_special, text
        assert tokenizer.encode(text, add_special=False, parse_special=False) == plain, text


def test_text_comes_back_and_streams(model: tuple[str, Tokenizer]) -> None:
    name, tokenizer = model
    for text in CORPUS:
        ids = tokenizer.encode(text, add_special=False)
        stream = Detokenizer(tokenizer, skip_special=False)
        said = "".join([stream.push(index) for index in ids]) + stream.flush()
        assert said == tokenizer.decode(ids, skip_special=False)
        # SmolLM's vocabulary lacks 21 bytes; SentencePiece writes U+2581 for a space.
        if name == "qwen" or (name == "gemma3" and "▁" not in text):
            assert said == text


def test_the_ends_of_a_generation(model: tuple[str, Tokenizer]) -> None:
    name, tokenizer = model
    expected = {
        "smollm2": {"<|endoftext|>", "<|im_end|>"},
        "gemma3": {"<eos>", "<end_of_turn>"},
        "qwen": {"<|endoftext|>", "<|im_end|>"},
    }[name]
    assert expected <= {tokenizer.token_text(index) for index in tokenizer.eos_ids}
    assert tokenizer.add_bos == (name == "gemma3")
    assert tokenizer.vocab_size == {"smollm2": 49152, "gemma3": 262144, "qwen": 151936}[name]


TURNS = [
    {"role": "user", "content": "Why is the sky blue?"},
    {"role": "assistant", "content": "Rayleigh."},
    {"role": "user", "content": "Who?"},
]


def test_smollm2_chat(smollm2_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(open_gguf(smollm2_path).metadata)
    text = ChatTemplate.of(tokenizer).render(TURNS)
    assert text == (
        "<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n"
        "<|im_start|>assistant\nRayleigh.<|im_end|>\n"
        "<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer.encode(text, add_special=False)
    assert [ids.count(index) for index in (1, 2)] == [5, 4]


def test_qwen_chat_with_tools(qwen_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(open_gguf(qwen_path).metadata)
    tool = {"type": "function", "function": {"name": "who", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "who", "arguments": {"é": "<1>"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        TURNS[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Rayleigh"},
    ]
    text = ChatTemplate.of(tokenizer).render(messages, tools=[tool])
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\n")
    assert json.dumps(tool) in text
    assert text.endswith(
        "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n"
        "<|im_start|>assistant\n<tool_call>\n"
        '{"name": "who", "arguments": {"é": "<1>"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nRayleigh\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
