"""The Python API on real models: conversations, caching, batches; one beginning-of-sequence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline import LLM, SamplingParams
from ridgeline.model.text.chat import ChatTemplate

GREEDY = SamplingParams(temperature=0, max_tokens=24)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}"
    "<end_of_turn>\n{% endfor %}<start_of_turn>model\n"
)


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> LLM:
    return LLM(str(smollm2_path), context_length=2048, max_rows=8)


def test_a_model_answers_as_it_should(llm: LLM) -> None:
    prompts = [
        "The capital of France is",
        "Monday, Tuesday, Wednesday, Thursday,",
        "def add(a, b):\n    return",
        "1, 2, 3, 4, 5, 6,",
    ]
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=4))
    texts = [output.outputs[0].text for output in outputs]
    expected = [" Paris", " Friday", " a + b", " 7"]
    assert [text[: len(e)] for text, e in zip(texts, expected, strict=True)] == expected
    (output,) = llm.chat(question("What is the capital of Japan?"), GREEDY)
    answer = output.outputs[0]
    assert answer.text == "The capital of Japan is Tokyo."
    assert answer.finish_reason == "stop"
    assert answer.stop_reason is None
    assert answer.token_ids[-1] in llm.tokenizer.eos_ids


def test_a_conversation_is_computed_from_where_it_is_new(llm: LLM) -> None:
    messages = question("List the planets of the solar system.")
    (first,) = llm.chat(messages, GREEDY)
    messages += [
        {"role": "assistant", "content": first.outputs[0].text},
        {"role": "user", "content": "Which is the largest?"},
    ]
    (second,) = llm.chat(messages, GREEDY)
    said = len(first.prompt_token_ids) + len(first.outputs[0].token_ids)
    assert second.num_cached_tokens > said - 18
    fresh = LLM(str(llm.assembled.opened.checkpoint.path), context_length=2048, max_rows=8)
    (again,) = fresh.chat(messages, GREEDY)
    assert again.num_cached_tokens == 0
    assert again.outputs[0].token_ids == second.outputs[0].token_ids


def test_a_batch_of_conversations_is_each_alone(llm: LLM) -> None:
    texts = ["Name a fruit.", "What is 2 + 2?", "Why is the sky blue?", "¿Qué hora es?", "hi"]
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=24)
    together = llm.chat([question(text) for text in texts], params)
    for text, output in zip(texts, together, strict=True):
        (alone,) = llm.chat(question(text), params)
        assert alone.outputs[0].token_ids == output.outputs[0].token_ids
        assert alone.prompt_token_ids == output.prompt_token_ids


def test_a_streamed_conversation_is_the_whole_one(llm: LLM) -> None:
    deltas = list(llm.stream_chat(question("Write a haiku about autumn."), GREEDY))
    (whole,) = llm.chat(question("Write a haiku about autumn."), GREEDY)
    assert "".join(delta.text for delta in deltas) == whole.outputs[0].text
    assert deltas[-1].output is not None
    assert deltas[-1].output.outputs[0].token_ids == whole.outputs[0].token_ids


def test_a_prompt_begins_once(gemma3_path: Path) -> None:
    llm = LLM(str(gemma3_path), context_length=256, max_rows=1)
    tokenizer = llm.tokenizer
    (output,) = llm.generate(
        "Berlin is in Germany. Paris is in", SamplingParams(temperature=0, max_tokens=1)
    )
    assert output.prompt_token_ids[0] == tokenizer.bos_id
    assert output.prompt_token_ids.count(tokenizer.bos_id) == 1
    assert output.outputs[0].text == " France"
    bos = tokenizer.token_text(tokenizer.bos_id)
    text = ChatTemplate(GEMMA_TEMPLATE, {"bos_token": bos}).render(question("hi"))
    ids = tokenizer.encode(text, add_special=False)
    assert ids[0] == tokenizer.bos_id
    assert ids.count(tokenizer.bos_id) == 1
    assert tokenizer.decode(ids, skip_special=False) == text


def test_qwen_answers_as_it_should(qwen_path: Path) -> None:
    llm = LLM(str(qwen_path), context_length=512, max_rows=4)
    expected = {
        "What is 17 + 25?": "42",
        "What is the capital of France?": "Paris",
        "¿Cuál es la capital de España?": "Madrid",
        "Correct the grammar: She don't likes apples.": "She doesn't like apples.",
    }
    outputs = llm.chat([question(text) for text in expected], GREEDY)
    for output, part in zip(outputs, expected.values(), strict=True):
        assert part in output.outputs[0].text
        assert output.outputs[0].finish_reason == "stop"


def test_the_roof_is_read_off_the_weights_themselves(smollm2_path: Path, tmp_path: Path) -> None:
    """A second area of the weights' size would double the memory of a large model. In a process of
    its own: a peak never falls.
    """
    code = (
        "import resource, sys; from ridgeline import LLM\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "llm = LLM(sys.argv[1], max_rows=1); before = peak()\n"
        "print(llm.read_roof().gigabytes_per_second, peak() - before)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, smollm2_path],
        env={**os.environ, "RIDGELINE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert float(shown[0]) > 0.1
    assert int(shown[1]) < 16 * 1024, f"{shown[1]} KiB more at the peak"
