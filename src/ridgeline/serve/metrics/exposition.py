"""Metrics as Prometheus reads them: `ridgeline:NAME`, and `vllm:NAME` for those that vLLM has.

Dashboards made for vLLM find what they know; the two are one number. The engine's book is read
where it lies: nothing waits for a step, and no step for a scrape. The only label is the model's
name, and the reason where a count has reasons.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from ridgeline.engine.book import Book, Histogram
from ridgeline.serve.core.core import Core

# Those that vLLM has no series of this meaning for: they are ours alone.
OWN = frozenset(
    {
        "step_seconds",
        "answers_open",
        "predicted_ttft_seconds",
        "uptime_seconds",
        "ready",
        "forced_tokens",
        "prompt_tokens_computed",
        "steps",
        "failed_steps",
        "step_time_seconds",
        "requests_refused",
        "pooled_requests",
    }
)

# Name, what it is, and of which histogram of the book.
HISTOGRAMS: dict[str, tuple[str, str]] = {
    "time_to_first_token_seconds": (
        "Seconds from a request's arrival to its first token, of each answer.",
        "ttft",
    ),
    "inter_token_latency_seconds": (
        "Seconds between two tokens of an answer, as steps end; of each token but the first.",
        "itl",
    ),
    "request_time_per_output_token_seconds": (
        "Of each answer, (last token - first token) / (tokens - 1), in seconds.",
        "tpot",
    ),
    "e2e_request_latency_seconds": ("Seconds from arrival to the end, of each answer.", "e2e"),
    "request_queue_time_seconds": (
        "Seconds from when the engine had a request to the first step with a row for it.",
        "queue",
    ),
    "request_prefill_time_seconds": (
        "Seconds from a request's first step to its first token.",
        "prefill",
    ),
    "request_decode_time_seconds": ("Seconds from a request's first token to its end.", "decode"),
    "step_seconds": ("Seconds that a step ran in the executor.", "step"),
    "iteration_tokens_total": ("New tokens of a step, of prompts and answers.", "step_tokens"),
    "request_prompt_tokens": ("Tokens of a request's prompt.", "prompt_lengths"),
    "request_generation_tokens": ("Tokens of an answer.", "answer_lengths"),
}
GAUGES: dict[str, str] = {
    "num_requests_running": "Requests that have a row, between two steps; texts being read.",
    "num_requests_waiting": "Requests in the engine's queue, between two steps; texts behind.",
    "kv_cache_usage_perc": "Blocks of the KV cache in use, as a share from 0 to 1.",
    "answers_open": "Requests that the server has let in and not finished.",
    "predicted_ttft_seconds": "What a newcomer would wait for a first token, by the cost model.",
    "uptime_seconds": "Seconds since the server began.",
    "ready": "1 if /readyz says so, else 0.",
}
COUNTERS: dict[str, str] = {
    "prompt_tokens": "Tokens of prompts whose first step has come, cached ones included.",
    "generation_tokens": "Tokens of answers.",
    "forced_tokens": "Of those, tokens that a grammar forced: no step was run for them alone.",
    "prompt_tokens_computed": "Tokens of prompts that steps computed, again ones included.",
    "prefix_cache_queries": "Tokens of prompts that the prefix cache was asked for.",
    "prefix_cache_hits": "Of those, tokens that it had.",
    "num_preemptions": "Times that a running request gave its memory back to others.",
    "steps": "Steps that ran.",
    "failed_steps": "Steps that failed as a whole; what they computed was computed again.",
    "step_time_seconds": "Seconds that steps ran in the executor, all together.",
}
LABELLED: dict[str, tuple[str, str]] = {
    "request_success": ("Answers that ended, by why.", "finished_reason"),
    "requests_refused": ("Requests that were not let in, by why.", "reason"),
    "pooled_requests": (
        "Requests for vectors, ranks, scores or classes that were answered.",
        "kind",
    ),
}


def names() -> Iterator[str]:
    """Of all series, as dashboards write them, without what a histogram adds."""
    for name in (*HISTOGRAMS, *GAUGES):
        yield from _aliases(name)
    for name in (*COUNTERS, *LABELLED):
        yield from (f"{alias}_total" for alias in _aliases(name))


def _aliases(name: str) -> tuple[str, ...]:
    return (f"ridgeline:{name}",) if name in OWN else (f"ridgeline:{name}", f"vllm:{name}")


class EngineCollector(Collector):
    """Reads a server's book at each scrape. ready: what /readyz would say."""

    def __init__(self, core: Core, ready: bool) -> None:
        self._core = core
        self._ready = ready

    def collect(self) -> Iterable[Metric]:
        core, model = self._core, self._core.model
        book = core.engine.book
        for name, (text, which) in HISTOGRAMS.items():
            histogram: Histogram = getattr(book, which)
            for alias in _aliases(name):
                made = HistogramMetricFamily(alias, text, labels=["model_name"])
                made.add_metric([model], *_cumulative(histogram))
                yield made
        gauges = _gauges(core, self._ready)
        for name, text in GAUGES.items():
            for alias in _aliases(name):
                gauge = GaugeMetricFamily(alias, text, labels=["model_name"])
                gauge.add_metric([model], gauges[name])
                yield gauge
        counts = _counts(core, book)
        for name, text in COUNTERS.items():
            for alias in _aliases(name):
                counter = CounterMetricFamily(alias, text, labels=["model_name"])
                counter.add_metric([model], counts[name])
                yield counter
        labelled = {
            "request_success": book.ended,
            "requests_refused": core.door.refused,
            "pooled_requests": core.pooled,
        }
        for name, (text, label) in LABELLED.items():
            for alias in _aliases(name):
                counter = CounterMetricFamily(alias, text, labels=["model_name", label])
                for reason, count in sorted(labelled[name].items()):
                    counter.add_metric([model, reason], count)
                yield counter


def exposition(core: Core, ready: bool) -> bytes:
    """All metrics, in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(EngineCollector(core, ready))
    return generate_latest(registry)


def _cumulative(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    buckets, seen = [], 0
    for bound, count in zip((*histogram.bounds, math.inf), list(histogram.counts), strict=True):
        seen += count
        buckets.append(("+Inf" if bound == math.inf else repr(float(bound)), float(seen)))
    return buckets, histogram.total


def _gauges(core: Core, ready: bool) -> dict[str, float]:
    load = core.engine.load
    return {
        "num_requests_running": core.running,
        "num_requests_waiting": core.waiting,
        "kv_cache_usage_perc": 1 - load.free_blocks / max(1, load.num_blocks),
        "answers_open": core.door.running,
        "predicted_ttft_seconds": core.door.predicted_ttft(),
        "uptime_seconds": core.uptime_seconds,
        "ready": float(ready),
    }


def _counts(core: Core, book: Book) -> dict[str, float]:
    return {
        "prompt_tokens": book.prompt_tokens,
        "generation_tokens": book.answer_tokens,
        "forced_tokens": book.forced_tokens,
        "prompt_tokens_computed": book.computed_prompt_tokens,
        "prefix_cache_queries": book.cache_queries,
        "prefix_cache_hits": book.cache_hits,
        "num_preemptions": core.engine.load.num_preemptions,
        "steps": book.num_steps,
        "failed_steps": book.num_failed_steps,
        "step_time_seconds": book.step_seconds,
    }
