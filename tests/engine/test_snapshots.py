"""Recurrent states in the engine's memory: snapshots at block boundaries, found, restored, evicted.

The null executor's state is the name of all tokens that a slot has seen: a row that goes on from
the state of other tokens ends in an error. The CPU's answers are compared bit for bit.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.null.executor import NullExecutor, null_token
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.cost.count import count_state_bytes
from ridgeline.cost.sizes import Sizes, plan_sizes
from ridgeline.engine.engine import Engine
from ridgeline.engine.executor import Executor
from ridgeline.engine.kv.prefix import CacheMiss
from ridgeline.engine.kv.snapshots import SnapshotPool
from ridgeline.engine.request import Request
from ridgeline.model.opened import open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.step import ONE_GROUP, BlockGroup, RowSampling, SlotCopy

VOCAB = 50
SIZE = 4
GOLDEN = Path(__file__).parent.parent / "golden"
MIXED = (BlockGroup(None, 1), BlockGroup(16, 2))


def request(name: str, prompt: list[int], max_tokens: int = 6, **asked: object) -> Request:
    sampling, stops = RowSampling(), frozenset[int]()
    return Request(name, list(prompt), len(prompt), max_tokens, sampling, stops, **asked)  # type: ignore[arg-type]


def engine(
    snapshots: int = 8,
    groups: tuple[BlockGroup, ...] = ONE_GROUP,
    max_rows: int = 4,
    num_blocks: int = 400,
) -> Engine:
    executor = NullExecutor(
        vocab_size=VOCAB,
        num_blocks=num_blocks,
        max_rows=max_rows,
        block_tokens=SIZE,
        groups=groups,
        num_slots=max_rows + snapshots,
    )
    return Engine(executor, max_context=300, max_tokens_per_step=24)


def finish(running: Engine) -> None:
    while running.has_work:
        for event in running.step():
            assert event.error is None
        running.state.check_invariants()


def answer(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(null_token(tokens, VOCAB))
    return tokens[len(prompt) :]


def ask(running: Engine, prompt: list[int], max_tokens: int = 1) -> Request:
    asked = request("asked", prompt, max_tokens)
    running.submit(asked)
    finish(running)
    assert asked.token_ids == prompt + answer(prompt, max_tokens)
    return asked


def numbers(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCAB) for _ in range(count)]


@pytest.mark.parametrize("groups", [ONE_GROUP, MIXED])
def test_a_prompt_is_found_again_up_to_its_last_boundary(groups: tuple[BlockGroup, ...]) -> None:
    running = engine(groups=groups)
    prompt = numbers(58)
    assert ask(running, prompt).cache_miss == CacheMiss("new", 0)
    again = request("again", prompt)
    running.submit(again)
    plan, _ = running.step_with_plan()
    assert plan.slot_copies == (SlotCopy(4, again.row),)
    assert [(row.num_context, row.num_new) for row in plan.rows] == [(56, 2)]
    finish(running)
    assert (again.num_cached, again.cache_miss) == (56, None)
    assert again.token_ids == prompt + answer(prompt, 6)


@pytest.mark.parametrize("groups", [ONE_GROUP, MIXED])
def test_a_branch_is_found_the_third_time(groups: tuple[BlockGroup, ...]) -> None:
    """Whoever first goes another way finds blocks and no state there, and leaves one."""
    running = engine(groups=groups)
    shared = numbers(42)
    ask(running, shared + numbers(20, 1))
    second = ask(running, shared + numbers(20, 2))
    if groups is ONE_GROUP:
        assert second.cache_miss == CacheMiss("recurrent state", 0)
    assert second.num_cached == 0
    third = ask(running, shared + numbers(20, 3))
    assert third.num_cached == 40
    assert third.cache_miss is not None
    assert third.cache_miss.kind == "differs"


def test_a_conversation_goes_on_from_its_answer() -> None:
    running = engine()
    first = ask(running, numbers(10), 150)
    turn = [*first.token_ids, *numbers(5)]
    second = ask(running, turn)
    assert second.num_cached == 128  # a snapshot in 16 entries of an answer
    assert second.cache_miss is not None


def test_the_least_recently_used_snapshot_goes_first() -> None:
    running = engine(snapshots=2)
    prompts = [numbers(30, seed) for seed in range(3)]
    for prompt in prompts[:2]:
        ask(running, prompt)
    assert ask(running, prompts[0]).num_cached == 28
    ask(running, prompts[2])
    assert ask(running, prompts[0]).num_cached == 28
    lost = ask(running, prompts[1])
    assert (lost.num_cached, lost.cache_miss) == (0, CacheMiss("recurrent state", 0))


def test_forks_copy_the_state() -> None:
    running = engine()
    prompt = numbers(39)
    requests = [request(n, prompt, 9, fork_of=None if n == "a" else "a") for n in "abc"]
    for each in requests:
        running.submit(each)
    finish(running)
    assert [each.num_cached for each in requests] == [0, 36, 36]
    assert all(each.token_ids == prompt + answer(prompt, 9) for each in requests)


def test_the_preempted_go_on_from_a_snapshot() -> None:
    recomputed = {}
    for snapshots in (0, 12):
        running = engine(num_blocks=40, snapshots=snapshots)
        requests = [request(str(i), numbers(30, i), 60) for i in range(4)]
        for each in requests:
            running.submit(each)
        finish(running)
        assert sum(each.num_preemptions for each in requests) > 0
        for index, each in enumerate(requests):
            assert each.token_ids == numbers(30, index) + answer(numbers(30, index), 60)
        recomputed[snapshots] = sum(each.num_recomputed for each in requests)
    assert 0 < recomputed[12] < recomputed[0]


def test_a_pool_of_snapshots_loses_none() -> None:
    pool = SnapshotPool(3, 2)
    first, second = pool.take(), pool.take()
    assert (first, second, pool.take()) == (3, 4, None)
    pool.check_invariants([3, 4])
    pool.add(3, b"a")
    pool.add(4, b"a")  # somebody else was sooner
    pool.check_invariants([])
    assert (len(pool), b"a" in pool, pool.use(b"a")) == (1, True, 3)
    assert [pool.take(), pool.take()] == [4, 3]
    assert b"a" not in pool


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("case", ["mamba", "mamba2"])
def test_the_same_bits_cold_and_from_a_snapshot(case: str, backend: str) -> None:
    model = open_model(GOLDEN / case, context_length=256)

    def of_model() -> Engine:
        sizes = {"num_blocks": 64, "max_rows": 3, "num_slots": 9}
        executor: Executor
        if backend == "cpu":
            executor = CpuExecutor(
                fuse(model.graph), model.weights, max_tokens_per_step=64, threads=2, **sizes
            )
        else:
            executor = ReferenceExecutor(fuse(model.graph), model.weights, **sizes)
        return Engine(executor, max_context=256, max_tokens_per_step=64)

    def drawn(running: Engine, prompt: list[int], seed: int) -> tuple[int, list[tuple[int, float]]]:
        how = RowSampling(temperature=1.2, seed=seed, num_prompt=len(prompt), num_logprobs=0)
        asked = Request("asked", list(prompt), len(prompt), 30, how, frozenset())
        running.submit(asked)
        found = []
        while running.has_work:
            for event in running.step():
                assert event.token_id is not None
                found.append((event.token_id, event.logprob))
            running.state.check_invariants()
        assert asked.num_cached is not None
        return asked.num_cached, found

    prompts = [numbers(90), numbers(90)[:70] + numbers(20, 1), numbers(33, 2)]
    warm = of_model()
    first = [drawn(warm, prompt, seed) for seed, prompt in enumerate(prompts)]
    again = [drawn(warm, prompt, seed) for seed, prompt in enumerate(prompts)]
    assert [num_cached for num_cached, _ in first] == [0, 0, 0]
    assert [num_cached for num_cached, _ in again] == [80, 80, 32]
    for seed, prompt in enumerate(prompts):
        _, cold = drawn(of_model(), prompt, seed)
        assert cold == first[seed][1] == again[seed][1]


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 100, 1000])
def test_slots_take_half_of_the_memory_and_leave_some_for_snapshots(slots: int) -> None:
    graph = fuse(open_model(GOLDEN / "mamba2").graph)
    state_bytes = count_state_bytes(graph, 4.0)
    memory = 2 * slots * state_bytes

    def sizes(memory: int | None) -> Sizes:
        return plan_sizes(
            graph,
            memory=memory,
            max_rows=64,
            max_tokens_per_step=64,
            context_is_asked=False,
            rolling_bytes=4.0,
            available=10**12,
        )

    found = sizes(memory)
    assert 1 <= found.max_rows <= found.num_slots <= max(slots, 1)
    assert found.num_slots <= 3 * found.max_rows
    assert (found.num_slots > found.max_rows) == (slots > 3)
    assert sizes(found.memory) == found, "a replay has the same"
    assert sizes(None).max_rows == 64
