"""`ridgeline plan`: what is found keeps what was asked, costs add up, nonsense gets one line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from ridgeline.cost.accelerator import Accelerator, accelerators, load_accelerator
from ridgeline.cost.engines import parse_engine
from ridgeline.cost.profile import load_profile
from ridgeline.errors import CapacityError, RequestError
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.choice import Asked
from ridgeline.plan.launch import ENGINES, launch
from ridgeline.plan.report import (
    break_even,
    distinct,
    dollars,
    failure_axis,
    html,
    ledger,
    why_lost,
)
from ridgeline.plan.search import Searched, search

H100 = load_accelerator("h100")
ASKED = Asked(1000, 200, 4, rate=8.0, ttft=0.5, itl=0.03, precisions=("fp8",), kv=("fp8",))


@pytest.fixture(scope="module")
def found() -> Searched:
    return search(load_configuration("llama-3.1-8b").config, [H100], ASKED)


def test_what_is_ranked_keeps_the_slo_and_the_budget(found: Searched) -> None:
    assert len(found.ranked) > 3
    costs = []
    for choice in found.ranked:
        assert choice.gpus <= ASKED.count
        assert choice.rate == pytest.approx(8.0)
        assert choice.most_rate >= 8.0 * (1 - 1e-9)
        assert choice.ttft_p50 <= 0.5
        assert choice.ttft_p50 <= choice.ttft_p99
        assert choice.tpot <= 0.03
        assert 0.9 <= choice.within <= 1.0
        assert choice.in_flight <= choice.limit
        paid = choice.usd_per_mtok("output")
        assert paid is not None
        costs.append(paid[0])
    assert costs == sorted(costs)


def test_costs_add_up(found: Searched) -> None:
    for choice in found.ranked[:20]:
        assert choice.usd_per_hour is not None
        low, high, _date = choice.usd_per_hour
        hourly = choice.rate * 3600 / 1e6
        for bound, usd in enumerate((low, high)):
            parts = [choice.usd_per_mtok(what) for what in ("input", "generated")]
            tokens = (choice.input_tokens, choice.output_tokens)
            summed = sum(
                part[bound] * count * hourly
                for part, count in zip(parts, tokens, strict=True)
                if part is not None
            )
            assert summed == pytest.approx(usd)
        computed, cached = (choice.usd_per_mtok(what) for what in ("input", "cached_input"))
        assert computed is not None
        assert cached is not None
        assert 0 < cached[0] < 0.5 * computed[0], "a cached prompt is looked at, not computed"


def test_a_long_prompt_leaves_the_answer_its_cost() -> None:
    long = replace(ASKED, input_tokens=128000, output_tokens=500, count=1, rate=None, ttft=None)
    best = search(
        load_configuration("llama-3.1-8b").config, [H100], replace(long, itl=None)
    ).ranked[0]
    written, read = best.usd_per_mtok("generated"), best.usd_per_mtok("input")
    assert written is not None
    assert read is not None
    # Some 1.5 of 11 seconds are steps of answers, and 500 tokens of 128,500.
    assert 2 * read[0] < written[0] < 100 * read[0]
    assert best.prompts_share == pytest.approx(
        1.0 - 500 * written[0] / 1e6 / (500 * written[0] / 1e6 + 128000 * read[0] / 1e6)
    )
    assert [dollars((usd, 2 * usd)) for usd in (1.234, 0.0123, 0.00456, 0.000078)] == [
        "1.23 - 2.47", "0.01 - 0.02", "0.005 - 0.009", "0.00008 - 0.0002",
    ]  # fmt: skip
    assert dollars((0.0, 0.0)) == "0.00"


def test_a_rank_holds_what_it_is_given(found: Searched) -> None:
    for choice in found.ranked[:20]:
        memory = ledger(choice)
        assert memory.weights > 0
        assert memory.weights + memory.values + memory.cache <= memory.usable


def test_a_tighter_slo_is_never_cheaper(found: Searched) -> None:
    config = load_configuration("llama-3.1-8b").config
    tight = search(config, [H100], replace(ASKED, itl=0.012, percentile=99.0))
    best, tighter = (s.ranked[0].usd_per_mtok("output") for s in (found, tight))
    assert best is not None
    assert tighter is not None
    assert tighter[0] >= best[0]
    assert all(c.ttft_p99 <= 0.5 for c in tight.ranked)


def test_the_front_is_one(found: Searched) -> None:
    points = [(c.tpot, paid[0]) for c in found.front if (paid := c.usd_per_mtok("output"))]
    assert len(points) > 2
    assert points == sorted(points)
    assert all(a[1] > b[1] for a, b in pairwise(points))


def test_reasons(found: Searched) -> None:
    best, *others = distinct(found.ranked, 5)
    assert others
    assert all(why_lost(best, other) for other in others)
    assert {"queue", "cache"} <= {what for what, _ in failure_axis(best, has_slo=True)}
    said = " ".join(text for _, text in failure_axis(best, has_slo=False))
    assert "SLO" not in said
    assert "do not host it" in break_even(best, 0.001)
    assert "cheaper below" in break_even(best, 100.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_launch_says_the_layout(found: Searched, engine: str) -> None:
    for choice in found.ranked:
        text = launch(choice, "owner/model", engine)
        assert "owner/model" in text
        tp = choice.deployment.mesh.tp
        if engine == "vllm":
            assert f"--tensor-parallel-size {tp}" in text
            assert "--quantization fp8" in text
            assert ("--kv-transfer-config" in text) == (choice.prefill_workers > 0)


def test_a_checkpoint_is_not_served_as_what_it_is_not(found: Searched) -> None:
    """Names of checkpoints say what their weights are: FP8 are not made of four bits."""
    choice = next(c for c in found.ranked if c.precision == "fp8")
    other = launch(choice, "owner/Model-V3-NVFP4", "vllm")
    assert "vllm serve owner/Model-V3 " in other
    assert "weights are fp8; those of owner/Model-V3-NVFP4 are nvfp4" in other
    own = launch(choice, "owner/Model-8B-FP8", "sglang")
    assert "--model-path owner/Model-8B-FP8 " in own
    assert "stands for" not in own
    made = launch(choice, "owner/Model-8B", "sglang")
    assert "--quantization fp8" in made
    four = launch(replace(choice, precision="nvfp4"), "owner/Model-8B", "trtllm")
    assert "owner/Model-8B stands for a checkpoint of it whose weights are nvfp4" in four
    assert "stands for" not in launch(replace(choice, precision="int4"), "owner/M-AWQ", "vllm")


def test_experts_are_laid_out_across_ranks() -> None:
    config = load_configuration("qwen3-235b").config
    asked = replace(ASKED, count=8, rate=None, ttft=None, precisions=("nvfp4",))
    ranked = search(config, [load_accelerator("b200")], asked).ranked
    assert any(c.deployment.mesh.ep > 1 for c in ranked)
    assert all(c.rate == c.most_rate for c in ranked)


def test_nothing_that_fits_says_how_many_would() -> None:
    config = load_configuration("llama-3.3-70b").config
    with pytest.raises(CapacityError, match="take --count"):
        search(config, [H100], replace(ASKED, count=1, precisions=("bf16",)))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gpu", "h300"], "nearest: h200"),
        (["--rate", "0"], "--rate"),
        (["--rate", "inf"], "--rate: inf requests a second: give one above 0, up to a million"),
        (["--rate", "2e6"], "up to a million"),
        (["--count", "0"], "--count"),
        (["--slo", "ttft=1us"], "the best first token comes after"),
        (["--slo", "speed=3"], "--slo"),
        (["--emit", "ollama"], "there are: ridgeline, vllm"),
        (["--max-cost", "0.01"], "costs \\$"),
        (["--max-cost", "9", "--gpu", "h100,maia"], "no price of maia-200 is known"),
        (["--price", "spot"], "'spot' of h200-sxm; there are: owned, reserved, on-demand"),
        (["--price", "spot", "--gpu", "maia"], "there are: none"),
        (["--gpu", "m3-max"], "say how much memory it has, as m3-max:32GB"),
        (["--precision", "fp3"], "there are: bf16"),
        (["--slo-at", "p42"], "there are: p50"),
    ],
)
def test_nonsense_gets_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--count", "2"] if "--count" not in words else []
    quick = [] if "--precision" in words else ["--precision", "fp8", "--kv", "fp8"]
    assert main(["plan", "llama-3.1-8b", *common, *quick, *words]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert re.search(told, said)


def test_json_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "plan.html"
    words = ["plan", "llama-3.1-8b", "--gpu", "h100", "--count", "2", "--rate", "4", "--top", "2"]
    words += ["--precision", "fp8", "--kv", "fp8", "--json", "--html", str(page)]
    words += ["--emit", "sglang"]
    assert main(words) == 0
    first = capsys.readouterr().out
    told = json.loads(first)
    (one,) = told["models"].values()
    ranked = one["ranked"]
    assert one["front"]
    assert "queue" in one["breaks"]
    assert ranked[0]["usd_per_mtok"]["output"][0] > 0
    assert ranked[0]["usd_per_mtok"]["cached_input"][1] > 0
    assert ranked[0]["most_requests_per_second_factor"] > 1
    assert "sglang.launch_server --model-path meta-llama/" in told["launch"]
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "attn.attend" in text  # what the roofline's letters stand for
    memory = text[text.index("A rank's memory") :]
    memory = memory[: memory.index("</svg>")]
    labels = re.findall(r'text-anchor="end">([^<]*)</text><rect', memory)
    assert len(labels) == len(set(labels)) == 2
    assert all(label.startswith("fp8/fp8 tp") for label in labels), "as the table names them"
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert main(words) == 0
    assert capsys.readouterr().out == first


def test_a_model_that_does_not_fit_keeps_nobody_from_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--gpu", "h100", "--count", "1", "--precision", "fp8", "--kv", "fp8", "--no-trials"]
    words = ["plan", "llama-3.1-405b", "--compare", "llama-3.1-8b", *quick]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert re.search(r"405B.*nothing fits", said)
    assert "Llama-3.1-8B" in said
    page = tmp_path / "plan.html"
    assert main([*words, "--html", str(page)]) == 2
    assert "--html is of" in capsys.readouterr().err
    assert not page.exists()


def test_a_trace_is_the_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.jsonl"
    lines = [{"timestamp": 500 * i, "input_length": 900, "output_length": 90} for i in range(9)]
    trace.write_text("".join(json.dumps(one | {"hash_ids": []}) + "\n" for one in lines))
    words = ["plan", "llama-3.1-8b", "--count", "1", "--precision", "fp8", "--kv", "fp8"]
    assert main([*words, "--trace", str(trace)]) == 0
    assert "900 + 90 tokens, 2 requests/s" in capsys.readouterr().out


def test_errors_are_typed() -> None:
    for wrong in ({"input_tokens": 0}, {"count": 9999}, {"rate": -1.0}):
        with pytest.raises(RequestError):
            replace(ASKED, **wrong).check()  # type: ignore[arg-type]


def test_the_engines_version_and_the_profile_matter(found: Searched) -> None:
    config = load_configuration("llama-3.1-8b").config
    older = search(config, [H100], replace(ASKED, version="0.12.0"))
    assert older.ranked[0].deployment.era == "vllm-0.13"
    assert found.ranked[0].deployment.era == "vllm"
    published = search(config, [H100], replace(ASKED, profile=load_profile("published")))
    assert published.ranked[0].deployment.profile.name != found.ranked[0].deployment.profile.name
    assert published.best_itl != found.best_itl


@pytest.mark.parametrize("text", ["vlm", "vllm:", "vllm:new", "llama.cpp"])
def test_an_engine_is_one_that_is_known(text: str) -> None:
    with pytest.raises(RequestError, match="--engine"):
        parse_engine("--engine", text)


def test_models_that_are_compared_need_no_first_one(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--gpu", "h100", "--count", "1", "--input", "500", "--output", "100", "--no-trials"]
    names = "llama-3.1-8b,qwen3-8b"
    assert main(["plan", "--compare", names, *asked, "--precision", "fp8", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["models"]) == 2
    assert main(["plan", *asked]) == 2
    assert "MODEL: say which" in capsys.readouterr().err


@pytest.mark.parametrize("accelerator", accelerators(), ids=lambda a: a.name)
def test_every_accelerator_can_be_planned_for(accelerator: Accelerator) -> None:
    """Also one whose links or prices nobody states: alone, and ranked by its time."""
    sized = (
        accelerator if accelerator.memory_bytes else load_accelerator(f"{accelerator.name}:64GB")
    )
    asked = Asked(1000, 200, 4, precisions=("int4",), kv=("bf16",))
    found = search(load_configuration("llama-3.1-8b").config, [sized], asked)
    assert found.ranked
    chip = sized.chip()
    assert chip.is_joined or all(c.deployment.mesh.gpus == 1 for c in found.ranked)
    assert chip.nic_bytes_per_second or not any(c.prefill_workers for c in found.ranked)
    if not chip.is_joined:
        with pytest.raises(CapacityError, match="no link that would join several is known"):
            search(load_configuration("llama-3.1-405b").config, [sized], asked)


def test_without_a_price_the_time_of_accelerators_counts() -> None:
    config = load_configuration("llama-3.1-8b").config
    maia = load_accelerator("maia")
    asked = replace(ASKED, rate=1.0, precisions=("fp8", "bf16"), ttft=None, itl=None)
    best, *others = search(config, [load_accelerator("4090")], asked).ranked
    assert best.gpus == 1, "no price is known, but two cost more than one"
    assert [c.gpus for c in others] == sorted(c.gpus for c in others)
    for other in others:
        assert "same price" not in why_lost(best, other)
        assert "no price being known" in why_lost(best, other)
    mixed = search(config, [maia, H100], replace(asked, rate=None))
    assert mixed.ranked[0].accelerator is H100
    assert {c.accelerator.name for c in mixed.front} == {H100.name}, "dollars only"
    last = mixed.ranked[-1]
    assert last.accelerator is maia
    assert "of no known price" in why_lost(mixed.ranked[0], last)
    alone = search(config, [load_accelerator("4090")], replace(asked, rate=None))
    page = html("", "", alone, alone.ranked[:2])
    assert len(alone.front) > 1
    assert "hours of accelerators a million output tokens; no price is known" in page
    assert "accelerators' time, at full load" in page
