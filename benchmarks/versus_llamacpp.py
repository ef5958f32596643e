"""Ridgeline beside llama.cpp on this machine: prefill, decode, cold start, memory; A/B/A/B.

    versus_llamacpp.py MODEL.gguf --llama-bench BIN --llama-quantize BIN --llama-python PYTHON
                       [--ridgeline-python PYTHON] [--rounds 5] [--threads 2] [--out DIR]

Every round measures each contender once, in a fresh process, so that a disturbance of a shared
machine falls on all; figures are medians over rounds, ratios are medians of each round's ratio.
Contenders: llama.cpp on MODEL, llama.cpp on MODEL requantized to each of --also (a win over a
slow path is no win), and Ridgeline on MODEL.

    prefill    tokens/s of a 512-token prompt, after one warm-up: llama-bench -p 512; latency.py
    decode     tokens/s of 128 tokens after 32: llama-bench -n 128 -d 32; latency.py, which counts
               Ridgeline's scheduling and sampling too
    start      seconds from process start to the first text of a greedy answer, file cache warm:
               llama-cpp-python; `ridgeline run`; both with room for 2,048 tokens
    peak RSS   of that process over the answer's 128 tokens, MB (file pages it touched included)

Writes versus_llamacpp.md and .json to --out. It does not know what else runs on the machine; the
load average before each round is in the JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROMPT = "The capital of France is"
PREFILL_TOKENS, DECODE_TOKENS, DECODE_DEPTH = 512, 128, 32
CONTEXT_TOKENS = 2048
FIGURES = {
    "prefill": "prefill 512, tok/s",
    "decode": "decode 128 at 32, tok/s",
    "start_seconds": "start to first token, s",
    "peak_rss_mb": "peak RSS, MB",
}
LLAMA_PYTHON_PROGRAM = """
import sys
from llama_cpp import Llama
path, prompt = sys.argv[1], sys.argv[2]
threads, count, context = (int(argument) for argument in sys.argv[3:])
model = Llama(path, n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)
for piece in model(prompt, max_tokens=count, temperature=0.0, stream=True):
    print(piece["choices"][0]["text"], end="", flush=True)
"""

Sample = dict[str, float]


@dataclass(frozen=True)
class Contender:
    """A name and one measurement of everything in FIGURES."""

    name: str
    measure: Callable[[], Sample]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


def first_output(command: list[str]) -> Sample:
    """Seconds until a command's first byte on stdout, and its peak resident memory at its end."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.perf_counter() - begin
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not first or process.returncode:
        raise SystemExit(f"no answer (status {process.returncode}): {' '.join(command)}")
    return {"start_seconds": seconds, "peak_rss_mb": usage.ru_maxrss * 1024 / 1e6}


def llama_cpp(model: Path, bench: Path, python: Path, threads: int) -> Sample:
    """One measurement of llama.cpp, through its own benchmark and its Python binding."""
    tests = {
        "prefill": ["-p", str(PREFILL_TOKENS), "-n", "0"],
        "decode": ["-p", "0", "-n", str(DECODE_TOKENS), "-d", str(DECODE_DEPTH)],
    }
    sample = {}
    for figure, test in tests.items():
        options = ["-m", str(model), *test, "-t", str(threads), "-r", "1", "-ngl", "0"]
        report = json.loads(_output([str(bench), *options, "-o", "json"]))
        sample[figure] = report[0]["avg_ts"]
    program = [str(python), "-c", LLAMA_PYTHON_PROGRAM, str(model), PROMPT]
    return sample | first_output([*program, str(threads), str(DECODE_TOKENS), str(CONTEXT_TOKENS)])


def ridgeline(model: Path, python: Path, threads: int) -> Sample:
    """One measurement of Ridgeline, through latency.py and its command line."""
    latency = Path(__file__).with_name("latency.py")
    options = ["--threads", str(threads), "--prefill", str(PREFILL_TOKENS)]
    options += ["--decode", str(DECODE_TOKENS), "--depth", str(DECODE_DEPTH)]
    sample: Sample = json.loads(_output([str(python), str(latency), str(model), *options]))
    command = [str(python), "-m", "ridgeline.cli.main", "run", str(model), PROMPT, "--raw"]
    command += ["--temperature", "0", "--max-tokens", str(DECODE_TOKENS)]
    command += ["--context-length", str(CONTEXT_TOKENS), "--threads", str(threads)]
    return sample | first_output(command)


def requantized(model: Path, quantize: Path, kind: str, folder: Path) -> Path:
    """MODEL in another llama.cpp format, made once."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{model.stem}-{kind.lower()}.gguf"
    if not target.exists():
        _output([str(quantize), "--allow-requantize", str(model), str(target), kind])
    return target


def measure(
    contenders: list[Contender], rounds: int
) -> tuple[dict[str, list[Sample]], list[float]]:
    """`rounds` samples of each contender, interleaved, and the load average before each round.

    One measurement of each comes first and is not counted.
    """
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    loads = []
    for contender in contenders:  # not counted: files come into the cache, roofs are measured
        contender.measure()
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        for contender in contenders:
            sample = contender.measure()
            samples[contender.name].append(sample)
            print(number, contender.name, {k: round(v, 2) for k, v in sample.items()}, flush=True)
    return samples, loads


def summary(samples: dict[str, list[Sample]], ours: str) -> dict[str, dict[str, dict[str, float]]]:
    """Per contender and figure: `median`, `min`, `max`, and `ratio`, ours to theirs."""
    return {
        name: {
            figure: {
                "median": statistics.median(sample[figure] for sample in theirs),
                "min": min(sample[figure] for sample in theirs),
                "max": max(sample[figure] for sample in theirs),
                "ratio": statistics.median(
                    mine[figure] / sample[figure]
                    for mine, sample in zip(samples[ours], theirs, strict=True)
                ),
            }
            for figure in FIGURES
        }
        for name, theirs in samples.items()
    }


def markdown(result: dict[str, dict[str, dict[str, float]]], ours: str) -> str:
    """Medians, and in brackets Ridgeline's ratio to that contender."""
    lines = ["| | " + " | ".join(FIGURES.values()) + " |", "| --- " * (len(FIGURES) + 1) + "|"]
    for name, figures in result.items():
        cells = []
        for figure in FIGURES:
            row = figures[figure]
            digits = 2 if figure == "start_seconds" else 0
            ratio = "" if name == ours else f" ({row['ratio']:.2f})"
            cells.append(f"{row['median']:,.{digits}f}{ratio}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ridgeline beside llama.cpp, interleaved.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-bench", type=Path, required=True)
    parser.add_argument("--llama-python", type=Path, required=True, help="has llama-cpp-python")
    parser.add_argument("--llama-quantize", type=Path, help="for --also")
    parser.add_argument("--also", nargs="*", default=["Q4_0", "Q8_0"], help="llama.cpp's formats")
    parser.add_argument("--ridgeline-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("versus"))
    arguments = parser.parse_args()

    files = {"as it is": arguments.model}
    for kind in arguments.also if arguments.llama_quantize else ():
        files[kind] = requantized(arguments.model, arguments.llama_quantize, kind, arguments.out)
    contenders = [
        Contender(
            f"llama.cpp, {label}",
            lambda file=file: llama_cpp(  # type: ignore[misc]
                file, arguments.llama_bench, arguments.llama_python, arguments.threads
            ),
        )
        for label, file in files.items()
    ]
    ours = "Ridgeline"
    python = arguments.ridgeline_python
    contenders.append(
        Contender(ours, lambda: ridgeline(arguments.model, python, arguments.threads))
    )
    samples, loads = measure(contenders, arguments.rounds)
    result = summary(samples, ours)
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = {
        "model": arguments.model.name,
        "threads": arguments.threads,
        "machine": platform.processor() or platform.machine(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": loads,
        "samples": samples,
        "summary": result,
    }
    (arguments.out / "versus_llamacpp.json").write_text(json.dumps(record, indent=1))
    table = markdown(result, ours)
    (arguments.out / "versus_llamacpp.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
