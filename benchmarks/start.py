"""Start to first token and peak memory of a command line, Ridgeline's beside llama-cpp-python's.

    python benchmarks/start.py MODEL.gguf --llama-python PYTHON [--rounds 5] [--threads 2]

    start      seconds from process start to the first text of a greedy answer, file cache warm:
               `ridgeline run`; llama-cpp-python in a script; both with room for 2,048 tokens
    peak RSS   of that process over the answer's 128 tokens, MB (file pages it touched included)

Every round starts each once; medians, lowest and highest, as a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

PROMPT = "The capital of France is"
OUTPUT_TOKENS, CONTEXT_TOKENS = 128, 2048
LLAMA_PROGRAM = """
import sys
from llama_cpp import Llama
path, prompt = sys.argv[1], sys.argv[2]
threads, count, context = (int(argument) for argument in sys.argv[3:])
model = Llama(path, n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)
for piece in model(prompt, max_tokens=count, temperature=0.0, stream=True):
    print(piece["choices"][0]["text"], end="", flush=True)
"""


def first_output(command: list[str]) -> dict[str, float]:
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


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    model, threads, tokens = arguments.model, str(arguments.threads), str(OUTPUT_TOKENS)
    room = str(CONTEXT_TOKENS)
    ours = [sys.executable, "-m", "ridgeline.cli.main", "run", model, PROMPT, "--raw"]
    ours += ["--temperature", "0", "--max-tokens", tokens]
    ours += ["--context-length", room, "--threads", threads]
    theirs = [arguments.llama_python, "-c", LLAMA_PROGRAM, model, PROMPT, threads, tokens, room]
    return {"ridgeline": ours, "llama-cpp-python": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description="Start to first token, and peak memory.")
    parser.add_argument("model")
    parser.add_argument("--llama-python", required=True, help="has llama-cpp-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.model = str(Path(arguments.model).resolve())
    contenders = commands(arguments)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(arguments.rounds + 1):
        for name, command in contenders.items():
            sample = first_output(command)
            if number:  # the first brings files into the cache
                samples[name].append(sample)
    result = {
        name: {
            figure: [round(f(s[figure] for s in mine), 3) for f in (median, min, max)]
            for figure in ("start_seconds", "peak_rss_mb")
        }
        for name, mine in samples.items()
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
