"""Benchmark results of others' tools as measurements: `vllm bench serve` and SGLang's, GenAI-Perf
and AIPerf, llama-bench, `ridgeline bench latency`, and rows of one's own.

Each reader takes parsed JSON and knows a format by the fields that only it has. Files are from
outside: what is missing, of the wrong kind or absurd is a RidgelineError with the file and field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgeline.errors import RidgelineError

MOST_BYTES = 256 * 1024 * 1024
MOST = 1e15  # of any number: nanoseconds of a long run
MOST_AT_ONCE, MOST_TOKENS = 1e6, float(1 << 24)
LEAST_SECONDS, MOST_SECONDS = 1e-5, 1e5
# Tokens of an answer, where steps at a context were timed and not answers.
STEPS = 64.0
MILLISECONDS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True)
class Result:
    """One run. tokens are means of a request; seconds are means, or medians where that is all there
    is; None: not measured.
    """

    tool: str
    concurrency: float
    input_tokens: float
    output_tokens: float
    tpot: float | None
    ttft: float | None


def read_results(path: Path) -> tuple[Result, ...]:
    """All runs of a JSON file, or of one with a JSON object a line."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RidgelineError(f"{path}: larger than any benchmark's result")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RidgelineError(f"{path}: is no text (UTF-8), so not JSON") from error
    except OSError as error:
        raise RidgelineError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        try:
            parsed = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise RidgelineError(f"{path}: not JSON: {error}") from error
    runs = parsed if isinstance(parsed, list) else [parsed]
    if len(runs) == 1 and isinstance(runs[0], dict) and isinstance(runs[0].get("rows"), list):
        runs = runs[0]["rows"]
    found = []
    for index, run in enumerate(runs):
        where = f"{path}" if len(runs) == 1 else f"{path}: run {index}"
        if not isinstance(run, dict):
            raise RidgelineError(f"{where}: an object is needed, not {type(run).__name__}")
        found.append(_result(run, where))
    if not found:
        raise RidgelineError(f"{path}: has no runs")
    return tuple(found)


def _result(run: Mapping[str, Any], where: str) -> Result:
    for field, read in READERS.items():
        if field in run:
            return _plausible(read(run, where), where)
    raise RidgelineError(
        f"{where}: of no format that is known here: one of {', '.join(READERS)} is needed"
    )


def _of_vllm(run: Mapping[str, Any], where: str) -> Result:
    """`vllm bench serve --save-result`, and sglang.bench_serving."""
    completed = _number(run, "completed", where, least=1)
    concurrency = run.get("max_concurrency")
    if concurrency is None:
        # Without a limit, Little's law: rate times the time that a request took.
        e2e = _number(
            run, "mean_e2el_ms" if "mean_e2el_ms" in run else "mean_e2e_latency_ms", where
        )
        concurrency = _number(run, "request_throughput", where) * e2e * 1e-3
    return Result(
        "vllm bench serve",
        _checked(concurrency, "max_concurrency", where, least=0.1),
        _number(run, "total_input_tokens", where) / completed,
        _number(run, "total_output_tokens", where) / completed,
        _milliseconds(run, ("mean_tpot_ms", "median_tpot_ms"), where),
        _milliseconds(run, ("mean_ttft_ms", "median_ttft_ms"), where),
    )


def _of_genai_perf(run: Mapping[str, Any], where: str) -> Result:
    """profile_export_genai_perf.json, profile_export_aiperf.json."""
    config = run.get("input_config")
    concurrency = _concurrency_in(config if isinstance(config, dict) else {})
    if concurrency is None:
        raise RidgelineError(f"{where}: input_config: states no concurrency")
    return Result(
        "GenAI-Perf",
        _checked(concurrency, "concurrency", where, least=1),
        _mean(run, "input_sequence_length", where),
        _mean(run, "output_sequence_length", where),
        _mean_seconds(run, "inter_token_latency", where),
        _mean_seconds(run, "time_to_first_token", where),
    )


def _concurrency_in(config: Mapping[str, Any]) -> object:
    """Where the versions keep it: at the top, under loadgen, or under perf_analyzer's stimulus."""
    for path in (
        ("concurrency",),
        ("loadgen", "concurrency"),
        ("perf_analyzer", "stimulus", "concurrency"),
        ("stimulus", "concurrency"),
    ):
        at: object = config
        for name in path:
            at = at.get(name) if isinstance(at, dict) else None
        if at is not None:
            return at
    return None


def _of_llama_bench(run: Mapping[str, Any], where: str) -> Result:
    """`llama-bench -o json`: a prompt, or tokens after each other, of one sequence."""
    prompt, answer = _number(run, "n_prompt", where), _number(run, "n_gen", where)
    depth = _checked(run.get("n_depth", 0), "n_depth", where)
    seconds = 1e-9 * _number(run, "avg_ns", where, least=1)
    if prompt and answer:
        raise RidgelineError(f"{where}: prompt and answer in one time; run them apart (-p, -n)")
    if answer:
        return Result("llama-bench", 1.0, max(1.0, depth), answer, seconds / answer, None)
    if not prompt:
        raise RidgelineError(f"{where}: n_prompt and n_gen are both 0")
    return Result("llama-bench", 1.0, prompt, 1.0, None, seconds)


def _of_ours(run: Mapping[str, Any], where: str) -> Result:
    """{"concurrency", "input_tokens", "output_tokens", "tpot_ms" and/or "ttft_ms"}."""
    return Result(
        "rows",
        _number(run, "concurrency", where, least=1),
        _number(run, "input_tokens", where, least=1),
        _number(run, "output_tokens", where, least=1),
        _milliseconds(run, ("tpot_ms",), where),
        _milliseconds(run, ("ttft_ms",), where),
    )


def _of_bench_latency(run: Mapping[str, Any], where: str) -> Result:
    """A record of `ridgeline bench latency --json`: a prompt, or steps of so many rows."""
    speed = run.get("tokens_per_s")
    if not isinstance(speed, dict):
        raise RidgelineError(f"{where}: tokens_per_s: an object with median is needed")
    rate = _checked(speed.get("median"), "tokens_per_s.median", where, least=1e-6)
    rows, context = (_number(run, field, where, least=1) for field in ("batch", "context"))
    if run["phase"] == "prefill":
        return Result("ridgeline bench latency", rows, context, 1.0, None, rows * context / rate)
    return Result("ridgeline bench latency", rows, context, STEPS, rows / rate, None)


# By a field that no other format has.
READERS: dict[str, Callable[[Mapping[str, Any], str], Result]] = {
    "total_input_tokens": _of_vllm,
    "inter_token_latency": _of_genai_perf,
    "n_gen": _of_llama_bench,
    "tokens_per_s": _of_bench_latency,
    "input_tokens": _of_ours,
}


def _number(run: Mapping[str, Any], field: str, where: str, least: float = 0.0) -> float:
    return _checked(run.get(field), field, where, least)


def _checked(value: object, field: str, where: str, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RidgelineError(f"{where}: {field} = {value!r}: a number is needed")
    if not least <= value <= MOST:  # neither is a number of no number
        raise RidgelineError(f"{where}: {field} = {value:.6g}: from {least:g} to {MOST:g}")
    return float(value)


def _plausible(run: Result, where: str) -> Result:
    """Raises for what no server can have done: most often a field in another unit."""
    for what, value, least, most in (
        ("a concurrency", run.concurrency, 0.0, MOST_AT_ONCE),
        ("tokens of a prompt", run.input_tokens, 1.0, MOST_TOKENS),
        ("tokens of an answer", run.output_tokens, 1.0, MOST_TOKENS),
        ("seconds a token", run.tpot, LEAST_SECONDS, MOST_SECONDS),
        ("seconds to the first token", run.ttft, LEAST_SECONDS, MOST_SECONDS),
    ):
        if value is not None and not least <= value <= most:
            raise RidgelineError(
                f"{where}: {value:.6g} {what}, where {least:g} to {most:g} can be: is the unit "
                "right?"
            )
    return run


def _milliseconds(run: Mapping[str, Any], fields: tuple[str, ...], where: str) -> float | None:
    for field in fields:
        if run.get(field) is not None:
            value = 1e-3 * _checked(run[field], field, where)
            return value if value > 0 else None
    return None


def _mean(run: Mapping[str, Any], field: str, where: str) -> float:
    metric = run.get(field)
    if not isinstance(metric, dict):
        raise RidgelineError(f"{where}: {field}: an object with avg is needed")
    return _checked(metric.get("avg"), f"{field}.avg", where)


def _mean_seconds(run: Mapping[str, Any], field: str, where: str) -> float | None:
    if field not in run:
        return None
    value = _mean(run, field, where)
    unit = run[field].get("unit", "ms")
    if unit not in MILLISECONDS:
        raise RidgelineError(f"{where}: {field}.unit = {unit!r}: {', '.join(MILLISECONDS)}")
    return value * MILLISECONDS[unit] or None
