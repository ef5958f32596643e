"""Others' benchmark results: each format read, hostile ones refused, and `ridgeline fit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cli.main import main
from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.cost.deployment import deploy
from ridgeline.cost.described import describe
from ridgeline.cost.profile import load_profile
from ridgeline.errors import RidgelineError
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.results import read_results
from ridgeline.plan.steady import Case, Cases, Load

VLLM: dict[str, Any] = {
    "backend": "vllm",
    "model_id": "Qwen/Qwen3-32B",
    "max_concurrency": 16,
    "completed": 160,
    "total_input_tokens": 160 * 1000,
    "total_output_tokens": 160 * 500,
    "request_throughput": 2.0,
    "mean_ttft_ms": 150.0,
    "mean_tpot_ms": 12.5,
}
GENAI: dict[str, Any] = {
    "input_config": {"perf_analyzer": {"stimulus": {"concurrency": 8}}},
    "input_sequence_length": {"unit": "tokens", "avg": 1000.0},
    "output_sequence_length": {"unit": "tokens", "avg": 200.0},
    "inter_token_latency": {"unit": "ms", "avg": 9.0},
    "time_to_first_token": {"unit": "ns", "avg": 8e7},
}
LLAMA = [
    {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ns": 100_000_000},
    {"n_prompt": 0, "n_gen": 128, "n_depth": 4096, "avg_ns": 1_280_000_000},
]

OURS = [
    {"phase": "prefill", "batch": 1, "context": 512, "tokens_per_s": {"median": 2048.0}},
    {"phase": "decode", "batch": 4, "context": 2048, "tokens_per_s": {"median": 200.0}},
]


def written(path: Path, what: object) -> Path:
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return path


def test_each_format_is_read(tmp_path: Path) -> None:
    (run,) = read_results(written(tmp_path / "a", VLLM))
    assert (run.concurrency, run.input_tokens, run.output_tokens) == (16, 1000, 500)
    assert (run.tpot, run.ttft) == pytest.approx((0.0125, 0.15))
    unlimited = {**VLLM, "max_concurrency": None, "mean_e2el_ms": 6400.0}
    assert read_results(written(tmp_path / "b", unlimited))[0].concurrency == pytest.approx(12.8)
    (run,) = read_results(written(tmp_path / "c", GENAI))
    assert (run.concurrency, run.tpot, run.ttft) == pytest.approx((8, 0.009, 0.08))
    aiperf = {**GENAI, "input_config": {"loadgen": {"concurrency": 4}}}
    assert read_results(written(tmp_path / "d", aiperf))[0].concurrency == 4
    prompt, answer = read_results(written(tmp_path / "e", LLAMA))
    assert (prompt.input_tokens, prompt.ttft, prompt.tpot) == (512, 0.1, None)
    assert (answer.input_tokens, answer.output_tokens, answer.tpot) == (4096, 128, 0.01)
    prompt, answer = read_results(written(tmp_path / "g", OURS))
    assert (prompt.input_tokens, prompt.ttft, prompt.tpot) == (512, 0.25, None)
    assert (answer.concurrency, answer.input_tokens, answer.tpot) == (4, 2048, 0.02)
    lines = "\n".join(json.dumps(VLLM) for _ in range(3))
    assert len(read_results(written(tmp_path / "f", lines))) == 3


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing of the kind", "not JSON"),
        ([], "has no runs"),
        ([1], "an object is needed"),
        ({"x": 1}, "of no format"),
        ({**VLLM, "completed": 0}, "completed = 0"),
        ({**VLLM, "mean_tpot_ms": "fast"}, "a number is needed"),
        ('{"n_gen": 1e999, "n_prompt": 0}', "n_gen = inf"),
        ({**GENAI, "input_config": {}}, "states no concurrency"),
        ({**GENAI, "time_to_first_token": {"avg": 1, "unit": "fortnights"}}, "fortnights"),
        ({"n_gen": 1, "n_prompt": 1, "avg_ns": 5}, "run them apart"),
        ({**OURS[0], "tokens_per_s": 5}, "an object with median"),
        ({**OURS[0], "tokens_per_s": {"median": 0}}, "tokens_per_s.median = 0"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, what: object, message: str) -> None:
    with pytest.raises(RidgelineError, match=message):
        read_results(written(tmp_path / "results.json", what))


def test_fit_learns_a_slower_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = deploy(
        describe(load_configuration("qwen3-32b").config, "fp8"),
        chip=load_accelerator("h100").chip(),
        mesh=Mesh(tp=2),
    )
    loads = [Load(n, isl, 400) for n in (1, 8, 32) for isl in (500, 4000)]
    solved = Cases([Case(deployment, load) for load in loads]).solve(load_profile())
    rows = [
        {
            "concurrency": load.concurrency,
            "input_tokens": load.input_tokens,
            "output_tokens": load.output_tokens,
            "tpot_ms": 1250 * float(tpot),
            "ttft_ms": 1250 * float(ttft),
        }
        for load, tpot, ttft in zip(loads, solved.tpot, solved.ttft, strict=True)
    ]
    results, out = written(tmp_path / "results.json", {"rows": rows}), tmp_path / "ours.toml"
    named = ["fit", str(results), "--model", "qwen3-32b", "--gpu", "h100", "--tp", "2"]
    assert main([*named, "--precision", "fp8", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "TPOT: 6 runs; median error 20.0% before" in said
    assert "held out in turn" in said
    learned = load_profile(str(out))
    again = Cases([Case(deployment, load) for load in loads]).solve(learned)
    assert again.tpot / solved.tpot == pytest.approx(1.25, abs=0.1)
    assert learned.spread < 0.15
    assert main([*named, "--precision", "fp3"]) == 2
    assert main([*named[:4], "--gpu", "h1000"]) == 2
    assert "h1000" in capsys.readouterr().err
    assert main(["fit", str(written(tmp_path / "one.json", VLLM)), *named[2:]]) == 2
    assert "3 or more are needed" in capsys.readouterr().err


def row(concurrency: float = 1, **fields: float) -> dict[str, float]:
    known = {"input_tokens": 1000, "output_tokens": 200, "tpot_ms": 8.0, "ttft_ms": 50.0}
    return {"concurrency": concurrency, **known, **fields}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(8)] * 5, "5 runs of 1 loads: 3 or more are needed"),
        ([row(c, tpot_ms=0, ttft_ms=0) for c in (1, 2, 4)], "no run has a time"),
        ([row(1e14), row(2), row(4)], "run 0: 1e+14 a concurrency"),
        ([row(1, input_tokens=1e12), row(2), row(4)], "tokens of a prompt, where 1 to 1.67772e+07"),
        ([row(1, tpot_ms=1e12), row(2), row(4)], "1e+09 seconds a token"),
        ([row(1, tpot_ms=1e-9), row(2), row(4)], "is the unit right?"),
        ([row(1, tpot_ms=float("nan")), row(2)], "tpot_ms = nan: from 0 to"),
        ([row(1, tpot_ms=-3), row(2)], "tpot_ms = -3: from 0 to"),
    ],
)
def test_what_nobody_can_have_measured_is_no_profile(
    tmp_path: Path, rows: list[Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = written(tmp_path / "r.json", {"rows": rows}), tmp_path / "ours.toml"
    line = ["fit", str(path), "--model", "qwen3-32b", "--gpu", "h100", "--tp", "2"]
    assert main([*line, "--out", str(out)]) == 2
    assert words in (told := capsys.readouterr().err)
    assert told.count("\n") == 1
    assert not out.exists()


def test_ranks_that_do_not_part_the_heads_were_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(
        tmp_path / "r.json", "\ufeff" + json.dumps({"rows": [row(c) for c in (1, 2, 4)]})
    )
    for tp in ("0", "3"):
        line = ["fit", str(path), "--model", "qwen3-32b", "--gpu", "h100", "--tp", tp]
        assert main(line) == 2
        assert f"--tp: {tp} ranks do not part the 64 heads" in capsys.readouterr().err
    assert len(read_results(path)) == 3  # with a mark of order before it
