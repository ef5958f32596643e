"""The scheduler and the block pool under random loads: invariants after every step, right tokens.

The null executor's token is a hash of the request's whole prefix as its block table shows it, so
any mix-up of rows, blocks or cached prefixes is a wrong token.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from ridgeline.backends.null.executor import NullExecutor, null_token
from ridgeline.engine.engine import Engine
from ridgeline.engine.kv.blocks import BlockPool
from ridgeline.engine.kv.prefix import prefix_hashes
from ridgeline.engine.request import Request
from ridgeline.errors import RequestError
from ridgeline.step import RowSampling

VOCAB = 50


def expected_answer(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(null_token(tokens, VOCAB))
    return tokens[len(prompt) :]


def request(name: str, prompt: list[int], max_tokens: int, salt: bytes = b"") -> Request:
    return Request(
        id=name,
        token_ids=list(prompt),
        num_prompt=len(prompt),
        max_tokens=max_tokens,
        sampling=RowSampling(),
        stop_token_ids=frozenset(),
        salt=salt,
    )


def engine(num_blocks: int, max_rows: int = 4, budget: int = 24, context: int = 200) -> Engine:
    executor = NullExecutor(
        vocab_size=VOCAB, num_blocks=num_blocks, max_rows=max_rows, block_tokens=4
    )
    return Engine(executor, max_context=context, max_tokens_per_step=budget)


@dataclass
class Collected:
    tokens: dict[str, list[int]]
    ended: dict[str, str]
    steps: int


def run_all(running: Engine, limit: int = 100_000) -> Collected:
    collected = Collected({}, {}, 0)
    while running.has_work:
        for event in running.step():
            if event.token_id is not None:
                collected.tokens.setdefault(event.request_id, []).append(event.token_id)
            if event.finish_reason is not None:
                assert event.request_id not in collected.ended, "a request ends once"
                collected.ended[event.request_id] = event.finish_reason
        running.state.check_invariants()
        collected.steps += 1
        assert collected.steps < limit, "no progress"
    return collected


@pytest.mark.parametrize("seed", range(20))
def test_tokens_are_those_of_the_request_alone(seed: int) -> None:
    """Few blocks and rows, shared prefixes: preemption and cache hits happen, unseen."""
    rng = random.Random(seed)
    shared = [rng.randrange(VOCAB) for _ in range(30)]
    running = engine(num_blocks=rng.choice([16, 20, 40]), max_rows=rng.choice([1, 3, 8]))
    wanted = {}
    for index in range(25):
        prompt = shared[: rng.randrange(31)] + [
            rng.randrange(VOCAB) for _ in range(rng.randrange(1, 20))
        ]
        count = rng.randrange(1, 15)
        running.submit(request(f"r{index}", prompt, count))
        wanted[f"r{index}"] = expected_answer(prompt, count)
    collected = run_all(running)
    assert collected.tokens == wanted
    assert set(collected.ended.values()) == {"length"}
    assert running.state.pool.num_free == running.state.pool.num_blocks


def test_preemption_happens_and_is_recorded() -> None:
    running = engine(num_blocks=12, max_rows=4, budget=64)
    requests = [request(f"r{i}", [i] * 8, 30) for i in range(4)]
    for each in requests:
        running.submit(each)
    collected = run_all(running)
    assert sum(each.num_preemptions for each in requests) > 0
    assert requests[0].num_preemptions == 0, "the oldest is never preempted"
    for each in requests:
        assert collected.tokens[each.id] == expected_answer([int(each.id[1:])] * 8, 30)


def test_a_repeated_prompt_is_cached_but_for_its_last_token() -> None:
    running = engine(num_blocks=40)
    prompt = list(range(17))
    first, second = request("a", prompt, 3), request("b", prompt, 3)
    running.submit(first)
    run_all(running)
    running.submit(second)
    collected = run_all(running)
    assert (first.num_cached, second.num_cached) == (0, 16)
    assert collected.tokens["b"] == expected_answer(prompt, 3)


def test_a_whole_block_prompt_still_computes_its_last_token() -> None:
    running = engine(num_blocks=40)
    prompt = list(range(16))
    for name in "ab":
        running.submit(request(name, prompt, 2))
        assert run_all(running).tokens[name] == expected_answer(prompt, 2)


def test_the_salt_keeps_tenants_apart() -> None:
    running = engine(num_blocks=40)
    prompt = list(range(16))
    mine, other = request("a", prompt, 1, b"mine"), request("b", prompt, 1, b"other")
    for each in (mine, other):
        running.submit(each)
        run_all(running)
    assert other.num_cached == 0


def test_aborts_at_any_moment_free_everything() -> None:
    rng = random.Random(7)
    running = engine(num_blocks=30, max_rows=3, budget=7)
    alive = set()
    for index in range(300):
        if rng.random() < 0.4:
            name = f"r{index}"
            running.submit(request(name, [rng.randrange(VOCAB) for _ in range(20)], 20))
            alive.add(name)
        if alive and rng.random() < 0.3:
            running.abort(rng.choice(sorted(alive)))
        for event in running.step():
            if event.finish_reason is not None:
                alive.discard(event.request_id)
        running.state.check_invariants()
    for name in sorted(alive):
        running.abort(name)
    running.step()
    running.state.check_invariants()
    assert running.state.pool.num_free == running.state.pool.num_blocks
    assert not running.has_work


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "field"),
    [([], 5, "prompt"), ([1] * 200, 1, "prompt"), ([1] * 100, 100, "max_tokens")],
)
def test_what_can_never_run_is_refused(prompt: list[int], max_tokens: int, field: str) -> None:
    running = engine(num_blocks=40)
    with pytest.raises(RequestError) as refused:
        running.submit(request("a", prompt, max_tokens))
    assert refused.value.field == field
    assert not running.has_work


def test_the_context_ends_an_answer() -> None:
    running = engine(num_blocks=60, context=30)
    running.submit(request("a", [1] * 25, 100))
    collected = run_all(running)
    assert collected.ended == {"a": "length"}
    assert len(collected.tokens["a"]) == 5


def named_chain(pool: BlockPool, tokens: list[int]) -> tuple[tuple[int, ...], list[bytes]]:
    names = list(prefix_hashes(tokens, 4))
    blocks = pool.allocate(len(names))
    assert blocks is not None
    for index, (block, name) in enumerate(zip(blocks, names, strict=True)):
        before = names[index - 1] if index else b""
        pool.names.add(block, name, before, tokens[4 * index : 4 * index + 4], b"")
    return blocks, names


def test_blocks_are_evicted_least_recently_used_first_and_leaves_before_parents() -> None:
    pool = BlockPool(4)
    old, names = named_chain(pool, list(range(8)))
    pool.release(old)
    pool.check_invariants()
    assert pool.names.find(names) == old
    pool.allocate(3)  # two unnamed blocks, then the leaf
    assert pool.names.find(names) == old[:1]
    pool.allocate(1)
    assert pool.names.find(names) == ()
    assert pool.allocate(1) is None


def test_a_leaf_goes_before_its_parent_even_if_it_was_used_later() -> None:
    pool = BlockPool(3)
    (parent, leaf), names = named_chain(pool, list(range(8)))
    pool.release([parent])
    pool.release([leaf])
    spare = pool.allocate(1)
    assert spare is not None
    assert spare[0] not in (parent, leaf)
    assert pool.allocate(1) == (leaf,)
    assert pool.names.find(names) == (parent,)
    pool.check_invariants()


def test_prefix_names_depend_on_everything_before() -> None:
    base = list(prefix_hashes([1, 2, 3, 4, 5, 6, 7, 8, 9], 4))
    other = list(prefix_hashes([9, 2, 3, 4, 5, 6, 7, 8], 4))
    assert len(base) == 2
    assert base[0] != other[0]
    assert base[1] != other[1]
    assert base == list(prefix_hashes([1, 2, 3, 4], 4)) + list(
        prefix_hashes([5, 6, 7, 8], 4, parent=base[0])
    )
