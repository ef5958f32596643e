"""Recurrent states: what the recurrences mean, where states lie, and that nothing is taken for what
it is not.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline.backends.null.executor import NullExecutor, null_token
from ridgeline.backends.reference.call import Array, Call, RowMemory
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.backends.reference.state_table import BoundRow
from ridgeline.backends.reference.table import REFERENCE
from ridgeline.cost.count import count_kv_bytes, count_parameters, count_state_bytes
from ridgeline.engine.engine import Engine
from ridgeline.engine.executor import Executor
from ridgeline.engine.kv.prefix import CacheMiss
from ridgeline.engine.request import Request
from ridgeline.errors import EngineError, ModelError
from ridgeline.model.graph.node import RowState
from ridgeline.model.graph.ops import (
    CausalConv,
    DecayAttention,
    DeltaRule,
    Operator,
    RgLru,
    SelectiveScan,
    SplitGroups,
    SsdScan,
    TokenShift,
    Wkv7,
)
from ridgeline.model.opened import describe, open_model
from ridgeline.step import PlanRow, RowSampling, SlotCopy, StepPlan

Doubles = npt.NDArray[np.float64]
GOLDEN = Path(__file__).parents[1] / "golden"
GREEDY = RowSampling()
VOCAB = 64


def row(number: int, num_context: int, num_new: int) -> BoundRow:
    nothing = np.zeros(0, np.int64)
    return BoundRow(number, num_new, num_context, 0, nothing, nothing, GREEDY, number)


def run(
    op: Operator, state: RowState, inputs: tuple[Array, ...], weights: tuple[Array, ...]
) -> Array:
    """Two tokens of row 1 and then, beside a row 0 of three, the other two."""
    memory = RowMemory(state, 2, np.float64)
    first = Call(tuple(x[:2] for x in inputs), weights, [row(1, 0, 2)], None, memory)
    head, *_ = REFERENCE[type(op)](op, first)
    rows = [row(0, 0, 3), row(1, 2, 2)]
    other = tuple(np.concatenate([x[1:], x[2:]]) for x in inputs)
    tail, *_ = REFERENCE[type(op)](op, Call(other, weights, rows, None, memory))
    return np.concatenate([head, tail[3:]])


def normal(*shape: int, seed: int = 0) -> Doubles:
    return np.random.default_rng(seed).standard_normal(shape)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_causal_conv() -> None:
    x, w, b = normal(4, 2), normal(2, 3, seed=1), normal(2, seed=2)
    op = CausalConv(3, bias=True, silu=True)
    found = run(op, RowState("s", 2, 2, is_rolling=True), (x,), (w, b))
    for t in range(4):
        for c in range(2):
            total = b[c] + sum(w[c, 2 - i] * x[t - i, c] for i in range(3) if t >= i)
            assert found[t, c] == pytest.approx(total * sigmoid(total), rel=1e-12)


@pytest.mark.parametrize("log_a", [True, False])
def test_selective_scan(log_a: bool) -> None:
    x, dt, b, c = normal(4, 2), normal(4, 2, seed=1), normal(4, 3, seed=2), normal(4, 3, seed=3)
    a, d = normal(2, 3, seed=4), normal(2, seed=5)
    rate = -np.exp(a) if log_a else a
    found = run(SelectiveScan(log_a), RowState("s", 2, 3), (x, dt, b, c), (a, d))
    h = np.zeros((2, 3))
    for t in range(4):
        for i in range(2):
            step = softplus(dt[t, i])
            for n in range(3):
                h[i, n] = math.exp(step * rate[i, n]) * h[i, n] + step * x[t, i] * b[t, n]
            expected = sum(h[i, n] * c[t, n] for n in range(3)) + d[i] * x[t, i]
            assert found[t, i] == pytest.approx(expected, rel=1e-10)


def test_ssd_scan() -> None:
    heads, head_dim, groups, size = 4, 2, 2, 3
    x, b, c = normal(4, 8), normal(4, 6, seed=1), normal(4, 6, seed=2)
    dt, (a, d, bias) = normal(4, 4, seed=3), normal(3, 4, seed=4)
    op = SsdScan(heads, head_dim, groups, size, dt_limits=(0.3, 1.2))
    found = run(op, RowState("s", heads, head_dim * size), (x, b, c, dt), (a, d, bias))
    h = np.zeros((heads, head_dim, size))
    limited = set()
    for t in range(4):
        for i in range(heads):
            step = min(max(softplus(dt[t, i] + bias[i]), 0.3), 1.2)
            limited.add(step)
            for p in range(head_dim):
                at = i * head_dim + p
                expected = d[i] * x[t, at]
                for n in range(size):
                    column = i // 2 * size + n
                    h[i, p, n] *= math.exp(-step * math.exp(a[i]))
                    h[i, p, n] += step * x[t, at] * b[t, column]
                    expected += h[i, p, n] * c[t, column]
                assert found[t, at] == pytest.approx(expected, rel=1e-10)
    assert {0.3, 1.2} < limited


def test_decay_attention() -> None:
    heads, keys, values = 2, 3, 2
    q, k, v = normal(4, 6), normal(4, 6, seed=1), normal(4, 4, seed=2)
    rates = (0.5, 0.1)
    found = run(DecayAttention(rates), RowState("s", heads, keys * values), (q, k, v), ())
    for t in range(4):
        for i in range(heads):
            for m in range(values):
                expected = sum(
                    math.exp(-rates[i] * (t - u))
                    * q[t, 3 * i + j]
                    * k[u, 3 * i + j]
                    * v[u, 2 * i + m]
                    for u in range(t + 1)
                    for j in range(keys)
                )
                assert found[t, 2 * i + m] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("floor", [None, -2.0])
@pytest.mark.parametrize("by_channel", [False, True])
def test_delta_rule(by_channel: bool, floor: float | None) -> None:
    key_heads, heads = (2, 2) if by_channel else (1, 2)
    keys, values = 3, 2
    q, k = normal(4, key_heads * keys), normal(4, key_heads * keys, seed=1)
    v, beta = normal(4, heads * values, seed=2), normal(4, heads, seed=3)
    decays = heads * keys if by_channel else heads
    g, a, bias = normal(4, decays, seed=4), normal(heads, seed=5), normal(decays, seed=6)
    op = DeltaRule(key_heads, heads, keys, values, by_channel, floor=floor)
    found = run(op, RowState("s", heads, keys * values), (q, k, v, g, beta), (a, bias))
    s = np.zeros((heads, keys, values))
    for t in range(4):
        for i in range(heads):
            at = i * keys if by_channel else 0
            query, key = q[t, at : at + keys], k[t, at : at + keys]
            query = query / math.sqrt(sum(query**2) + 1e-6) / math.sqrt(keys)
            key = key / math.sqrt(sum(key**2) + 1e-6)
            for j in range(keys):
                n = i * keys + j if by_channel else i
                log_decay = -math.exp(a[i]) * softplus(g[t, n] + bias[n])
                if floor is not None:
                    log_decay = floor * sigmoid(math.exp(a[i]) * (g[t, n] + bias[n]))
                s[i, j] *= math.exp(log_decay)
            for m in range(values):
                known = sum(s[i, j, m] * key[j] for j in range(keys))
                change = sigmoid(beta[t, i]) * (v[t, i * values + m] - known)
                for j in range(keys):
                    s[i, j, m] += key[j] * change
                expected = sum(s[i, j, m] * query[j] for j in range(keys))
                assert found[t, i * values + m] == pytest.approx(expected, rel=1e-9)


def test_rg_lru() -> None:
    x, r, i, a = normal(4, 2), normal(4, 2, seed=1), normal(4, 2, seed=2), normal(2, seed=3)
    found = run(RgLru(), RowState("s", 2, 1), (x, r, i), (a,))
    h = np.zeros(2)
    for t in range(4):
        for c in range(2):
            decay = math.exp(-8 * sigmoid(r[t, c]) * softplus(a[c]))
            gated = sigmoid(i[t, c]) * x[t, c]
            h[c] = decay * h[c] + (math.sqrt(1 - decay**2) if t else 1.0) * gated
            assert found[t, c] == pytest.approx(h[c], rel=1e-9)


def test_token_shift() -> None:
    x, m = normal(4, 2), normal(2, seed=1)
    found = run(TokenShift(1), RowState("s", 2, 1, is_rolling=True), (x,), (m,))
    for t in range(4):
        for c in range(2):
            before = x[t - 1, c] if t else 0.0
            assert found[t, c] == pytest.approx(x[t, c] + m[c] * (before - x[t, c]), rel=1e-12)


def test_wkv7() -> None:
    """The recurrence as the paper writes it: a transition matrix, diagonal and rank one."""
    heads, size = 2, 3
    r, w, k, v, a = (normal(4, heads * size, seed=i) for i in range(5))
    kk, ka, rk = (normal(heads * size, seed=10 + i) for i in range(3))
    state = RowState("s", heads, size * size)
    found = run(Wkv7(heads), state, (r, w, k, v, a), (kk, ka, rk))
    for h in range(heads):
        at = slice(h * size, (h + 1) * size)
        s = np.zeros((size, size))
        for t in range(4):
            rate = np.array([sigmoid(x) for x in a[t, at]])
            decay = np.exp(-np.exp([-0.5 - softplus(-x) for x in w[t, at]]))
            direction = k[t, at] * kk[at]
            direction = direction / np.linalg.norm(direction)
            key = k[t, at] * (1 + (rate - 1) * ka[at])
            transition = np.diag(decay) - np.outer(direction, rate * direction)
            s = s @ transition + np.outer(v[t, at], key)
            assert found[t, at] == pytest.approx(s @ r[t, at], rel=1e-9)
            bonus = float(np.sum(r[t, at] * key * rk[at]))
            own = REFERENCE[Wkv7](
                Wkv7(heads),
                Call(
                    tuple(x[: t + 1] for x in (r, w, k, v, a)),
                    (kk, ka, rk),
                    [row(1, 0, t + 1)],
                    None,
                    RowMemory(state, 2, np.float64),
                ),
            )[1]
            assert own[t, at] == pytest.approx(bonus * v[t, at], rel=1e-9)


def test_groups_are_parted() -> None:
    x = np.arange(16.0).reshape(2, 8)
    a, b = REFERENCE[SplitGroups](SplitGroups(2, (3, 1)), Call((x,), (), [], None))
    assert a.tolist() == [[0, 1, 2, 4, 5, 6], [8, 9, 10, 12, 13, 14]]
    assert b.tolist() == [[3, 7], [11, 15]]


def null(num_slots: int = 4) -> NullExecutor:
    return NullExecutor(vocab_size=VOCAB, num_blocks=16, max_rows=3, num_slots=num_slots)


def reference(num_slots: int = 4) -> ReferenceExecutor:
    model = open_model(GOLDEN / "mamba2")
    return ReferenceExecutor(
        model.graph, model.weights, num_blocks=16, max_rows=3, num_slots=num_slots
    )


BOTH = pytest.mark.parametrize("make", [null, reference], ids=["null", "reference"])


def plan(*rows: PlanRow, copies: tuple[SlotCopy, ...] = ()) -> StepPlan:
    return StepPlan(rows, slot_copies=copies)


@BOTH
def test_a_row_goes_on_from_a_snapshot_as_if_it_had_seen_the_tokens(make: object) -> None:
    assert callable(make)
    executor: Executor = make()
    prompt = [5, 9, 2, 7, 1, 3]
    executor.open_row(0, prompt, GREEDY)
    executor.forward(plan(PlanRow(0, 4, 0, 0, (0,), slot=2)))
    alone = executor.forward(
        plan(PlanRow(0, 2, 4, 2, slot=2), copies=(SlotCopy(2, 0), SlotCopy(0, 3)))
    )
    executor.close_row(0)
    executor.open_row(1, prompt, GREEDY)
    # The blocks are shared, the state is the snapshot.
    step = plan(PlanRow(1, 2, 4, 2, (0,), slot=1), copies=(SlotCopy(3, 1),))
    assert np.array_equal(executor.forward(step), alone)
    # What was copied is not moved on with the row.
    executor.open_row(0, prompt, GREEDY)
    step = plan(PlanRow(0, 2, 4, 2, (0,), slot=2), copies=(SlotCopy(0, 2),))
    executor.close_row(1)
    assert np.array_equal(executor.forward(step), alone)


@BOTH
def test_a_row_begins_from_nothing_where_another_was(make: object) -> None:
    assert callable(make)
    executor: Executor = make()
    found = []
    for other in ([4, 4, 4], [5, 1]):
        executor.open_row(0, other, GREEDY)
        executor.forward(plan(PlanRow(0, len(other), 0, 1, (0,))))
        executor.close_row(0)
        executor.open_row(0, [3, 6], GREEDY)
        found.append(executor.forward(plan(PlanRow(0, 2, 0, 2, (1,)))))
        executor.close_row(0)
    assert np.array_equal(*found)


@BOTH
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (plan(PlanRow(1, 1, 3, 1, (1,))), "row 1: a context of 3 tokens.*slot 1 have seen 0"),
        (plan(PlanRow(0, 1, 2, 1)), "row 0: a context of 2 tokens.*slot 0 have seen 3"),
        (plan(PlanRow(0, 1, 3, 1, slot=7)), "row 0: slot 7; there are 0 to 3"),
        (
            plan(PlanRow(0, 1, 3, 1), PlanRow(1, 1, 0, 0, (1,), slot=0)),
            "row 1: slot 0 is another row's",
        ),
        (plan(copies=(SlotCopy(1, 2),)), "a copy of slot 1 to 2.*of which 1 hold"),
        (plan(copies=(SlotCopy(0, 4),)), "a copy of slot 0 to 4"),
    ],
)
def test_plans_that_would_use_a_wrong_state_are_refused(
    make: object, step: StepPlan, message: str
) -> None:
    assert callable(make)
    executor: Executor = make()
    executor.open_row(0, [1, 2, 3, 4, 5], GREEDY)
    executor.open_row(1, [1, 2, 3, 4], GREEDY)
    executor.forward(plan(PlanRow(0, 3, 0, 0, (0,))))
    with pytest.raises(EngineError, match=message):
        executor.forward(step)


def test_the_state_of_other_tokens_is_told() -> None:
    """Of as many tokens, so that only what they were can tell."""
    executor = null()
    executor.open_row(0, [1, 2, 3], GREEDY)
    executor.open_row(1, [1, 9, 3], GREEDY)
    executor.forward(plan(PlanRow(0, 2, 0, 0, (0,)), PlanRow(1, 2, 0, 0, (1,))))
    with pytest.raises(EngineError, match="row 1: the recurrent state in slot 1 has not seen"):
        executor.forward(plan(PlanRow(1, 1, 2, 1), copies=(SlotCopy(0, 1),)))


def test_a_model_without_states_has_no_slots() -> None:
    with pytest.raises(EngineError, match="the model has none"):
        null(0).forward(plan(copies=(SlotCopy(0, 1),)))


def engine(executor: Executor) -> Engine:
    return Engine(executor, max_context=64, max_tokens_per_step=24)


def ask(name: str, prompt: list[int], **changes: object) -> Request:
    base: dict[str, object] = {
        "num_prompt": len(prompt),
        "max_tokens": 4,
        "sampling": GREEDY,
        "stop_token_ids": frozenset(),
    }
    return Request(id=name, token_ids=list(prompt), **(base | changes))  # type: ignore[arg-type]


def test_a_prefix_is_not_taken_without_its_state_and_the_request_says_so() -> None:
    prompt = [i % 7 for i in range(40)]
    expected = list(prompt)
    for _ in range(4):
        expected.append(null_token(expected, VOCAB))
    of_model = engine(NullExecutor(vocab_size=VOCAB, num_blocks=16, max_rows=3, num_slots=3))
    for name in ("first", "second"):
        request = ask(name, prompt)
        of_model.submit(request)
        while of_model.has_work:
            of_model.step()
        assert request.token_ids == expected
        assert request.num_cached == 0
        assert request.cache_miss == CacheMiss("recurrent state", 0)


def test_forks_and_preemptions_recompute_their_state() -> None:
    """Ten blocks of 16 for four rows that come to need three each."""
    executor = NullExecutor(vocab_size=VOCAB, num_blocks=10, max_rows=4, num_slots=4)
    of_model = engine(executor)
    prompts = {f"r{i}": [i, *range(30)] for i in range(4)}
    requests = [ask(name, prompt, max_tokens=16) for name, prompt in prompts.items()]
    requests.append(ask("fork", prompts["r0"], max_tokens=9, fork_of="r0"))
    for request in requests:
        of_model.submit(request)
    for _ in range(400):
        if not of_model.has_work:
            break
        of_model.step()
        of_model.state.check_invariants()
    assert sum(request.num_preemptions for request in requests) > 0
    for request in requests:
        expected = prompts[request.fork_of or request.id][:]
        while len(expected) < len(request.token_ids):
            expected.append(null_token(expected, VOCAB))
        assert request.token_ids == expected


HYBRIDS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "published_hybrids.json").read_text()
)


@pytest.mark.parametrize("name", HYBRIDS)
def test_counts_of_hybrids_are_the_published_ones(name: str) -> None:
    facts = HYBRIDS[name]
    graph = describe(facts["config"])
    total = count_parameters(graph).total
    assert total == pytest.approx(facts["published_parameters"], rel=0.01)
    if facts["state_bytes"] is not None:
        assert count_kv_bytes(graph).per_token == facts["kv_bytes_per_token"]
        assert count_state_bytes(graph) == facts["state_bytes"]


CONFIG = {
    "architectures": ["Mamba2ForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "head_dim": 8,
    "n_groups": 2,
    "state_size": 6,
}


def test_counts_of_a_recurrent_model_by_hand() -> None:
    graph = describe(CONFIG)
    assert count_kv_bytes(graph).per_token == 0
    conv, sums = 3 * (32 + 2 * 2 * 6), 4 * 8 * 6
    assert count_state_bytes(graph) == 2 * (2 * conv + 4 * sums)
    assert count_state_bytes(graph, 4.0) == 2 * 4 * (conv + sums)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_groups": 3}, "n_groups = 3: does not divide num_heads = 4"),
        ({"expand": 3}, "expand = 3: x hidden_size = 16 is not num_heads x head_dim"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu': is not supported"),
        ({"conv_kernel": 33}, "conv_kernel = 33: a whole number from 2 to 32"),
        ({"time_step_limit": [1, 0]}, "time_step_limit = .*the first is above the second"),
        ({"time_step_limit": 3}, "time_step_limit = 3: a list of two numbers"),
        ({"time_step_limit": ["a", 2]}, "time_step_limit = .*two numbers from 0 on"),
        ({"state_size": 10**9}, "state_size = 1000000000"),
    ],
)
def test_contradictions_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        describe(CONFIG | changes)


@pytest.mark.parametrize(
    ("wide", "layers", "ranks", "published"),
    [
        (768, 12, (64, 64, 32, 128), 191_034_624),
        (1024, 24, (64, 64, 32, 128), 450_767_872),
        (2048, 24, (96, 96, 64, 256), 1_527_404_544),
        (2560, 32, (96, 96, 64, 320), 2_947_735_040),
    ],
)
def test_counts_of_rwkv7_are_the_papers(
    wide: int, layers: int, ranks: tuple[int, ...], published: int
) -> None:
    """Peng et al. 2025, the table of the World models: to the last parameter."""
    names = [f"{name}_low_rank_dim" for name in ("decay", "a", "v", "gate")]
    config = {
        "architectures": ["RWKV7ForCausalLM"],
        "hidden_size": wide,
        "num_hidden_layers": layers,
        "vocab_size": 65536,
    }
    graph = describe(config | dict(zip(names, ranks, strict=True)))
    assert count_parameters(graph).total == published
    assert count_kv_bytes(graph).per_token == 0
    # Of each layer a matrix of 64 x 64 a head, and the last token of two shifts.
    assert count_state_bytes(graph) == layers * (4 * 64 * wide + 2 * 2 * wide)
