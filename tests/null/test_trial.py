"""Plans tried in the simulator: what is told was seen, chunks, drafts and traces matter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from ridgeline.cli.plan_asked import coming_of
from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.cost.described import describe
from ridgeline.errors import RequestError
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.choice import CHUNKS, Asked, Choice, Drafter
from ridgeline.plan.launch import launch
from ridgeline.plan.report import distinct, why_lost
from ridgeline.plan.search import rank, search
from ridgeline.plan.trial import Drafted, engine_of, keeps, see, try_choices, with_replicas
from ridgeline.step import StepShape

H100 = load_accelerator("h100")
ASKED = Asked(1000, 100, 4, rate=12.0, ttft=0.4, itl=0.04, precisions=("fp8",), kv=("fp8",))


def ranked(asked: Asked, model: str = "llama-3.1-8b") -> list[Choice]:
    return distinct(search(load_configuration(model).config, [H100], asked).ranked, 6)


@pytest.fixture(scope="module")
def choices() -> list[Choice]:
    return ranked(ASKED)


def test_the_formula_is_near_what_is_seen(choices: list[Choice]) -> None:
    coming = coming_of(None, 1000, 100)
    for choice in choices[:3]:
        load = coming.loads(choice.rate, 1500)
        seen = see(choice, engine_of(choice, ASKED, 64), ASKED, load)
        assert seen is not None
        assert choice.ttft_p50 == pytest.approx(seen.ttft_p50, rel=0.25)
        assert choice.ttft_p99 == pytest.approx(seen.ttft_p99, rel=0.4)
        assert choice.tpot == pytest.approx(seen.itl_p50, rel=0.15)


def test_what_keeps_the_slo_keeps_it_with_no_more_than_it_needs(choices: list[Choice]) -> None:
    coming = coming_of(None, 1000, 100)
    tight = replace(ASKED, ttft=0.16, percentile=99.0)
    tried = try_choices(choices, tight, coming.loads, rank, wanted=2)
    assert tried.ranked
    for choice in tried.ranked:
        assert choice.seen is not None
        assert choice.seen.within >= 0.99
        assert choice.gpus <= ASKED.count
        if choice.replicas > 1:
            fewer = with_replicas(choice, choice.replicas - 1, tight)
            load = coming.loads(fewer.rate, choice.seen.requests)
            seen = see(fewer, engine_of(choice, tight, 64), tight, load)
            assert not keeps(replace(fewer, seen=seen), tight)
    again = try_choices(choices, tight, coming.loads, rank, wanted=2)
    assert [c.seen for c in again.ranked] == [c.seen for c in tried.ranked]


def test_the_runner_up_is_told_by_what_was_seen(choices: list[Choice]) -> None:
    tried = try_choices(choices, ASKED, coming_of(None, 1000, 100).loads, rank, wanted=2)
    best, other = tried.ranked
    assert best.seen is not None
    assert other.seen is not None
    assert best.late == best.seen.ttft_p99 != best.ttft_p99
    seen = replace(other.seen, ttft_p99=best.late / 2)
    assert f"{1e3 * seen.ttft_p99:,.0f} ms instead of" in why_lost(best, replace(other, seen=seen))


def test_a_fleet_that_cannot_keep_up_is_lost_though_its_answers_are_fast(
    choices: list[Choice],
) -> None:
    asked = replace(ASKED, ttft=None, rate=None)
    apart = next(c for c in choices if c.prefill_workers)
    too_much = replace(apart, rate=2.5 * apart.most_rate)
    load = coming_of(None, 1000, 100).loads(too_much.rate, 1500)
    seen = see(too_much, engine_of(apart, asked, 64), asked, load)
    assert seen is not None
    assert seen.grows
    tried = try_choices([too_much], asked, coming_of(None, 1000, 100).loads, rank, wanted=1)
    found = (*tried.ranked, *tried.lost)[0]
    assert found.rate < too_much.rate


def test_gaps_that_must_be_short_cut_prompts_in_chunks() -> None:
    free = ranked(replace(ASKED, count=1, rate=4.0))
    assert {c.chunk for c in free} == {8192}
    bound = 0.8 * free[0].gap_p99
    asked = replace(ASKED, count=1, rate=4.0, gap=bound, chunks=CHUNKS)
    best = ranked(asked)[0]
    assert best.chunk < 8192
    assert best.gap_p99 <= bound
    load = coming_of(None, 1000, 100).loads(best.rate, 1000)
    seen = see(best, engine_of(best, asked, 64), asked, load)
    assert seen is not None
    assert seen.gap_p99 <= bound * 1.15
    for engine, flag in (
        ("vllm", f"--max-num-batched-tokens {best.chunk}"),
        ("sglang", f"--chunked-prefill-size {best.chunk}"),
        ("trtllm", f"--max_num_tokens {best.chunk}"),
        ("llama.cpp", f"-b {best.chunk}"),
        ("ridgeline", f"--max-tokens-per-step {best.chunk}"),
    ):
        text = launch(best, "owner/model", engine)
        assert flag in text
        assert str(best.rows) in text


def test_llama_cpp_is_started_with_what_it_can_do() -> None:
    """It has 256 slots, and ends with an error above; a cache of bytes needs flash attention."""
    best = ranked(replace(ASKED, count=1, rate=4.0))[0]
    spread = replace(best.deployment, mesh=Mesh(dp=8, ep=8))
    many = replace(best, in_flight=3000.0, limit=4000.0, kv="fp8", deployment=spread)
    text = launch(many, "owner/model", "llama.cpp")
    assert "-np 256 " in text
    assert f"# it runs 256 requests at once at most, of {many.rows} planned" in text
    assert "# it has no dp8-ep8" in text
    assert "-fa on -ctk q8_0 -ctv q8_0" in text
    assert "--tensor-split 1,1,1,1,1,1,1,1" in text


def test_drafts_that_are_accepted_make_answers_faster() -> None:
    config = load_configuration("llama-3.1-8b").config
    small = describe(load_configuration("llama-3.2-1b").config, "fp8")
    drafter = Drafter("draft", 0.8, "small/model", small)
    asked = replace(ASKED, rate=2.0, count=1, drafts=(0, 3), drafter=drafter)
    found = search(config, [H100], asked).ranked
    plain = next(c for c in found if not c.drafts)
    drafted = next(c for c in found if c.drafts)
    assert drafted.tpot < plain.tpot
    assert "draft3" in drafted.name
    assert 0.05 < drafted.draft_share < 1.0
    load = coming_of(None, 1000, 100).loads(2.0, 400)
    seen = [see(c, engine_of(c, asked, 64), asked, load) for c in (plain, drafted)]
    assert seen[0] is not None
    assert seen[1] is not None
    assert seen[1].itl_p50 < seen[0].itl_p50
    assert drafted.tpot == pytest.approx(seen[1].itl_p50, rel=0.15)
    useless = replace(asked, drafter=replace(drafter, acceptance=0.0), drafts=(3,))
    assert search(config, [H100], useless).ranked[0].tpot > plain.tpot
    assert '"model": "small/model", "num_speculative_tokens": 3' in launch(drafted, "m", "vllm")
    assert "STANDALONE" in launch(drafted, "m", "sglang")
    assert "DraftTarget" in launch(drafted, "m", "trtllm")


def test_a_step_that_yields_two_tokens_is_two_steps_of_half() -> None:
    class Constant:
        def __call__(self, shape: StepShape) -> float:
            return 0.01 + 0.001 * shape.num_tokens

        def decode_run(self, contexts: object, count: int) -> object:
            raise NotImplementedError

    times = Drafted(Constant(), 1, 2.0, 1.5)  # type: ignore[arg-type]
    answers = StepShape((1, 1), (9, 9), 2)
    assert times(answers) == pytest.approx((0.01 + 0.004) * 1.5 / 2.0)
    mixed = StepShape((1, 1, 100), (9, 9, 0), 3)
    assert times(mixed) == pytest.approx(0.112 - 0.012 + 0.014 * 0.75)
    assert times(StepShape((100,), (0,), 1)) == pytest.approx(0.11)


def test_a_trace_is_tried_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts that begin alike are found in the cache, of which means know nothing."""
    words = ["plan", "llama-3.1-8b", "--gpu", "h100", "--count", "1", "--precision", "fp8"]
    words += ["--kv", "fp8", "--slo", "ttft=1s", "--top", "1", "--json"]
    rates = []
    for name, shared in (("apart", False), ("alike", True)):
        trace = tmp_path / f"{name}.jsonl"
        lines = []
        for i in range(300):
            ids = [k if shared else 10 * i + k for k in range(7)] + [100_000 + i]
            lines.append(
                {"timestamp": 100 * i, "input_length": 4000, "output_length": 40, "hash_ids": ids}
            )
        trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert main([*words, "--trace", str(trace), "--rate", "1.5"]) == 0
        (one,) = json.loads(capsys.readouterr().out)["models"].values()
        seen = one["ranked"][0]["simulated"]
        assert seen["requests"] == 1000
        assert (seen["hit_rate"] > 0.5) == shared
        rates.append(seen["ttft_p50"])
    assert rates[1] < rates[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--chunk", "12"], "--chunk"),
        (["--chunk", "many"], "whole numbers"),
        (["--drafts", "2"], "no predictor"),
        (["--drafts", "0,40", "--acceptance", "0.5"], "0 to 16"),
        (["--acceptance", "0.5"], "nothing is proposed"),
        (["--drafts", "2", "--acceptance", "1.5"], "is not a share"),
        (["--input", "200000"], "is made for"),
        (["--slo", "itl99=1us"], "99 of 100 gaps within"),
        (["--slo", "ttft=32ms", "--slo-at", "p99", "--rate", "20"], "best first token"),
    ],
)
def test_nonsense_gets_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--gpu", "h100", "--count", "1", "--precision", "fp8", "--kv", "fp8"]
    assert main(["plan", "llama-3.1-8b", *quick, *words]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert told in said


def test_asked_is_checked() -> None:
    with pytest.raises(RequestError, match="nothing is there"):
        replace(ASKED, drafts=(2,)).check()
