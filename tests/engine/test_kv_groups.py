"""Layers that reach back to different lengths: what each keeps, shares, gives up and finds again.

The null executor reads every row back as the attention of each group would: a block that was given
to somebody else within its window, or never written, is an error that names it.
"""

from __future__ import annotations

import random

import pytest

from ridgeline.backends.null.executor import NullExecutor, null_token
from ridgeline.engine.engine import Engine
from ridgeline.engine.kv.blocks import BlockPool
from ridgeline.engine.kv.prefix import CacheMiss
from ridgeline.engine.request import Request
from ridgeline.errors import RequestError
from ridgeline.step import ONE_GROUP, BlockGroup, RowSampling, most_row_blocks

VOCAB = 50
SIZE = 4
# One full layer of six beside five with a window of four blocks.
FULL, WINDOWED = BlockGroup(None, 1), BlockGroup(16, 5)
MIXED = (FULL, WINDOWED)


def request(name: str, prompt: list[int], max_tokens: int = 6, **asked: object) -> Request:
    return Request(
        id=name,
        token_ids=list(prompt),
        num_prompt=len(prompt),
        max_tokens=max_tokens,
        sampling=RowSampling(),
        stop_token_ids=frozenset(),
        **asked,  # type: ignore[arg-type]
    )


def engine(
    num_blocks: int = 600,
    groups: tuple[BlockGroup, ...] = MIXED,
    max_rows: int = 4,
    budget: int = 24,
    context: int = 400,
) -> Engine:
    executor = NullExecutor(
        vocab_size=VOCAB,
        num_blocks=num_blocks,
        max_rows=max_rows,
        block_tokens=SIZE,
        groups=groups,
    )
    return Engine(executor, max_context=context, max_tokens_per_step=budget)


def finish(running: Engine) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {}
    while running.has_work:
        for event in running.step():
            assert event.error is None
            if event.token_id is not None:
                tokens.setdefault(event.request_id, []).append(event.token_id)
        running.state.check_invariants()
    assert running.state.pool.num_free == running.state.pool.num_blocks
    return tokens


def answer(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(null_token(tokens, VOCAB))
    return tokens[len(prompt) :]


def numbers(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCAB) for _ in range(count)]


def held(running: Engine, name: str) -> list[int]:
    """Entries that a request holds in each group."""
    found = running.state.requests[name]
    tables = [found.blocks, *found.other_tables]
    return [len(t) - first for t, first in zip(tables, found.firsts, strict=True)]


def test_a_window_holds_its_length_however_long_the_row() -> None:
    running = engine()
    prompt = numbers(300)
    running.submit(request("a", prompt, 60))
    found, most = [], 0
    while running.has_work:
        found += [event.token_id for event in running.step()]
        running.state.check_invariants()
        if running.has_work:
            full, windowed = held(running, "a")
            assert full == -(-running.state.requests["a"].num_planned // SIZE)
            most = max(most, windowed)
    assert found == answer(prompt, 60)
    assert most == 5


def test_the_same_memory_holds_more_long_rows() -> None:
    """Six layers, all kept, and five of them windowed; blocks of one layer each."""
    rows = {}
    for name, groups in (("all kept", (BlockGroup(None, 6),)), ("windowed", MIXED)):
        running = engine(num_blocks=1000, groups=groups, max_rows=20)
        for index in range(20):
            running.submit(request(str(index), numbers(200, index), 150))
        most = 0
        while running.has_work:
            running.step()
            most = max(most, len(running.state.running))
            running.state.check_invariants()
        rows[name] = most
    assert rows["all kept"] == 3
    assert rows["windowed"] >= 8


def test_a_hit_needs_the_last_window_only() -> None:
    running = engine()
    prompt = numbers(121)
    running.submit(request("a", prompt))
    finish(running)
    again = request("again", prompt)
    running.submit(again)
    plan, _ = running.step_with_plan()
    assert (again.num_cached, again.cache_miss) == (120, None)
    assert [row.num_new for row in plan.rows] == [1]
    assert held(running, "again") == [31, 5]
    blocks = plan.rows[0].new_blocks
    assert len(blocks) == 31 * 6
    assert blocks[6 * 25 + 1 : 6 * 26] == (-1,) * 5  # entry 26 is the first that the window sees
    assert min(blocks[6 * 26 : 6 * 27]) >= 0
    assert min(blocks[::6]) >= 0
    assert finish(running)["again"] == answer(prompt, 6)[1:]


def test_where_a_window_was_evicted_a_hit_ends_before_and_says_so() -> None:
    running = engine(num_blocks=31 + 5 * 31 + 20, context=130, budget=200)
    prompt = numbers(121)
    running.submit(request("a", prompt, 1))
    finish(running)
    pool = running.state.pool
    assert pool.num_cached == 30 + 5 * 30
    # What a window has passed goes first, the oldest first: the last four entries serve the prompt.
    for num_left, num_cached in ((30, 120), (4, 120), (3, 0)):
        taken = pool.allocate(pool.num_blocks - 30 - 5 * num_left)
        assert taken is not None
        pool.release(taken)
        again = request(f"{num_left} left", prompt, 1)
        running.submit(again)
        running.step()
        assert again.num_cached == num_cached
        assert again.cache_miss == (None if num_cached else CacheMiss("evicted", 0))


@pytest.mark.parametrize("length", [1, 7, 8, 16, 17, 33, 90])
def test_forks_share_what_the_next_token_sees(length: int) -> None:
    running = engine()
    prompt = numbers(length)
    requests = [request(n, prompt, 30, fork_of=None if n == "a" else "a") for n in "abc"]
    for each in requests:
        running.submit(each)
    while any(each.num_cached is None for each in requests):
        plan, _ = running.step_with_plan()
    assert [each.num_cached for each in requests] == [0, length - 1, length - 1]
    assert len(plan.copies) == (2 * 6 if (length - 1) % SIZE else 0)
    finish(running)
    assert all(each.token_ids == prompt + answer(prompt, 30) for each in requests)


def test_a_fork_of_what_its_parent_gave_up_takes_what_the_cache_has() -> None:
    running = engine()
    first = request("first", numbers(40), 60)
    running.submit(first)
    for _ in range(50):
        running.step()
    assert first.firsts[1] > 6
    for cut in (3, 10, 22, 41, 70, 85):
        prompt = [*first.token_ids[:cut], 49]
        fork = request(f"cut at {cut}", prompt, 3, fork_of="first")
        running.submit(fork)
        running.step()
        running.state.check_invariants()
        assert fork.num_cached in (cut, cut // SIZE * SIZE)
        assert fork.token_ids[: cut + 2] == prompt + answer(prompt, 1)
    finish(running)
    assert first.token_ids == first.token_ids[:40] + answer(first.token_ids[:40], 60)


def test_salts_and_misses_are_those_of_one_group() -> None:
    running = engine()
    prompt = numbers(41)

    def miss(tokens: list[int], salt: bytes = b"") -> CacheMiss | None:
        asked = request("asked", tokens, 1, salt=salt)
        running.submit(asked)
        finish(running)
        return asked.cache_miss

    assert miss(prompt) == CacheMiss("new", 0)
    assert miss(prompt) is None
    assert miss([*prompt[:30], 49 - prompt[30], *prompt[31:]]) == CacheMiss("differs", 30)
    assert miss(prompt, b"other") == CacheMiss("salt", 0)


def test_a_model_of_windows_alone_forgets_the_beginning() -> None:
    running = engine(num_blocks=20, groups=(BlockGroup(16),), budget=8, context=10_000)
    prompt = numbers(900)
    running.submit(request("a", prompt, 3))
    assert finish(running)["a"] == answer(prompt, 3)
    again = request("again", prompt, 3)
    running.submit(again)
    running.step()
    assert again.num_cached == 896
    assert finish(running)["again"] == answer(prompt, 3)[1:]
    part = request("its beginning", prompt[:500], 3)
    running.submit(part)
    running.step()
    assert (part.num_cached, part.cache_miss) == (0, CacheMiss("evicted", 0))
    finish(running)


def test_what_never_fits_is_refused_with_what_would() -> None:
    running = engine(num_blocks=100, budget=8)
    longest = 100 - 5 * WINDOWED.most_entries(400, SIZE, 16)
    running.submit(request("fits", numbers(longest * SIZE - 1), 1))
    with pytest.raises(RequestError, match=f"the KV cache holds {longest * SIZE}"):
        running.submit(request("a", numbers(longest * SIZE), 1))
    assert finish(running)


def test_entries_of_several_blocks_come_and_go_whole() -> None:
    pool = BlockPool(20, (BlockGroup(None, 2), BlockGroup(8, 3)))
    rng = random.Random(3)
    owned: list[tuple[int, int]] = []
    for turn in range(2000):
        group = rng.randrange(2)
        if rng.random() < 0.5 and (entries := pool.allocate(1, group)) is not None:
            (entry,) = entries
            owned.append((entry, group))
            name = bytes([turn % 256, turn // 256])
            if group:
                pool.add_name(entry, name, 1)
            elif rng.random() < 0.7:
                pool.names.add(entry, name, b"", [turn], b"")
        elif owned:
            entry, group = owned.pop(rng.randrange(len(owned)))
            pool.release([entry])
        pool.check_invariants()
        blocks = [block for entry, _ in owned for block in pool.blocks_of(entry)]
        assert len(set(blocks)) == len(blocks)
        assert pool.num_free == 20 - len(blocks)


def test_most_entries_is_what_is_ever_held() -> None:
    """By rows of all lengths in steps of all sizes, one step ahead."""
    for window in (1, 3, 4, 5, 16, 17):
        for step in (1, 3, 4, 9):
            group = BlockGroup(window)
            most = 0
            first = booked = planned = 0
            while booked < 60:
                for _ in range(2 if planned == booked else 1):
                    planned += step
                    most = max(most, -(-planned // SIZE) - first)
                filled = booked // SIZE
                booked += step
                if booked // SIZE > filled:
                    first = group.first_entry(booked, SIZE)
            assert most <= group.most_entries(10_000, SIZE, 2 * step) <= most + 1
    assert most_row_blocks(ONE_GROUP, 17, SIZE, 9) == 5
    assert most_row_blocks(MIXED, 10_000, SIZE, 0) == 2500 + 5 * 5
