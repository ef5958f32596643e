"""Speed of linear by weight format and number of rows, beside what the machine can do at most.

    python benchmarks/linear.py [--formats Q4_1 Q8_0 ...] [--rows 1 4 16 512] [--shape 3072 768]
                                [--threads 2] [--isa avx512] [--rounds 31]

As many matrices of the shape are multiplied in turn as fill 96 MB, so that weights come from memory
as they do in a model. Few rows are bound by reading: GB/s of packed bytes, beside the read
bandwidth of the same footprint. Many are bound by arithmetic: GOP/s (a multiply-add is two), beside
multiplying in registers. Roofs and samples take turns; the figure is the median of the rounds and
the percentage that of its own roof. Random weights; other load on the machine shows as it is.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np

from ridgeline.backends.cpu import _native
from ridgeline.model.formats import FORMATS, quantize

FOOTPRINT_BYTES = 96_000_000
READ_BOUND_ROWS = 8
OPERATIONS_A_ROUND = 1e10


def matrices(name: str, n: int, k: int, isa: str) -> list[_native.PackedMatrix]:
    values = np.random.default_rng(0).standard_normal((n, k)).astype(np.float32)
    raw = quantize(values, name)
    first = _native.pack_matrix(name, raw, n, k, isa)
    count = max(1, FOOTPRINT_BYTES // first.num_bytes)
    return [first, *(_native.pack_matrix(name, raw, n, k, isa) for _ in range(count - 1))]


def measured(
    packed: list[_native.PackedMatrix], m: int, n: int, k: int, isa: str, threads: int, rounds: int
) -> str:
    x = np.random.default_rng(1).standard_normal((m, k)).astype(np.float32)
    kind = packed[0].activation_kind
    rows = _native.quantize_rows(x, kind, isa)
    y = np.empty((m, n), np.float32)
    operations = 2.0 * m * n * k
    used = packed[: max(1, min(len(packed), int(OPERATIONS_A_ROUND / operations)))]
    num_bytes = sum(each.num_bytes for each in used)
    _native.time_linear(used, rows, y, threads, 1)
    rates, roofs = [], []
    for _ in range(rounds):
        seconds = _native.time_linear(used, rows, y, threads, 1)[0]
        if m <= READ_BOUND_ROWS:
            rates.append(num_bytes / seconds / 1e9)
            roofs.append(_native.measure_read_bandwidth(FOOTPRINT_BYTES, threads, 1)[0][0])
        else:
            rates.append(operations * len(used) / seconds / 1e9)
            roofs += _native.measure_arithmetic(kind, isa, threads, 1)
    unit = "GB/s" if m <= READ_BOUND_ROWS else "GOP/s"
    share = 100 * median(rates) / median(roofs)
    return f"{median(rates):9.1f} {unit:5} {share:4.0f}% of {median(roofs):7.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of linear beside the machine's roofs.")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 16, 512])
    parser.add_argument("--shape", nargs=2, type=int, default=[3072, 768], metavar=("N", "K"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", default=_native.best_isa())
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    n, k = arguments.shape
    for name in arguments.formats:
        packed = matrices(name, n, k, arguments.isa)
        for m in arguments.rows:
            line = measured(packed, m, n, k, arguments.isa, arguments.threads, arguments.rounds)
            print(f"{name:7} M={m:<4} {line}", flush=True)


if __name__ == "__main__":
    main()
