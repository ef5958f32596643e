"""A mixture of experts beside llama.cpp: random weights of Qwen3-30B-A3B's shapes, cut to 8 layers.

    python benchmarks/mixture.py write qwen3-moe-8.gguf [--layers 8]
    python benchmarks/mixture.py compare qwen3-moe-8.gguf --llama-bench PATH [--threads 2]
        [--rounds 3] [--prompt 512] [--output 64]

`write` needs the gguf package and makes a file of Q4_0 matrices (norms and routers float32) in
about a minute: blocks are random bytes, so that no two experts are alike and every token goes where
its router says. `compare` runs `ridgeline bench latency` and llama-bench by turns on the same file
and prints a line of JSON: tokens per second of both, medians and samples, and Ridgeline's decode
beside the bytes that a step must move (of the experts, those that its tokens are routed to) at the
bandwidth that was measured right before it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

VOCAB, WIDTH, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, TOP_K, HIDDEN = (
    151936,
    2048,
    32,
    4,
    128,
    128,
    8,
    768,
)
Q4_0_BLOCK, Q4_0_BYTES = 32, 18
POOL_BLOCKS = 1 << 22


def random_blocks(generator: np.random.Generator, pool: Any, count: int) -> Any:
    """`count` Q4_0 blocks from anywhere in the pool."""
    out = np.empty((count, Q4_0_BYTES), np.uint8)
    for start in range(0, count, POOL_BLOCKS // 2):
        size = min(POOL_BLOCKS // 2, count - start)
        first = int(generator.integers(0, POOL_BLOCKS - size + 1))
        out[start : start + size] = pool[first : first + size]
    return out


def write(path: Path, layers: int) -> None:
    import gguf

    generator = np.random.default_rng(30)
    pool = generator.integers(0, 256, (POOL_BLOCKS, Q4_0_BYTES), np.uint8)
    # Codes are -8..7, of mean square 21.5: matrices keep the size of what they multiply.
    pool[:, :2] = np.array([1 / (4.64 * WIDTH**0.5)], np.float16).view(np.uint8)
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_name("random mixture")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(6144)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_vocab_size(VOCAB)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(TOP_K)
    writer.add_expert_feed_forward_length(HIDDEN)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    spelled = [chr(byte if byte in printable else next(spare)) for byte in range(256)]
    tokens = spelled + ["he"] + [f"<{i}>" for i in range(257, VOCAB)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * (VOCAB - 1) + [3])
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(VOCAB - 1)
    writer.add_add_bos_token(False)

    def matrix(name: str, *shape: int) -> None:
        blocks = random_blocks(generator, pool, int(np.prod(shape)) // Q4_0_BLOCK)
        raw = blocks.reshape(*shape[:-1], shape[-1] // Q4_0_BLOCK * Q4_0_BYTES)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def floats(name: str, array: Any) -> None:
        writer.add_tensor(name, array.astype(np.float32))

    matrix("token_embd.weight", VOCAB, WIDTH)
    matrix("output.weight", VOCAB, WIDTH)
    floats("output_norm.weight", np.ones(WIDTH))
    for i in range(layers):
        matrix(f"blk.{i}.attn_q.weight", HEADS * HEAD_DIM, WIDTH)
        matrix(f"blk.{i}.attn_k.weight", KV_HEADS * HEAD_DIM, WIDTH)
        matrix(f"blk.{i}.attn_v.weight", KV_HEADS * HEAD_DIM, WIDTH)
        matrix(f"blk.{i}.attn_output.weight", WIDTH, HEADS * HEAD_DIM)
        floats(f"blk.{i}.attn_norm.weight", np.ones(WIDTH))
        floats(f"blk.{i}.ffn_norm.weight", np.ones(WIDTH))
        floats(f"blk.{i}.attn_q_norm.weight", np.ones(HEAD_DIM))
        floats(f"blk.{i}.attn_k_norm.weight", np.ones(HEAD_DIM))
        router = generator.standard_normal((EXPERTS, WIDTH)) / WIDTH**0.5
        floats(f"blk.{i}.ffn_gate_inp.weight", router)
        matrix(f"blk.{i}.ffn_gate_exps.weight", EXPERTS, HIDDEN, WIDTH)
        matrix(f"blk.{i}.ffn_up_exps.weight", EXPERTS, HIDDEN, WIDTH)
        matrix(f"blk.{i}.ffn_down_exps.weight", EXPERTS, WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ours(path: Path, threads: int, prompt: int, output: int) -> list[dict[str, Any]]:
    """The records of `ridgeline bench latency`."""
    command = Path(sys.executable).parent / "ridgeline"
    done = subprocess.run(
        [
            *(str(command), "bench", "latency", str(path), "--threads", str(threads)),
            *("--prompt", str(prompt), "--context", "32", "--output", str(output)),
            *("--repeat", "3", "--json", "-"),
        ],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "RIDGELINE_KEEP_PACKED": "0"},
    )
    records: list[dict[str, Any]] = json.loads(done.stdout)
    return records


def theirs(bench: Path, path: Path, threads: int, prompt: int, output: int) -> dict[str, float]:
    """llama-bench's tokens per second of a prompt and of a decode."""
    done = subprocess.run(
        [
            *(str(bench), "-m", str(path), "-t", str(threads), "-p", str(prompt)),
            *("-n", str(output), "-r", "3", "-o", "json"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return {
        "decode" if test["n_gen"] else "prefill": float(test["avg_ts"])
        for test in json.loads(done.stdout)
    }


def compare(arguments: argparse.Namespace) -> None:
    found: dict[str, dict[str, list[float]]] = {
        case: {"ridgeline": [], "llama.cpp": []} for case in ("prefill", "decode")
    }
    utilization: list[float] = []
    for _ in range(arguments.rounds):
        sizes = (arguments.threads, arguments.prompt, arguments.output)
        for record in ours(arguments.model, *sizes):
            found[record["phase"]]["ridgeline"].append(record["tokens_per_s"]["median"])
            if record["phase"] == "decode":
                utilization.append(record["mbu"])
        for case, rate in theirs(arguments.llama_bench, arguments.model, *sizes).items():
            found[case]["llama.cpp"].append(rate)
    medians = {case: {who: median(all_) for who, all_ in of.items()} for case, of in found.items()}
    ratios = {case: of["ridgeline"] / of["llama.cpp"] for case, of in medians.items()}
    line = {"median": medians, "ratio": ratios, "decode_mbu": utilization, "samples": found}
    print(json.dumps(line))


def main() -> None:
    parser = argparse.ArgumentParser(description="A mixture of experts beside llama.cpp.")
    actions = parser.add_subparsers(dest="action", required=True)
    writes = actions.add_parser("write")
    writes.add_argument("model", type=Path)
    writes.add_argument("--layers", type=int, default=8)
    compares = actions.add_parser("compare")
    compares.add_argument("model", type=Path)
    compares.add_argument("--llama-bench", type=Path, required=True)
    compares.add_argument("--threads", type=int, default=2)
    compares.add_argument("--rounds", type=int, default=3)
    compares.add_argument("--prompt", type=int, default=512)
    compares.add_argument("--output", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.action == "write":
        write(arguments.model, arguments.layers)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
