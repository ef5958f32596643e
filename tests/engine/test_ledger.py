"""Where a request's time went: phases that sum to the whole, through anything."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ridgeline import LLM, SamplingParams
from ridgeline.engine.book import BUCKETS, Histogram
from ridgeline.engine.ledger import MAX_CHUNKS, PHASES, Trace, phase_seconds

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")


def _llm(**options: object) -> LLM:
    chosen = {"max_tokens_per_step": 32, "max_rows": 4, "threads": 1} | options
    return LLM(MODEL, **chosen)


def test_phases_sum_to_the_whole_and_chunks_to_the_prompt() -> None:
    llm = _llm()
    params = SamplingParams(max_tokens=9, temperature=1, seed=3, ignore_eos=True)
    prompts = [[(7 * i + j) % 120 for j in range(20 + 13 * i)] for i in range(7)]
    for output in llm.generate(prompts, params):
        (ledger,) = output.ledgers
        metrics = output.metrics
        assert metrics.finished is not None
        assert set(ledger.seconds) == set(PHASES)
        assert sum(ledger.seconds.values()) == pytest.approx(ledger.total_seconds, abs=1e-9)
        assert sum(ledger.shares().values()) == pytest.approx(100)
        assert ledger.total_seconds == pytest.approx(metrics.finished - metrics.arrival, abs=1e-3)
        assert all(seconds >= 0 for seconds in ledger.seconds.values())
        computed = len(output.prompt_token_ids) - output.num_cached_tokens
        assert sum(chunk.tokens for chunk in ledger.chunks) == computed
        assert all(0 < chunk.own_seconds <= chunk.seconds for chunk in ledger.chunks)
        assert ledger.steps == len(ledger.chunks) + 8
        assert sum(phase_seconds(output.ledgers).values()) == pytest.approx(
            2 * ledger.total_seconds, abs=1e-5
        )
    book = llm.session.engine.book
    assert book.ended == {"length": 7}
    assert book.answer_tokens == 7 * 9
    assert (book.ttft.count, book.itl.count, book.e2e.count) == (7, 7 * 8, 7)
    assert book.prompt_tokens == sum(map(len, prompts))
    assert book.computed_prompt_tokens == book.prompt_tokens - book.cache_hits


def test_the_shares_of_a_step_are_all_of_it() -> None:
    llm = _llm()
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    outputs = llm.generate([[i + 1] * 8 for i in range(4)], params)
    book = llm.session.engine.book
    own = sum(o.ledgers[0].seconds[p] for o in outputs for p in ("prefill_own", "decode_own"))
    assert own == pytest.approx(book.step_seconds, rel=1e-9)


def test_a_preempted_request_tells_of_it() -> None:
    llm = _llm(context_length=64)
    pool = llm.session.engine.state.pool
    assert pool.allocate(pool.num_free - 10) is not None  # somebody else's
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    outputs = llm.generate([[i + 1] * 16 for i in range(4)], params)
    ledgers = [output.ledgers[0] for output in outputs]
    again = [ledger for ledger in ledgers if ledger.preemptions]
    assert again
    assert all(ledger.seconds["preempted"] > 0 for ledger in again)
    for ledger in ledgers:
        assert sum(ledger.seconds.values()) == pytest.approx(ledger.total_seconds, abs=1e-9)


def test_answers_of_one_prompt_have_ledgers_of_their_own() -> None:
    params = SamplingParams(n=3, max_tokens=4, temperature=1, seed=1, ignore_eos=True)
    (output,) = _llm().generate([[1, 2, 3]], params)
    assert len(output.ledgers) == 3
    assert len({id(ledger) for ledger in output.ledgers}) == 3


def test_a_trace_is_bounded() -> None:
    trace = Trace(0.0, 1.0)
    for step in range(MAX_CHUNKS + 10):
        trace.book(2.0 + step, 2.5 + step, 0.25, 4 * step, 4, 0)
    trace.close(1000.0, 0)
    ledger = trace.ledger()
    assert len(ledger.chunks) == MAX_CHUNKS
    assert sum(chunk.tokens for chunk in ledger.chunks) == 4 * (MAX_CHUNKS + 10)
    assert sum(ledger.seconds.values()) == pytest.approx(1000.0)


def test_quantiles_are_bounds_of_buckets() -> None:
    histogram = Histogram()
    assert math.isnan(histogram.quantile(0.5))
    for value in (0.0005, 0.001, 0.3, 1e9):
        histogram.observe(value)
    assert histogram.quantile(0.5) == 0.001
    assert histogram.quantile(0.75) == 0.3
    assert histogram.quantile(1.0) == math.inf
    assert list(BUCKETS) == sorted(set(BUCKETS))
