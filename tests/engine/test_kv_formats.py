"""Caches in each format through the whole engine: the same request, the same tokens; how much they
hold; and what is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ridgeline import LLM, RequestError, SamplingParams
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.cli.main import main
from ridgeline.engine.outputs import RequestOutput
from ridgeline.errors import CapacityError

GOLDEN = Path(__file__).parent.parent / "golden"
MODEL = str(GOLDEN / "llama3" / "model.gguf")  # 2 layers, 2 KV heads of 16
PROMPTS = [
    "Hello there",
    "A second, somewhat longer prompt about nothing, with a beginning",
    "A second, somewhat longer prompt about nothing, with another end",
    "z",
]
PARAMS = SamplingParams(temperature=0.9, seed=5, max_tokens=24, ignore_eos=True, logprobs=2)

formats = pytest.mark.parametrize("kv_format", ["bf16", "f16", "int8"])


def said(outputs: list[RequestOutput]) -> list[tuple[object, object]]:
    return [(o.outputs[0].token_ids, o.outputs[0].logprobs) for o in outputs]


@formats
def test_together_alone_cached_preempted_and_in_chunks(kv_format: str) -> None:
    llm = LLM(MODEL, kv_format=kv_format, max_rows=4, threads=2)
    alone = [said(llm.generate([prompt], PARAMS))[0] for prompt in PROMPTS]
    again = llm.generate(PROMPTS, PARAMS)
    assert said(again) == alone
    assert any(output.num_cached_tokens for output in again)
    small = LLM(
        MODEL,
        kv_format=kv_format,
        max_rows=4,
        threads=1,
        context_length=96,
        max_tokens_per_step=7,
        memory=8 * block_bytes(llm),
    )
    outputs = small.generate(PROMPTS, PARAMS)
    assert said(outputs) == alone
    assert small._engine.state.num_preemptions > 0, "the cache was to be too small"


def block_bytes(llm: LLM) -> int:
    """Of a block as it is allocated: keys, values, and what keeps blocks off 4 KB."""
    executor = llm.assembled.executor
    assert isinstance(executor, CpuExecutor)
    states = llm.assembled.bound_graph.states
    kept = 16 * sum(state.bytes_per_token for state in states)
    allocated = executor.unit_memory()["kv_block"]
    assert kept <= allocated < kept + 4096 + 64
    return allocated


def test_formats_differ_and_the_default_is_bf16() -> None:
    found = {
        name: said(LLM(MODEL, kv_format=name, max_rows=4).generate(PROMPTS, PARAMS))
        for name in (None, "bf16", "f16", "int8")
    }
    assert found[None] == found["bf16"]
    logprobs = {str(found[name]) for name in ("bf16", "f16", "int8")}
    assert len(logprobs) == 3


def test_the_same_memory_holds_what_blocks_allow() -> None:
    """Heads of 16 channels: 20 bytes a head and token for 32. Blocks of so small a model are mostly
    what keeps them off 4 KB; of a larger one, int8 takes half (test_cpu_attention.py).
    """
    contexts = {
        name: LLM(MODEL, kv_format=name, memory=60_000, max_rows=64).max_context
        for name in ("bf16", "f16", "int8")
    }
    block = {name: block_bytes(LLM(MODEL, kv_format=name, max_rows=1)) for name in contexts}
    per_token = 2 * 2 * 2 * 32  # layers, k and v, heads, bytes
    assert 16 * per_token <= block["bf16"] == block["f16"]
    assert 16 * per_token * 20 // 32 <= block["int8"] <= block["bf16"]
    for name, context in contexts.items():
        assert context == 60_000 // block[name] * 16
    with pytest.raises(CapacityError, match="hold no KV block"):
        LLM(MODEL, kv_format="int8", memory=block["int8"] - 1)


def test_what_is_not_there_is_refused_before_anything_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(RequestError, match="kv_format: 'q4'; the cpu backend has: bf16, f16, int8"):
        LLM("/nowhere", kv_format="q4")
    with pytest.raises(RequestError, match="'f32'; the cpu backend has: bf16, f16, int8"):
        LLM("/nowhere", kv_format="f32")
    with pytest.raises(RequestError, match="the reference backend has: f32, bf16, f16, int8"):
        LLM("/nowhere", kv_format="fp8", backend="reference")
    for command in (["run", MODEL, "hi"], ["bench", "latency", MODEL]):
        assert main([*command, "--kv-format", "q4"]) == 2
        assert "--kv-format: 'q4'; the cpu backend has" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_command_and_its_record(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "run.jsonl"
    flags = ["--raw", "--max-tokens", "4", "--temperature", "0", "--kv-format", "int8"]
    where = ["--backend", backend, "--context-length", "64", "--record", str(record)]
    assert main(["run", MODEL, "Hello", *flags, *where]) == 0
    answer = capsys.readouterr().out
    header = json.loads(record.read_text().splitlines()[0])
    assert header["kv_format"] == "int8"
    assert main(["replay", str(record)]) == 0
    (direct,) = LLM(MODEL, kv_format="int8", backend=backend, context_length=64).generate(
        ["Hello"], SamplingParams(temperature=0, max_tokens=4)
    )
    assert answer == direct.outputs[0].text + "\n"
