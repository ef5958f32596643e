"""`ridgeline simulate` and `ridgeline cache-roi`: what they print, and what they refuse."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from ridgeline.cost.accelerator import load_accelerator
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.asked import parse_duration, parse_failure, parse_slo, parse_straggler
from ridgeline.plan.deployed import Knobs, replica_on
from ridgeline.plan.fleet import Failure, Fleet, Straggler
from ridgeline.plan.knees import find_knees
from ridgeline.plan.load import Lengths, Load, closed, poisson
from ridgeline.plan.tally import Slo

Output = pytest.CaptureFixture[str]
SMALL = ["simulate", "llama-3.1-8b", "--on", "h100", "--precision", "fp8", "--requests", "60"]
SMALL += ["--input", "100-900", "--output", "5-40"]


def mooncake(folder: Path) -> Path:
    """A trace of Mooncake's form: turns of conversations, and one beginning for all."""
    rng, path = random.Random(3), folder / "trace.jsonl"
    known: list[list[int]] = [[0]]
    with path.open("w") as file:
        for index in range(150):
            ids = [*rng.choice(known)[:8], *(1000 * index + n for n in range(1, 3))]
            known.append(ids)
            entry = {
                "timestamp": 700 * index,
                "input_length": 512 * len(ids) - rng.randrange(200),
                "output_length": rng.randrange(1, 60),
                "hash_ids": ids,
                "session_id": f"s{index % 7}",
            }
            file.write(json.dumps(entry) + "\n")
    return path


def test_a_fleet_under_poisson(capsys: Output) -> None:
    line = [*SMALL, "--rate", "20", "--replicas", "3", "--slo", "ttft=2s,itl=80ms", "--seed", "7"]
    assert main(line) == 0
    text = capsys.readouterr().out
    for word in ("60 asked, 60 finished", "goodput", "TTFT", "ITL", "preemptions", "cost", "note:"):
        assert word in text
    assert main([*line, "--json"]) == 0
    first = capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    assert capsys.readouterr().out == first, "same seed, same bytes"
    fields = json.loads(first)
    assert fields["requests"]["finished"] == fields["ttft"]["count"] == 60
    assert fields["gpus"] == 3
    assert fields["tokens"]["output"] - 60 == fields["itl"]["count"]
    low, high = fields["cost"]["usd_per_million_output"]
    assert 0 < low < high
    assert main([*line[:-1], "8", "--json"]) == 0
    assert capsys.readouterr().out != first


def test_a_trace_with_failures_and_pages(tmp_path: Path, capsys: Output) -> None:
    page = tmp_path / "fleet.html"
    trace = str(mooncake(tmp_path))
    line = ["simulate", "llama-3.1-8b", "--on", "h100", "--trace", trace, "--replicas", "3"]
    line += ["--router", "session", "--fail", "replica=1@30s+20s", "--fail", "2@40s"]
    line += ["--straggler", "0x1.5@10s", "--rate", "2", "--html", str(page), "--json"]
    assert main(line) == 0
    fields = json.loads(capsys.readouterr().out)
    requests = fields["requests"]
    assert requests["asked"] == requests["finished"] == 150
    assert requests["per_second_asked"] == pytest.approx(2, rel=0.05)
    assert min(fields["over_time"]["alive"]) < 3
    assert 0.2 < fields["prefix_hit_rate"] < 0.9
    text = page.read_text()
    assert "<svg" in text
    assert not re.search(r"(src|href)=|<script|url\(", text), "nothing from outside"
    pytest.importorskip("matplotlib")
    picture = tmp_path / "fleet.png"
    assert main([*line, "--png", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_steps_have_an_engines_overheads(capsys: Output) -> None:
    """Prompts in small pieces: vLLM launches such steps as pieces of CUDA graphs since 0.8."""
    line = [*SMALL, "--rate", "8", "--step-tokens", "256", "--json"]
    gaps = {}
    for engine in ("vllm", "vllm:0.7", "trtllm"):
        assert main([*line, "--engine", engine]) == 0
        fields = json.loads(capsys.readouterr().out)
        assert fields["engine"] == engine
        gaps[engine] = fields["itl"]["p99"]
    assert main(line) == 0
    fields = json.loads(capsys.readouterr().out)
    assert (fields["engine"], fields["itl"]["p99"]) == ("vllm", gaps["vllm"])
    assert min(gaps["vllm:0.7"], gaps["trtllm"]) > 1.2 * gaps["vllm"]


def test_prompts_and_answers_apart(capsys: Output) -> None:
    line = [*SMALL, "--rate", "5", "--disaggregate", "1:2", "--json"]
    assert main(line) == 0
    apart = json.loads(capsys.readouterr().out)
    assert (apart["replicas"], apart["prefill_replicas"]) == (3, 1)
    assert apart["transfers"]["count"] == 60
    # Llama 3.1 8B: 32 layers, 8 KV heads of 128, keys and values in BF16.
    assert apart["transfers"]["bytes"] == apart["tokens"]["prompt"] * 32 * 8 * 128 * 2 * 2
    assert main([*line, "--link-gbs", "0.1"]) == 0
    slow = json.loads(capsys.readouterr().out)
    assert slow["transfers"]["mean_seconds"] > 100 * apart["transfers"]["mean_seconds"]
    assert slow["ttft"] == apart["ttft"]
    assert slow["e2e"]["p50"] > apart["e2e"]["p50"]


def test_where_it_breaks(capsys: Output) -> None:
    line = [*SMALL, "--concurrency", "8", "--rows", "16", "--limits", "--json"]
    assert main(line) == 0
    limits = json.loads(capsys.readouterr().out)["limits"]
    assert limits["rows"] == 16
    assert limits["queue_blows_up_at"] == pytest.approx(limits["throughput_per_replica"], rel=0.2)


def test_knees_are_where_closed_forms_have_them() -> None:
    from test_fleet import Linear, state

    # One row, answers of one token, 10 ms each: 100 a second, and not one more.
    times = Linear(step=0.01, token=0, context=0)
    lengths = Lengths(100, 100), Lengths(1, 1)

    def users(number: int, count: int) -> Load:
        return closed(number, *lengths, count, 0)

    def rate(per_second: float, count: int) -> Load:
        return poisson(per_second, *lengths, count, 0)

    found = find_knees(Fleet(lambda: state(rows=1), times), users, rate)
    assert found.throughput == pytest.approx(100)
    assert found.blow_up_rate == pytest.approx(100, rel=0.06)
    assert found.blow_up_busy > 0.85
    assert found.cache_requests is None
    assert found.lost_replicas(330, 5) == 1
    assert found.lost_replicas(800, 5) < 0

    # 40 blocks of 16 tokens; a request grows to 10 of them: four fit, the fifth does not.
    long = Lengths(100, 100), Lengths(60, 60)
    knee = find_knees(
        Fleet(lambda: state(rows=16, blocks=40), Linear()),
        lambda number, count: closed(number, *long, count, 0),
        lambda per_second, count: poisson(per_second, *long, count, 0),
        count=200,
    )
    assert knee.cache_requests == 5


@pytest.mark.parametrize(
    ("model", "accelerator", "precision", "kv"),
    [
        ("llama-3.3-70b", "h200", "fp8", "fp8"),
        ("deepseek-v3.1", "b200", "nvfp4", "bf16"),
        ("gemma-3-27b", "h100", "bf16", "bf16"),
        ("gpt-oss-120b", "h100", "mxfp4", "bf16"),
    ],
)
def test_a_replicas_cache_is_what_its_memory_holds(
    model: str, accelerator: str, precision: str, kv: str
) -> None:
    kind = replica_on(
        model,
        load_configuration(model).config,
        load_accelerator(accelerator),
        Knobs(),
        precision=precision,
        kv=kv,
    )
    memory = kind.gpus * load_accelerator(accelerator).chip().memory_bytes
    # Ranks may keep copies of what is shared, so what one row takes is a lower bound.
    assert 0 < kind.cache_tokens * kind.kv_bytes_per_token < memory
    state = kind.make()
    state.check_invariants()
    assert state.pool.num_blocks >= kind.cache_tokens // kind.knobs.block_tokens
    assert kind.kv_bytes(100) == pytest.approx(100 * kind.kv_bytes_per_token)


def test_cache_roi(tmp_path: Path, capsys: Output) -> None:
    page, trace = tmp_path / "cache.html", str(mooncake(tmp_path))
    line = ["cache-roi", "--trace", trace, "--model", "llama-3.3-70b", "--precision", "fp8"]
    assert main([*line, "--html", str(page)]) == 0
    text = capsys.readouterr().out
    for word in ("comes again", "cache", "CPU memory", "SSD", "tokens/s computed"):
        assert word in text
    assert " 0 s (p99)" not in text  # a share of a second is not none
    drawn = page.read_text()
    # On a phone: a plot stays as wide as its letters need, and sentences break.
    assert drawn.count("<svg") == drawn.count("<div class=wide><svg") == 1
    assert "<table class=said>" in drawn
    assert 'name="viewport"' in drawn
    assert main([*line, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    rates = [point["hit_rate"] for point in fields["curve"]]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(fields["most"])
    tier = fields["tiers"][1]
    assert tier["block_moved_seconds"] == pytest.approx(512 * fields["kv_bytes_per_token"] / 6.4e10)
    assert main(["cache-roi", "--trace", trace]) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--on", "h9000", "--rate", "1"], "nearest"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        ([], "--rate R, --concurrency C or --trace FILE"),
        (["--rate", "1", "--concurrency", "2"], "--concurrency"),
        (["--concurrency", "0"], "--concurrency"),
        (["--rate", "1", "--slo", "speed=1s"], "ttft, itl"),
        (["--rate", "1", "--slo", "ttft=fast"], "500ms"),
        (["--rate", "1", "--slo", "ttft=0"], "nothing takes no time"),
        (["--rate", "1", "--fail", "3"], "replica=3@120s"),
        (["--rate", "1", "--fail", "7@1s"], "0 to 0"),
        (["--rate", "1", "--straggler", "0x"], "replica=2x1.5"),
        (["--rate", "1", "--disaggregate", "0:1"], "2:6"),
        (["--rate", "1", "--disaggregate", "1:1", "--replicas", "5"], "are 2"),
        (["--rate", "1", "--router", "best"], "least-loaded"),
        (["--rate", "1", "--router", "session"], "the load has none"),
        (["--rate", "1", "--policy", "best"], "fcfs"),
        (["--rate", "1", "--input", "9-3"], "--input"),
        (["--rate", "1", "--output", "0"], "--output"),
        (["--rate", "1", "--precision", "fp3"], "bf16"),
        (["--rate", "1", "--engine", "tgi"], "there are: trtllm, vllm, sglang"),
        (["--rate", "1", "--engine", "vllm:new"], "not a version, as vllm:0.12"),
        (["--rate", "1", "--on", "this", "--engine", "vllm"], "--engine"),
        (["--rate", "1", "--price", "stolen"], "on-demand"),
        (["--rate", "1", "--rows", "0"], "--rows"),
        (["--rate", "1", "--requests", "0"], "--requests"),
        (["--rate", "1", "--lost", "found"], "kept, anew"),
        (["--trace", "/nowhere.csv"], "/nowhere.csv"),
        (["--rate", "1", "--itl-target", "1us"], "itl_target"),
        (["--on", "l4", "--rate", "1", "--tp", "1", "--precision", "bf16"], "weights"),
    ],
)
def test_nonsense_is_one_line(line: list[str], said: str, capsys: Output) -> None:
    model = "llama-3.3-70b" if "l4" in line else "llama-3.1-8b"
    assert main(["simulate", model, "--on", "h100", *line]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_slo_that_nothing_meets_is_told_the_best(capsys: Output) -> None:
    assert main([*SMALL, "--rate", "5", "--slo", "ttft=1us"]) == 0
    assert "nothing met the SLO; the best that was had: ttft p50" in capsys.readouterr().out


def test_what_people_type() -> None:
    assert [parse_duration("x", t) for t in ("500ms", "2s", "1.5m", "3", "1h")] == [
        0.5, 2.0, 90.0, 3.0, 3600.0,
    ]  # fmt: skip
    assert parse_slo("ttft=500ms, tpot=40ms") == Slo(ttft=0.5, itl=0.04)
    assert parse_failure("replica=3@120s+1m") == Failure(3, 120.0, 60.0)
    assert parse_failure("3@2") == Failure(3, 2.0)
    assert parse_straggler("replica=2x1.5@30s") == Straggler(2, 1.5, 30.0)


@pytest.mark.parametrize(
    ("option", "target", "told"),
    [
        ("--png", "/nowhere/x.png", "no such folder"),
        ("--html", "/nowhere/x.html", "no such folder"),
        ("--html", "/", "is a folder"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    option: str, target: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # The trace is not there: the work would end with that.
    assert main(["cache-roi", "--trace", "/nowhere/trace.jsonl", option, target]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {option}: ")
    assert told in said
