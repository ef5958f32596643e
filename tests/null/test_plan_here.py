"""`ridgeline plan --hardware this`: what is ranked fits, keeps the SLO, costs what is stated."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from ridgeline.cli.plan_asked import coming_of
from ridgeline.cli.plan_here import launch, model_here
from ridgeline.config import Settings, read_settings
from ridgeline.cost.count import count_parameters
from ridgeline.errors import CapacityError
from ridgeline.plan.here_search import AskedHere, FoundHere, in_format, search_here

GGUF = Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf"
ASKED = AskedHere(
    40, 8, ttft=1.0, itl=0.2, watts=50.0, usd_per_kwh=0.4, usd_per_hour=0.1,
    precisions=("stored", "q8_0"), kv=("bf16", "int8"),
)  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a machine that nobody measured: steps are the least possible then."""
    return replace(read_settings(), cache_dir=tmp_path_factory.mktemp("cache"), threads=1)


@pytest.fixture(scope="module")
def found(settings: Settings) -> FoundHere:
    model = model_here(str(GGUF), settings)
    return search_here([model], settings, ASKED, coming_of(None, 40, 8).loads)


def test_what_is_ranked_keeps_the_slo_the_cheapest_first(found: FoundHere) -> None:
    assert found.ranked
    assert found.num_tried == 4
    costs = []
    for choice in found.ranked:
        assert choice.seen is not None
        assert choice.seen.within >= 0.9
        assert choice.most_rate >= choice.rate > 0
        assert choice.alone_ttft <= choice.seen.ttft_p50 * 1.001
        paid, joules = choice.usd_per_mtok(ASKED), choice.joules_per_token(ASKED)
        assert paid is not None
        assert joules is not None
        tokens = choice.rate * 8
        assert joules == pytest.approx(50 * choice.busy / tokens)
        hourly = 0.1 + 0.4 * 0.05 * choice.busy
        assert paid * tokens * 3600 / 1e6 == pytest.approx(hourly)
        costs.append(paid)
    assert costs == sorted(costs)


def test_formats_have_their_sizes(settings: Settings) -> None:
    model = model_here(str(GGUF), settings)
    sizes = [count_parameters(in_format(model, p)).num_bytes for p in ("bf16", "q8_0", "q4_0")]
    assert sizes == sorted(sizes, reverse=True)
    assert count_parameters(in_format(model, "stored")).num_bytes > 0


def test_the_command_is_what_was_tried(found: FoundHere) -> None:
    for choice in found.ranked:
        text = launch(choice)
        assert f"--kv-format {choice.kv}" in text
        assert f"--max-tokens-per-step {choice.chunk}" in text
        assert ("must be a file" in text) == (choice.precision != "stored")


def test_a_rate_that_is_asked_is_the_one_that_is_tried(settings: Settings) -> None:
    model = model_here(str(GGUF), settings)
    asked = replace(ASKED, rate=2.0, kv=("bf16",), precisions=("stored",))
    (one,) = search_here([model], settings, asked, coming_of(None, 40, 8).loads).ranked
    assert one.rate == 2.0
    assert one.most_rate > 2.0
    assert one.busy < 0.5
    hopeless = replace(asked, rate=1e5)
    lost = search_here([model], settings, hopeless, coming_of(None, 40, 8).loads)
    assert not lost.ranked
    assert lost.lost[0].most_rate == 0.0


def test_a_model_that_is_too_large_is_told(settings: Settings) -> None:
    model = model_here("llama-3.1-405b", settings)
    asked = replace(ASKED, precisions=("q4_0",), kv=("bf16",))
    with pytest.raises(CapacityError, match=r"none of \d+ ways fits"):
        search_here([model], settings, asked, coming_of(None, 40, 8).loads)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cache-dir", str(tmp_path), "plan", str(GGUF), "--hardware", "this"]
    words += ["--input", "40", "--output", "8", "--rate", "2", "--kv", "bf16"]
    words += ["--precision", "stored"]
    page = tmp_path / "here.html"
    assert main([*words, "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"this machine, \d+ threads", said)
    assert "a bound" in said
    assert "say --watts" in said
    assert "<table" in page.read_text(encoding="utf-8")
    assert main([*words, "--emit", "ridgeline"]) == 0
    assert "ridgeline serve" in capsys.readouterr().out
    assert main([*words, "--json", "--watts", "50", "--usd-per-kwh", "0.3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ranked"][0]["usd_per_mtok_output"] > 0
    assert told["ranked"][0]["simulated"]["requests"] == 300


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--hardware", "that"], "there is: this"),
        (["--hardware", "this", "--gpu", "h100"], "--gpu"),
        (["--hardware", "this", "--emit", "vllm"], "there is: ridgeline"),
        (["--hardware", "this", "--precision", "fp8"], "on this machine: stored"),
        (["--hardware", "this", "--kv", "fp8"], "on this machine: bf16"),
        (["--hardware", "this", "--usd-per-kwh", "0.3"], "--watts"),
        (["--hardware", "this", "--slo", "ttft=1us", "--kv", "bf16"], "comes nearest: alone"),
        (["--hardware", "this", "--rate", "0"], "--rate"),
        (["--watts", "50"], "is of this machine"),
    ],
)
def test_nonsense_gets_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--cache-dir", str(tmp_path), "plan", str(GGUF), "--input", "40", "--output", "8"]
    assert main([*common, *words]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert told in said
