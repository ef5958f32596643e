"""How far an engine's next-token distribution is from the float32 one, on real text.

Steps, each by whichever Python has the engine; all stage their files under one directory a model:

    kl.py tokens  DIR --model M.gguf --corpus corpus.json     (llama-cpp-python)
    kl.py logits  DIR --engine transformers                   (torch, transformers, gguf)
    kl.py logits  DIR --engine llamacpp                       (llama-cpp-python)
    kl.py logits  DIR --engine ridgeline                      (ridgeline)
    kl.py compare DIR                                         (numpy)

The reference is transformers in float32 on the GGUF's weights, dequantized by the gguf package.
Each window of text is a document's first tokens, alone in its context, with a beginning-of-sequence
token where the file asks for one. `compare` gives, over every position of every window:

    KL          mean of KL(reference || engine) in nats, and its 99th percentile
    top-1       share of positions where the most likely token is the reference's
    perplexity  exp of the mean negative log-probability of the text's own next token

Logits are staged as float32 [tokens, vocab], one file a window: a window of 640 tokens is 126 MB
for a vocabulary of 49,152 and 671 MB for one of 262,144.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Windows = list[list[int]]

ROWS_AT_A_TIME = 32
GGML_TYPE_F32 = 0
STEP = 64


def write_tokens(folder: Path, model: Path, corpus: Path, count: int) -> None:
    """Token ids of each document's first `count` tokens, by llama.cpp's tokenizer."""
    from llama_cpp import Llama

    vocabulary = Llama(str(model), vocab_only=True, verbose=False)
    add_bos = vocabulary.metadata.get("tokenizer.ggml.add_bos_token") == "true"
    windows = []
    for document in json.loads(corpus.read_text(encoding="utf-8")):
        text = document["text"].encode()
        ids = vocabulary.tokenize(text, add_bos=add_bos, special=False)[:count]
        if len(ids) < count:
            raise SystemExit(f"{document['source']} has only {len(ids)} tokens of {count}")
        windows.append({"source": document["source"], "token_ids": ids})
    folder.mkdir(parents=True, exist_ok=True)
    staged = {"model": str(model), "windows": windows}
    (folder / "tokens.json").write_text(json.dumps(staged))
    print(f"{len(windows)} windows of {count} tokens")


def transformers_logits(model: Path, windows: Windows, threads: int) -> Iterator[F32]:
    """float32 logits of transformers on the dequantized weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    network = AutoModelForCausalLM.from_pretrained(
        model.parent, gguf_file=model.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for ids in windows:
        with torch.inference_mode():
            logits: F32 = network(torch.tensor([ids])).logits[0].numpy()
        yield logits


def llamacpp_logits(model: Path, windows: Windows, threads: int, **options: Any) -> Iterator[F32]:
    """llama.cpp's logits; without `options` as it comes (16-bit keys and values)."""
    from llama_cpp import Llama

    engine = Llama(
        str(model),
        n_ctx=max(map(len, windows)),
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        verbose=False,
        **options,
    )
    for ids in windows:
        engine.reset()
        engine.eval(ids)
        yield engine.scores[: len(ids)]


def llamacpp_f32_cache_logits(model: Path, windows: Windows, threads: int) -> Iterator[F32]:
    """llama.cpp with float32 keys and values: what is left is its weight kernels' doing."""
    return llamacpp_logits(
        model, windows, threads, type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32, flash_attn=False
    )


def ridgeline_logits(
    model: Path,
    windows: Windows,
    threads: int,
    backend: str = "cpu",
    kv_format: str | None = None,
) -> Iterator[F32]:
    """Ridgeline's logits, a window in steps of 64 tokens (steps of any size give the same bits)."""
    from ridgeline.assemble import Options, assemble
    from ridgeline.config import read_settings
    from ridgeline.step import PlanRow, RowSampling, StepPlan

    options = Options(
        backend=backend,
        context_length=max(map(len, windows)),
        max_rows=STEP,
        threads=threads,
        kv_format=kv_format,
    )
    executor = assemble(str(model), read_settings(), options).executor
    for ids in windows:
        executor.open_row(0, ids, RowSampling())
        parts, blocks = [], 0
        for start in range(0, len(ids), STEP):
            end = min(start + STEP, len(ids))
            needed = -(-end // executor.block_tokens)
            # An entry has a block of each group of layers.
            columns = sum(group.blocks for group in executor.groups)
            new_blocks = tuple(range(blocks * columns, needed * columns))
            row = PlanRow(0, end - start, start, end - start, new_blocks)
            parts.append(executor.forward(StepPlan((row,))).copy())
            blocks = needed
        executor.close_row(0)
        yield np.concatenate(parts)


def ridgeline_f16_cache_logits(model: Path, windows: Windows, threads: int) -> Iterator[F32]:
    return ridgeline_logits(model, windows, threads, kv_format="f16")


def ridgeline_int8_cache_logits(model: Path, windows: Windows, threads: int) -> Iterator[F32]:
    return ridgeline_logits(model, windows, threads, kv_format="int8")


def ridgeline_reference_logits(model: Path, windows: Windows, threads: int) -> Iterator[F32]:
    """The logits of Ridgeline's definition of every operator (NumPy, slow)."""
    return ridgeline_logits(model, windows, threads, backend="reference")


ENGINES: dict[str, Callable[[Path, Windows, int], Iterator[F32]]] = {
    "transformers": transformers_logits,
    "llamacpp": llamacpp_logits,
    "llamacpp-f32-cache": llamacpp_f32_cache_logits,
    "ridgeline": ridgeline_logits,
    "ridgeline-f16-cache": ridgeline_f16_cache_logits,
    "ridgeline-int8-cache": ridgeline_int8_cache_logits,
    "ridgeline-reference": ridgeline_reference_logits,
}


def write_logits(folder: Path, engine: str, threads: int, count: int | None) -> None:
    """Stage one engine's logits of every window, or of the first `count`, under folder/engine."""
    staged = json.loads((folder / "tokens.json").read_text())
    windows = [window["token_ids"] for window in staged["windows"][:count]]
    target = folder / engine
    target.mkdir(exist_ok=True)
    start = time.perf_counter()
    for number, logits in enumerate(ENGINES[engine](Path(staged["model"]), windows, threads)):
        np.save(target / f"{number:02}.npy", np.asarray(logits, np.float32))
        print(f"{engine} window {number}: {time.perf_counter() - start:.1f} s", flush=True)


def log_probabilities(logits: F32) -> F64:
    """log softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def window_figures(reference: F32, logits: F32, ids: list[int]) -> dict[str, F64]:
    """Per position: `kl` (nats), `agree` (0 or 1); per position but the last: `nll` (nats)."""
    kl, agree, nll = [], [], []
    for start in range(0, len(ids), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        wanted, got = log_probabilities(reference[rows]), log_probabilities(logits[rows])
        kl.append((np.exp(wanted) * (wanted - got)).sum(axis=-1))
        agree.append(wanted.argmax(axis=-1) == got.argmax(axis=-1))
        following = np.array(ids[start + 1 : start + 1 + ROWS_AT_A_TIME])
        nll.append(-got[np.arange(len(following)), following])
    return {
        "kl": np.concatenate(kl),
        "agree": np.concatenate(agree).astype(np.float64),
        "nll": np.concatenate(nll),
    }


def compare(folder: Path, reference: str) -> dict[str, dict[str, float]]:
    """Figures of every staged engine, `reference` first (against itself: its perplexity)."""
    staged = json.loads((folder / "tokens.json").read_text())
    engines = sorted(path.name for path in folder.iterdir() if path.is_dir())
    engines.remove(reference)
    results = {}
    for engine in (reference, *engines):
        parts = []
        there = sorted((folder / engine).glob("*.npy"))
        for number, window in enumerate(staged["windows"][: len(there)]):
            wanted, got = (
                np.load(folder / name / f"{number:02}.npy", mmap_mode="r")
                for name in (reference, engine)
            )
            parts.append(window_figures(wanted, got, window["token_ids"]))
        kl, agree, nll = (np.concatenate([p[key] for p in parts]) for key in parts[0])
        results[engine] = {
            "tokens": len(kl),
            "kl_mean": float(kl.mean()),
            "kl_p99": float(np.quantile(kl, 0.99)),
            "top1": float(agree.mean()),
            "perplexity": float(np.exp(nll.mean())),
        }
    return results


def markdown(title: str, results: dict[str, dict[str, float]]) -> str:
    """The comparison as a table."""
    lines = [
        f"| {title} | tokens | KL, mean (nats) | KL, p99 | top-1 agreement | perplexity |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for engine, row in results.items():
        lines.append(
            f"| {engine} | {row['tokens']:,.0f} | {row['kl_mean']:.3e} | {row['kl_p99']:.3e} "
            f"| {100 * row['top1']:.2f} % | {row['perplexity']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="KL, top-1 agreement and perplexity.")
    parser.add_argument("step", choices=("tokens", "logits", "compare"))
    parser.add_argument("folder", type=Path, help="where this model's files are staged")
    parser.add_argument("--model", type=Path, help="the GGUF file (tokens)")
    parser.add_argument("--corpus", type=Path, help="corpus.py's output (tokens)")
    parser.add_argument("--count", type=int, default=640, help="tokens a window (tokens)")
    parser.add_argument("--engine", choices=ENGINES, help="whose logits (logits)")
    parser.add_argument("--windows", type=int, help="only the first of them (logits)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", default="transformers", help="engine to compare with")
    arguments = parser.parse_args()
    match arguments.step:
        case "tokens":
            if arguments.model is None or arguments.corpus is None:
                parser.error("tokens needs --model and --corpus")
            model = arguments.model.resolve()
            write_tokens(arguments.folder, model, arguments.corpus, arguments.count)
        case "logits":
            if arguments.engine is None:
                parser.error("logits needs --engine")
            write_logits(arguments.folder, arguments.engine, arguments.threads, arguments.windows)
        case _:
            results = compare(arguments.folder, arguments.reference)
            (arguments.folder / "figures.json").write_text(json.dumps(results, indent=1))
            print(markdown(arguments.folder.name, results))


if __name__ == "__main__":
    main()
