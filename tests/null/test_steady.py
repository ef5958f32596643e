"""Serving in closed form: against physics and the simulator; profiles fitted back from their own
predictions.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import mean

import numpy as np
import pytest

from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.cost.deployment import Deployment, deploy
from ridgeline.cost.described import describe
from ridgeline.cost.efficiency import MEANINGS, PUBLISHED, touched_share
from ridgeline.cost.profile import load_profile, profile_text, read_profile
from ridgeline.cost.steps import uniform_steps
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.errors import RidgelineError
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.fit import (
    Measurement,
    cross_validated,
    errors_of,
    few_groups,
    fit,
    with_spreads,
)
from ridgeline.plan.fleet import Fleet
from ridgeline.plan.load import Lengths, closed
from ridgeline.plan.simulate import simulate_fleet
from ridgeline.plan.steady import (
    Case,
    Cases,
    Load,
    closed_loop,
    most_requests_per_second,
    open_loop,
    solve_many,
)


@cache
def deployed(
    model: str = "qwen3-32b", precision: str = "fp8", engine: str = "vllm", **mesh: int
) -> Deployment:
    return deploy(
        describe(load_configuration(model).config, precision),
        chip=load_accelerator("h200").chip(),
        mesh=Mesh(**mesh),
        engine=engine,
    )


def test_one_request_has_the_machine() -> None:
    deployment = deployed(tp=2)
    found = closed_loop(Case(deployment, Load(1, 1000, 500)))
    step = deployment.price(uniform_steps(deployment.windows, decode=1.0, context=1250.0))[0]
    assert found.tpot.value == pytest.approx(step)
    assert found.decoding <= 1.0
    assert found.tpot.low < found.tpot.value < found.tpot.high
    assert found.requests_per_second == pytest.approx(
        1 / (found.ttft.value + 500 * found.tpot.value)
    )


def test_who_waits_in_step_is_computed_together() -> None:
    """Requests of one length under SGLang: eight prompts of 1,024 tokens take one step, one of
    8,192 takes one as well; of those before it a request waits for half.
    """
    deployment = deployed(tp=8, engine="sglang")
    short, long = (Case(deployment, Load(64, n, 256, varied=False)) for n in (1024, 8192))
    found, alone = Cases((short, long)), Cases((replace(long, load=Load(1, 1024, 256)),))
    assert list(found.group) == [8.0, 1.0]
    solved = found.solve(PUBLISHED)
    # Launches and weights are shared by eight.
    assert solved.delta[0] < 0.9 * alone.solve(PUBLISHED).delta[0]
    assert solved.ttft == pytest.approx((64 + found.group) / 2 * solved.delta)
    waited = (64 - found.group) / 2 * solved.delta / 256
    assert solved.tpot == pytest.approx(solved.step + waited)


def test_more_in_flight_serve_more_and_wait_longer_until_the_cache_is_full() -> None:
    case = Case(deployed(tp=1), Load(1, 4000, 1000))
    found = [
        closed_loop(replace(case, load=replace(case.load, concurrency=n))) for n in (1, 8, 64, 900)
    ]
    assert [f.tpot.value for f in found[:3]] == sorted(f.tpot.value for f in found[:3])
    assert [f.tokens_per_second for f in found[:3]] == sorted(
        f.tokens_per_second for f in found[:3]
    )
    assert not found[1].is_full
    assert found[3].is_full
    assert found[3].decoding <= found[3].limit
    # Beyond the knee the rest waits: Little's law still holds.
    cycle = found[3].ttft.value + 1000 * found[3].tpot.value
    assert found[3].requests_per_second * cycle == pytest.approx(900, rel=0.01)
    knee = most_requests_per_second(case)
    assert knee.requests_per_second == pytest.approx(found[3].requests_per_second, rel=0.1)


def test_an_engine_runs_no_more_than_its_places() -> None:
    """Little's law: of 40 in flight on 8 places each waits for four answers before its own."""
    deployment = deployed(tp=2)
    free = closed_loop(Case(deployment, Load(8, 1000, 500)))
    held = closed_loop(Case(deployment, Load(40, 1000, 500, places=8)))
    assert held.limit == 8
    assert held.decoding == pytest.approx(8)
    assert held.is_full
    answer = 500 * held.tpot.value
    assert held.ttft.value == pytest.approx(4 * answer, rel=1e-6)
    assert held.tpot.value == pytest.approx(free.tpot.value, rel=0.02)


def test_many_cases_are_solved_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = deployed(tp=2), deployed(tp=4)
    cases = [Case(d, Load(n, 1000, 500)) for d in (one, other) for n in (1, 2, 8, 64, 300)]
    whole = Cases(cases).solve(PUBLISHED)
    monkeypatch.setattr("ridgeline.plan.steady.AT_ONCE", 3)
    parts = solve_many(cases, PUBLISHED)
    for name in ("tpot", "ttft", "rows", "requests_per_second", "delta", "step"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name


def test_a_request_may_not_be_looked_at_for_some_steps() -> None:
    deployment = deployed(tp=2)
    at_once, later = (
        closed_loop(Case(deployment, Load(8, 1000, 500, held=steps))) for steps in (0.0, 20.0)
    )
    assert later.ttft.value - at_once.ttft.value == pytest.approx(20 * later.tpot.value, rel=0.02)


def test_prompts_that_are_gathered_share_a_step() -> None:
    """Of short ones launches and weights are most of what a step takes."""
    deployment = deployed(tp=2, engine="trtllm")
    cases = [Case(deployment, Load(8, 100, 500, together=n)) for n in (1, 4)]
    found = Cases(cases)
    assert list(found.group) == [1.0, 4.0]
    each, four = found.solve(PUBLISHED).delta
    assert each / 4 < four < 0.6 * each


def test_prompts_elsewhere_leave_answers_alone() -> None:
    deployment = deployed(tp=2)
    load = Load(32, 8000, 500)
    together = closed_loop(Case(deployment, load))
    apart = closed_loop(Case(deployment, load, prefill=deployment, prefill_workers=8))
    assert apart.tpot.value < together.tpot.value
    few = closed_loop(
        Case(deployment, replace(load, concurrency=256), prefill=deployment, prefill_workers=1)
    )
    alone = Cases((Case(deployment, load, prefill=deployment),)).solve(deployment.profile).delta[0]
    assert few.requests_per_second <= 1 / alone * 1.001


def test_drafts_that_are_accepted_pay() -> None:
    deployment = deployed("deepseek-r1", "fp8", tp=8)
    plain, drafted = (
        closed_loop(Case(deployment, Load(4, 1000, 1000, drafts=n))).tpot.value for n in (0, 3)
    )
    assert 1 / 2.6 < drafted / plain < 0.8
    useless = Load(4, 1000, 1000, drafts=3, acceptance=0.0)
    assert closed_loop(Case(deployment, useless)).tpot.value > plain


def test_an_open_loop_keeps_up_or_says_that_it_does_not() -> None:
    case = Case(deployed(tp=2), Load(1, 1000, 200))
    slow, fast = open_loop(case, 0.1), open_loop(case, 5.0)
    assert slow is not None
    assert fast is not None
    assert slow.tpot.value < fast.tpot.value
    assert slow.ttft.value < fast.ttft.value
    assert fast.requests_per_second == pytest.approx(5.0, rel=0.01)
    assert open_loop(case, 1e4) is None
    with pytest.raises(RidgelineError, match="above 0"):
        open_loop(case, 0.0)
    with pytest.raises(RidgelineError, match="must be 1 or more"):
        closed_loop(replace(case, load=replace(case.load, concurrency=0)))


@pytest.mark.parametrize(
    ("model", "precision", "tp", "users", "prompt", "answer"),
    [
        ("qwen3-32b", "fp8", 2, 4, 1000, 500),
        ("qwen3-32b", "fp8", 2, 16, 8000, 500),
        ("gpt-oss-120b", "mxfp4", 2, 32, 2000, 500),
    ],
)
def test_the_simulator_agrees(
    model: str, precision: str, tp: int, users: int, prompt: int, answer: int
) -> None:
    """The engine's scheduler, step by step, as a benchmark with ten requests for each user."""
    deployment = deployed(model, precision, tp=tp)

    def state() -> SchedulerState:
        return SchedulerState.empty(Limits(256, 8192, 20000, 64), 40000)

    load = closed(
        users,
        Lengths(prompt * 4 // 5, prompt),
        Lengths(answer * 4 // 5, answer),
        10 * users,
        seed=0,
    )
    found = simulate_fleet(Fleet(state, deployment.step_times()), load).tally
    steady = closed_loop(Case(deployment, Load(users, 0.9 * prompt, 0.9 * answer)))
    assert mean(found.tpot) == pytest.approx(steady.tpot.value, rel=0.05)
    # What a server and its client add to the first token is not in the simulator.
    assert 0.4 * steady.ttft.value < mean(found.ttft) < steady.ttft.value


def test_experts_touched() -> None:
    tokens = np.array([0.01, 1.0, 100.0])
    even, skewed = touched_share(tokens, 0.01), touched_share(tokens, 2.0)
    assert even[1] == pytest.approx(1 - np.exp(-1.0), rel=0.01)
    assert (skewed < even).all()
    assert even[2] > 0.999
    draws = np.random.default_rng(0).gamma(2.0, 0.5, 200_000)
    assert touched_share(np.array([1.5]), 0.5)[0] == pytest.approx(
        (1 - np.exp(-1.5 * draws)).mean(), rel=0.01
    )


def test_a_profile_is_found_back_from_its_own_predictions() -> None:
    true = replace(PUBLISHED, values={**PUBLISHED.values, "stream.fp8": 0.6, "kv.stream": 0.9})
    measured = []
    for group, tp in (("a", 1), ("b", 2), ("c", 4)):
        cases = [
            Case(deployed(tp=tp), Load(n, isl, 500))
            for n in (1, 4, 16, 64)
            for isl in (500, 2000, 8000)
        ]
        solved = Cases(cases).solve(true)
        for case, tpot, ttft in zip(cases, solved.tpot, solved.ttft, strict=True):
            measured.append(Measurement(case, float(tpot), float(ttft), group))
    found = fit(measured, PUBLISHED, temper=0.5)
    before, after = (
        errors_of(
            Cases([m.case for m in measured]).solve(p).tpot,
            np.array([m.tpot for m in measured]),
            0.2,
        )
        for p in (PUBLISHED, found)
    )
    assert before.median > 0.05
    assert after.median < 0.02
    assert abs(found["stream.fp8"] - 0.6) < abs(PUBLISHED["stream.fp8"] - 0.6) / 2
    tpot, ttft = cross_validated(measured, PUBLISHED, temper=0.5)
    assert np.median(np.abs(tpot)) < before.median
    spread = with_spreads(found, measured, tpot, ttft)
    assert 0 < spread.spread < 0.2
    assert spread.spread_ttft_apart == found.spread_ttft_apart
    far = np.where(np.arange(len(ttft)) < 12, 1.5, ttft)
    parted = [
        replace(m, case=replace(m.case, prefill=m.case.deployment)) if i < 12 else m
        for i, m in enumerate(measured)
    ]
    apart = with_spreads(found, parted, tpot, far)
    assert apart.spread_ttft_apart == pytest.approx(1.5 * few_groups(1))
    assert apart.spread_ttft < 1.0
    wide = with_spreads(found, parted, np.where(np.arange(len(tpot)) < 12, 0.4, tpot), far)
    assert wide.spread_tpot_apart == pytest.approx(0.4 * few_groups(1))
    assert wide.spread < 0.2
    assert wide.spreads(apart=True) == (wide.spread_tpot_apart, wide.spread_ttft_apart)
    assert wide.spreads(apart=False) == (wide.spread, wide.spread_ttft)
    near = fit(measured, PUBLISHED, temper=0.5, near=found)
    assert near.values == pytest.approx(found.values, rel=0.02)


def test_few_groups_say_little_of_the_next() -> None:
    """Intervals of a normal kind that so many draws of it tell hold the next in 80 of 100."""
    factors = [few_groups(count) for count in (1, 2, 3, 5, 10, 30, 1000)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(1.0, abs=2e-3)
    rng = np.random.default_rng(0)
    for count in (3, 5, 20):
        draws = rng.normal(size=(100_000, count + 1))
        told = 1.2816 * draws[:, :count].std(1, ddof=1) * few_groups(count)
        inside = np.abs(draws[:, count] - draws[:, :count].mean(1)) <= told
        assert inside.mean() == pytest.approx(0.8, abs=0.01)


def test_prompts_computed_elsewhere_are_handed_over() -> None:
    """What that takes is found back from first tokens that had it; other rows keep theirs."""
    true = replace(PUBLISHED, values={**PUBLISHED.values, "ttft.handover": 0.2, "ttft.burst": 0.15})
    d = deployed(tp=2)
    cases = [
        Case(d, Load(n, isl, 500), d, readers, 2)
        for n in (2, 8, 32)
        for isl in (500, 4000)
        for readers in (1, 4)
    ]
    cases += [Case(d, Load(n, isl, 500)) for n in (2, 32) for isl in (500, 4000)]
    solved = Cases(cases).solve(true)
    measured = [
        Measurement(case, float(tpot), float(ttft), index % 3)
        for index, (case, tpot, ttft) in enumerate(
            zip(cases, solved.tpot, solved.ttft, strict=True)
        )
    ]
    found = fit(measured, PUBLISHED, temper=0.5)
    assert found["ttft.handover"] == pytest.approx(0.2, rel=0.1)
    assert found["ttft.burst"] == pytest.approx(0.15, rel=0.15)
    assert found["ttft.wave.vllm"] == pytest.approx(PUBLISHED["ttft.wave.vllm"], rel=0.05)
    plain = Cases(cases[-4:])
    assert (plain.solve(true).ttft == plain.solve(PUBLISHED).ttft).all()


def test_profiles_are_files() -> None:
    fitted = load_profile()
    assert 0.1 < fitted.spread < 0.4
    again = read_profile(profile_text(fitted), "again")
    assert again.values == pytest.approx(fitted.values, rel=1e-3)
    for name, (_default, least, most, _what) in MEANINGS.items():
        assert least * 0.999 <= fitted[name] <= most * 1.001
    assert load_profile("published") is PUBLISHED
    with pytest.raises(RidgelineError, match="neither a file"):
        load_profile("nowhere.toml")
    for broken, message in (
        ("[values", "not TOML"),
        ("spread = 1", r"has no \[values\]"),
        (profile_text(fitted).replace('"overlap"', '"overlapp"'), "unknown: overlapp"),
        (profile_text(fitted).replace("spread = ", "spread = -"), "spread"),
        (profile_text(fitted).replace("spread_ttft_apart = ", "spread_ttft_apart = -"), "spread"),
        (profile_text(fitted).replace('"kv.stream" = 0.', '"kv.stream" = 9.'), "kv.stream = 9"),
    ):
        with pytest.raises(RidgelineError, match=message):
            read_profile(broken, "broken")
