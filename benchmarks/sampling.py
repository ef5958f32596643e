"""What each sampler costs a row: microseconds of one core, native, by vocabulary.

python benchmarks/sampling.py [--isa avx512] [--vocab 49152 151936]

The logits are those of a model in kind: normal, with a few tokens far above. A history of 1,000
tokens that repeats itself is before the draw. Each figure is the median of five runs of so many
draws that a run takes some milliseconds; the loop around them is native.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.executor import choose_isa, native_sampling
from ridgeline.step import RowSampling

SAMPLERS: dict[str, RowSampling] = {
    "greedy": RowSampling(),
    "temperature 0.8": RowSampling(temperature=0.8),
    "top_k 40": RowSampling(temperature=0.8, top_k=40),
    "top_p 0.95": RowSampling(temperature=0.8, top_p=0.95),
    "top_k 40, top_p 0.95": RowSampling(temperature=0.8, top_k=40, top_p=0.95),
    "top_p 0.95, temperature 2": RowSampling(temperature=2.0, top_p=0.95),
    "min_p 0.05": RowSampling(temperature=0.8, min_p=0.05),
    "typical_p 0.9": RowSampling(temperature=0.8, typical_p=0.9),
    "top_n_sigma 1": RowSampling(temperature=0.8, top_n_sigma=1.0),
    "xtc, always": RowSampling(temperature=0.8, xtc_probability=1.0, xtc_threshold=0.05),
    "dynatemp_range 0.5": RowSampling(temperature=0.8, dynatemp_range=0.5),
    "mirostat 2": RowSampling(temperature=0.8, mirostat_tau=5.0, mirostat_mu=8.0),
    "repetition_penalty, greedy": RowSampling(repetition_penalty=1.1),
    "frequency and presence, greedy": RowSampling(frequency_penalty=0.5, presence_penalty=0.5),
    "dry, greedy": RowSampling(dry_multiplier=0.8),
    "no_repeat_ngram 3, greedy": RowSampling(no_repeat_ngram=3),
    "allowed 100 tokens, greedy": RowSampling(allowed_ids=tuple(range(100))),
}
DRAWS, RUNS = 200, 5


def microseconds(isa: str, how: RowSampling, vocab: int) -> float:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, vocab).astype(np.float32)
    logits[rng.integers(0, vocab, 20)] += rng.uniform(6, 14, 20).astype(np.float32)
    history = np.tile(rng.integers(0, vocab, 100), 10).astype(np.int32)
    seeds = np.arange(DRAWS, dtype=np.uint64)
    sampling = native_sampling(how)
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        _native.draw(isa, sampling, logits, history, seeds)
        times.append((time.perf_counter() - start) / DRAWS * 1e6)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default=choose_isa(None))
    parser.add_argument("--vocab", type=int, nargs="+", default=[49_152, 151_936])
    chosen = parser.parse_args()
    print(f"{chosen.isa}, microseconds a token".ljust(34), *(f"{v:>9,}" for v in chosen.vocab))
    for name, how in SAMPLERS.items():
        costs = [microseconds(chosen.isa, how, vocab) for vocab in chosen.vocab]
        print(name.ljust(34), *(f"{cost:9.1f}" for cost in costs))


if __name__ == "__main__":
    main()
