"""Forks copy the one block that they write to; and a miss of the prefix cache has a reason."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ridgeline import LLM, SamplingParams
from ridgeline.backends.null.executor import NullExecutor, null_token
from ridgeline.engine.engine import Engine
from ridgeline.engine.kv.prefix import CacheMiss
from ridgeline.engine.request import Request
from ridgeline.errors import EngineError
from ridgeline.step import BlockCopy, PlanRow, RowSampling, StepPlan

VOCAB = 50
SIZE = 4
LLAMA = Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf"


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


def engine(num_blocks: int = 40, max_rows: int = 4, budget: int = 64) -> Engine:
    executor = NullExecutor(
        vocab_size=VOCAB, num_blocks=num_blocks, max_rows=max_rows, block_tokens=SIZE
    )
    return Engine(executor, max_context=200, max_tokens_per_step=budget)


def answer(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(null_token(tokens, VOCAB))
    return tokens[len(prompt) :]


def finish(running: Engine) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {}
    while running.has_work:
        for event in running.step():
            assert event.error is None
            if event.token_id is not None:
                tokens.setdefault(event.request_id, []).append(event.token_id)
        running.state.check_invariants()
    return tokens


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 21])
def test_forks_compute_one_token_of_the_prompt_and_copy_one_block(length: int) -> None:
    running = engine()
    prompt = [i % VOCAB for i in range(length)]
    names = ["a", "b", "c"]
    requests = [request(n, prompt, fork_of=None if n == "a" else "a") for n in names]
    for each in requests:
        running.submit(each)
    plan, _events = running.step_with_plan()
    assert [row.num_new for row in plan.rows] == [length]
    assert not plan.copies
    plan, _events = running.step_with_plan()
    assert sorted(row.num_new for row in plan.rows) == [1, 1, 1]
    assert len(plan.copies) == (2 if (length - 1) % SIZE else 0)
    assert [each.num_cached for each in requests] == [0, length - 1, length - 1]
    whole = (length - 1) // SIZE
    for block in requests[0].blocks[:whole]:
        assert running.state.pool.num_owners(block) == 3
    finish(running)
    assert all(each.token_ids == prompt + answer(prompt, 6) for each in requests)
    assert running.state.pool.num_free == running.state.pool.num_blocks


def test_a_fork_may_leave_its_parent_anywhere() -> None:
    """Beams: the other's tokens up to a point, then its own."""
    running = engine()
    first = request("first", list(range(10)), 20)
    running.submit(first)
    for _ in range(8):
        running.step()
    for cut in (3, 8, 13, 17):
        prompt = [*first.token_ids[:cut], 49]
        running.submit(request(f"cut at {cut}", prompt, 3, fork_of="first"))
        running.step()
        fork = running.state.requests[f"cut at {cut}"]
        assert fork.num_cached == cut
        assert fork.token_ids == prompt + answer(prompt, 1)
    finish(running)
    assert first.token_ids == list(range(10)) + answer(list(range(10)), 20)


@pytest.mark.parametrize("seed", range(30))
def test_forks_under_pressure_give_the_tokens_of_each_alone(seed: int) -> None:
    rng = random.Random(seed)
    running = engine(num_blocks=rng.choice([14, 18, 30]), max_rows=rng.choice([2, 3, 6]), budget=9)
    wanted = {}
    for index in range(10):
        prompt = [rng.randrange(3) for _ in range(rng.randrange(1, 25))]
        parent = None
        for copy in range(rng.randrange(1, 5)):
            name = f"{index}.{copy}"
            running.submit(request(name, prompt, 1 + rng.randrange(9), fork_of=parent))
            wanted[name] = prompt
            parent = parent or name
        for event in running.step():
            if event.finish_reason is None and rng.random() < 0.1:
                running.abort(event.request_id)
                wanted.pop(event.request_id)
    requests = dict(running.state.requests)
    finish(running)
    for name, each in requests.items():
        if name in wanted:
            prompt = wanted[name]
            assert each.token_ids == prompt + answer(prompt, each.num_generated)
            assert each.num_generated == each.max_tokens
    assert running.state.pool.num_free == running.state.pool.num_blocks


def test_a_fork_whose_parent_is_gone_runs_by_itself() -> None:
    running = engine()
    prompt = list(range(9))
    running.submit(request("a", prompt))
    running.submit(request("b", prompt, fork_of="a"))
    running.submit(request("c", prompt, fork_of="nobody"))
    running.abort("a")
    tokens = finish(running)
    assert tokens == {"b": answer(prompt, 6), "c": answer(prompt, 6)}


def test_executors_refuse_copies_that_would_harm() -> None:
    executor = NullExecutor(vocab_size=VOCAB, num_blocks=4, max_rows=2, block_tokens=SIZE)
    executor.open_row(0, [1, 2, 3], RowSampling())
    executor.submit(StepPlan((PlanRow(0, 3, 0, 1, (2,)),)))
    executor.collect()
    with pytest.raises(EngineError, match="block 2, which a row holds already"):
        executor.submit(StepPlan((PlanRow(0, 1, 3, 1),), (BlockCopy(1, 2),)))
    with pytest.raises(EngineError, match="blocks 0 to 3"):
        executor.submit(StepPlan((PlanRow(0, 1, 3, 1),), (BlockCopy(1, 4),)))


def miss(running: Engine, prompt: list[int], salt: bytes = b"") -> CacheMiss | None:
    asked = request("asked", prompt, 1, salt=salt)
    running.submit(asked)
    finish(running)
    return asked.cache_miss


def test_a_miss_says_where_and_why() -> None:
    running = engine()
    prompt = list(range(20))
    assert miss(running, prompt) == CacheMiss("new", 0)
    assert miss(running, prompt) is None
    assert miss(running, prompt[:3]) is None, "less than a block is never cached"
    assert miss(running, [*prompt[:10], 49, *prompt[11:]]) == CacheMiss("differs", 10)
    assert miss(running, [49, *prompt[1:]]) == CacheMiss("differs", 0)
    assert miss(running, [*prompt, *prompt]) == CacheMiss("new", 20)
    assert miss(running, prompt, b"another tenant") == CacheMiss("salt", 0)
    assert miss(running, prompt, b"another tenant") is None


def test_a_miss_says_what_was_evicted() -> None:
    running = engine(num_blocks=8)
    prompt = list(range(21))
    miss(running, prompt)
    miss(running, [40] * 13)
    asked = miss(running, prompt)
    assert asked is not None
    assert asked.kind == "evicted"
    assert 0 < asked.position < 20
    assert asked.position % SIZE == 0


def test_no_salt_is_the_name_of_a_prefix() -> None:
    """A tenant that salts with another's block name does not find what follows that block."""
    running = engine()
    prompt = list(range(20))
    miss(running, prompt)
    index = running.state.pool.names
    (name,) = [name for name in list(index._block_of) if index.find([name]) == (0,)]
    thief = request("thief", prompt[4:], 1, salt=name)
    running.submit(thief)
    finish(running)
    assert thief.num_cached == 0


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_copies_carry_keys_and_values(backend: str) -> None:
    def llm() -> LLM:
        return LLM(str(LLAMA), backend=backend, max_rows=8)

    def params(seed: int, n: int = 1) -> SamplingParams:
        return SamplingParams(n=n, temperature=1.5, seed=seed, max_tokens=12, ignore_eos=True)

    prompt = list(range(5, 42))
    (together,) = llm().generate([prompt], params(3, n=3))
    for index, each in enumerate(together.outputs):
        (alone,) = llm().generate([prompt], params(3 + index))
        assert alone.outputs[0].token_ids == each.token_ids
    assert len({each.token_ids for each in together.outputs}) == 3
