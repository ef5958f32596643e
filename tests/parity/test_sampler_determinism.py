"""Every sampler, in any company: tokens and log-probabilities are the request's own, alone or among
all others, whole or in chunks, cold or from the cache, preempted or not.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from cpu_graphs import AVAILABLE
from sampler_settings import ALONE, mixture
from test_determinism import VOCAB, model, stored

from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.engine.engine import Engine
from ridgeline.engine.request import Event, Request
from ridgeline.model.passes.fuse import fuse
from ridgeline.step import RowSampling

Tokens = list[tuple[int | None, float, tuple[tuple[int, float], ...]]]
Answer = tuple[Tokens, str | None, str, list[float]]


def settings() -> list[RowSampling]:
    rng = random.Random(4)
    surprises = [
        RowSampling(temperature=1.0, mirostat_tau=tau, mirostat_mu=2 * tau) for tau in (2, 3, 4, 5)
    ]
    return [*ALONE.values(), *(mixture(rng, VOCAB) for _ in range(20)), *surprises * 2]


def requests() -> list[Request]:
    """Fresh records of the same requests."""
    rng = random.Random(7)
    shared = [rng.randrange(VOCAB) for _ in range(100)]
    made = []
    for index, how in enumerate(settings()):
        start = shared[: rng.randrange(100)] if index % 3 == 0 else []
        few = [rng.randrange(VOCAB) for _ in range(5)]
        own = [rng.choice(few) for _ in range(rng.choice([1, 5, 17, 60, 150]))]
        prompt = start + own
        # What a mixture says of its history holds for the prompt that it gets here.
        how = replace(how, seed=index, num_prompt=len(prompt), num_logprobs=1)
        if index % 3 == 1:
            how = replace(how, num_prompt_logprobs=1)
        length = rng.randrange(4, 40)
        made.append(Request(str(index), prompt, len(prompt), length, how, frozenset({7})))
    return made


def engine(isa: str, *, rows: int, chunk: int, threads: int, blocks: int) -> Engine:
    executor = CpuExecutor(
        fuse(model("Q4_1")),
        stored(),
        num_blocks=blocks,
        max_rows=rows,
        max_tokens_per_step=chunk,
        threads=threads,
        isa=isa,
    )
    return Engine(executor, max_context=512, max_tokens_per_step=chunk)


def answers(engine: Engine, wanted: list[Request]) -> dict[str, Answer]:
    for request in wanted:
        engine.submit(request)
    events: list[Event] = []
    while engine.has_work:
        events += engine.step()
    found: dict[str, Answer] = {}
    for request in wanted:
        mine = [e for e in events if e.request_id == request.id]
        ends = [e for e in mine if e.token_id is not None or e.finish_reason is not None]
        tokens = [(e.token_id, e.logprob, e.top_logprobs) for e in ends]
        scores = scored_tokens(request, mine)
        found[request.id] = (tokens, mine[-1].finish_reason, str(mine[-1].error), scores)
    return found


def scored_tokens(request: Request, events: list[Event]) -> list[float]:
    """Log-probabilities of the prompt and of the likeliest: each position once, in order."""
    parts = [e.scored for e in events if e.scored is not None]
    if request.sampling.num_prompt_logprobs < 0 or request.num_prompt == 1:
        assert not parts
        return []
    found: list[float] = []
    for part in parts:
        own = part.token_ids[:: part.width].tolist()
        assert part.first == 1 + len(found) // 2
        assert own == request.token_ids[part.first : part.first + len(own)]
        found += part.logprobs
    return found


@pytest.mark.parametrize("isa", AVAILABLE)
def test_the_same_request_has_the_same_tokens(isa: str) -> None:
    whole = engine(isa, rows=64, chunk=2048, threads=2, blocks=1024)
    expected = answers(whole, requests())
    assert len({str(answer) for answer in expected.values()}) > 40
    assert sum(bool(scores) for *_, scores in expected.values()) > 10
    again = {}
    for request in requests():  # one after the other, from the cache
        again |= answers(whole, [request])
    assert again == expected
    order = requests()
    random.Random(1).shuffle(order)
    assert answers(engine(isa, rows=5, chunk=13, threads=1, blocks=1024), order) == expected
    crowded = requests()
    random.Random(2).shuffle(crowded)
    assert answers(engine(isa, rows=64, chunk=256, threads=2, blocks=40), crowded) == expected
    preempted = [r for r in crowded if r.num_preemptions]
    assert len(preempted) > 5
    assert any(r.sampling.mirostat_tau > 0 for r in preempted)
    assert any(r.sampling.num_prompt_logprobs >= 0 for r in preempted)
    for request in crowded:
        if request.sampling.num_prompt_logprobs >= 0 and expected[request.id][1] != "error":
            assert len(expected[request.id][3]) == 2 * (request.num_prompt - 1)


@pytest.mark.parametrize("isa", AVAILABLE[:1])
def test_impossible_requests_leave_their_neighbours_alone(isa: str) -> None:
    """Every second request is one that no token fits: the others' answers are bit-equal."""
    fine = requests()[::2]
    expected = answers(engine(isa, rows=64, chunk=256, threads=2, blocks=1024), fine)
    mixed = requests()
    for request in mixed[1::2]:
        request.sampling = replace(
            request.sampling, allowed_ids=(3,), bad_words=((3,),), stop_ids=(), temperature=1.0
        )
    found = answers(engine(isa, rows=64, chunk=256, threads=2, blocks=1024), mixed)
    for request in mixed[1::2]:
        tokens, reason, error, _ = found[request.id]
        assert reason == "error"
        assert "leave no token" in error
        assert [token for token, *_ in tokens] == [None]
    assert {k: v for k, v in found.items() if k in expected} == expected
