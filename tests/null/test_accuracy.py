"""docs/accuracy.md says what the code gives: some of its groups, predicted again."""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from accuracy import OWN, drawn_halves, errors, own_engine, predicted  # noqa: E402
from fit_serving import HALVES, SCORES, over_eight_of_ten  # noqa: E402
from serving_rows import FILE, fitted_groups, read_rows  # noqa: E402
from serving_sweeps import (  # noqa: E402
    first_months,
    gathered,
    held_steps,
    in_flight_of_capped,
    keeps_fp8,
    places_of_capped,
    split_of,
)
from wide_experts import wide_experts  # noqa: E402

from ridgeline.cost.chip import Mesh  # noqa: E402
from ridgeline.cost.profile import load_profile  # noqa: E402

PAGE = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")


def test_the_page_says_what_the_code_gives() -> None:
    profile = load_profile()
    wanted = {"Llama 3.1 70B", "Qwen3 32B", "gpt-oss 120B"}
    found = predicted(read_rows(FILE, wanted), profile)
    checked = 0
    for family, system, engine, precision, mode in (
        ("Llama 3.1 70B", "h200_sxm", "vllm", "fp8", "agg"),
        ("Llama 3.1 70B", "h200_sxm", "trtllm", "fp8", "agg"),
        ("Qwen3 32B", "h100_sxm", "trtllm", "fp8", "agg"),
        ("gpt-oss 120B", "b200_sxm", "vllm", "mxfp4", "agg"),
    ):
        name = f"| {family}, {system}, {engine}, {precision}, {mode} |"
        (line,) = [at for at in PAGE.splitlines() if at.startswith(name)]
        of = [
            p
            for p in found
            if (p[0].family, p[0].system, p[0].engine, p[0].precision, p[0].mode)
            == (family, system, engine, precision, mode)
        ]
        e = errors(of, "tpot", profile)
        stated = [float(x) for x in re.findall(r"([-+]?[0-9.]+)%?", line.removeprefix(name))]
        assert stated[0] == e.count
        assert stated[1:4] == pytest.approx([100 * e.mean, 100 * e.median, 100 * e.bias], abs=0.06)
        checked += e.count
    assert checked > 200


def test_our_own_engine_is_told_as_it_was_measured() -> None:
    found = json.loads(OWN.read_text(encoding="utf-8"))
    assert own_engine() in PAGE
    assert found["machine"] in PAGE
    kinds = {row["case"].split()[0] for row in found["rows"]}
    assert kinds == {"prefill", "decode", "serving"}
    for row in found["rows"]:
        errors = [p / m - 1 for p, m in zip(row["predicted"], row["measured"], strict=True)]
        assert row["error"] == pytest.approx(median(errors))


def test_drawn_halves_are_told_as_they_were_scored() -> None:
    splits = json.loads(HALVES.read_text(encoding="utf-8"))["splits"]
    assert drawn_halves() in PAGE
    assert len(splits) >= 8
    for name in SCORES:
        middle, low, high = over_eight_of_ten(splits, name)
        assert low <= middle <= high
        assert middle == pytest.approx(median(split[name] for split in splits))


def test_experts_over_many_ranks_are_told_as_they_are_predicted() -> None:
    found = wide_experts()
    assert len(found) > 20
    for one in found:
        assert one.predicted is not None
        error = one.predicted / one.stated - 1
        assert f"| {one.what} | {one.stated:.0f} | {one.predicted:.0f} | {error:+.0%} |" in PAGE
        assert abs(error) < 0.25, one.what


def test_what_is_held_out_was_not_fitted() -> None:
    rows = read_rows(FILE, set())
    assert len(rows) == 2508
    groups = fitted_groups(rows)
    assert sum(row.group in groups for row in rows) <= len(rows) // 2
    fitted, held = re.findall(r"(?:Fitted groups|Held out): (.*)\.", PAGE)
    assert set(fitted.split("; ")) == {f"{f} on {s}" for f, s in groups}
    assert not set(fitted.split("; ")) & set(held.split("; "))
    assert f"seed 6; {len(held.split('; '))} groups held out" in load_profile().source


def test_launch_scripts_say_what_the_file_leaves_out() -> None:
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        whole = [
            row
            for row in csv.DictReader(file)
            if row["system"] == "gb200" and row["mode"] == "agg" and int(row["tp_size"]) > 8
        ]
    asked = {
        (r["backend"], int(r["tp_size"]), int(r["isl"]), int(r["batch_size"]))
        for r in whole
        if r["attention_dp_size"] in ("", "1") and r["moe_ep_size"] in ("", "1")
    }
    assert len(asked) > 40
    for key in asked:
        split = split_of(*key)
        assert split is not None, key
        assert split.gpus == key[1]
    assert split_of("trtllm", 36, 1024, 144).drafts == 3  # type: ignore[union-attr]
    assert split_of("trtllm", 36, 1024, 64).drafts == 0  # type: ignore[union-attr]
    assert split_of("trtllm", 36, 1024, 145) is None
    # 160 requests at once on 16 places: 0 to 9 answers before each, 4.5 on average, and its own.
    assert places_of_capped(4, 8192) == 16
    assert in_flight_of_capped(16) == 16 * (1 + sum(range(10)) / 10)
    long = (8192, 1024)
    assert first_months("DeepSeek R1/V3", "b200_sxm", "nvfp4", 8, long, 32) == Mesh(tp=8)
    assert first_months("DeepSeek R1/V3", "b200_sxm", "nvfp4", 8, long, 64) == Mesh(dp=8, ep=8)
    assert first_months("DeepSeek R1/V3", "h200_sxm", "fp8", 8, long, 32) == Mesh(tp=8, ep=8)
    assert first_months("Llama 3.1 70B", "h200_sxm", "fp8", 8, long, 128) == Mesh(tp=8)
    assert first_months("gpt-oss 120B", "h200_sxm", "mxfp4", 4, long, 8) == Mesh(tp=4, ep=4)


def test_launch_scripts_say_for_how_long_new_requests_wait() -> None:
    of, groups = ("DeepSeek R1/V3", "b200_sxm"), Mesh(dp=8, ep=8)
    assert held_steps("trtllm", *of, groups, 900, 256, 1) == 8 * 900 / 256
    assert held_steps("trtllm", *of, groups, 900, 64, 1) == 60
    assert held_steps("trtllm", *of, Mesh(tp=8), 900, 64, 1) == 0
    assert held_steps("sglang", *of, Mesh(tp=8), 900, 16, 1) == 15
    # Alone one waits for all 20 steps; where one comes a step, one does so and 20 half as long.
    llama, both, mesh = "Llama 3.1 70B", (1024, 1024), Mesh(tp=4)
    assert gathered("trtllm", llama, mesh, both, 900, 900) == 21
    assert held_steps("trtllm", llama, "b200_sxm", mesh, 900, 900, 21) == (20 + 20 * 10) / 21
    few = gathered("trtllm", llama, mesh, both, 900, 1e-9)
    assert held_steps("trtllm", llama, "b200_sxm", mesh, 900, 1e-9, few) == pytest.approx(20)
    assert gathered("trtllm", llama, mesh, (8192, 1024), 900, 64) == 1
    assert gathered("trtllm", llama, Mesh(tp=8), both, 900, 64) == 1
    assert gathered("vllm", llama, mesh, both, 900, 64) == 1


def test_scripts_and_checkpoints_say_which_caches_are_fp8() -> None:
    assert keeps_fp8("vllm", "Llama 3.1 70B", "h100_sxm", "fp8", "")
    assert keeps_fp8("sglang", "DeepSeek R1/V3", "b300_sxm", "nvfp4", "0.5.10.post1")
    assert not keeps_fp8("sglang", "DeepSeek R1/V3", "h200_sxm", "fp8", "0.5.9")
    assert not keeps_fp8("vllm", "gpt-oss 120B", "b200_sxm", "mxfp4", "")
    assert keeps_fp8("vllm", "gpt-oss 120B", "b200_sxm", "mxfp4", "0.15.1")
    assert not keeps_fp8("trtllm", "gpt-oss 120B", "h200_sxm", "mxfp4", "")
    assert keeps_fp8("vllm", "MiniMax M2.5", "b200_sxm", "nvfp4", "0.19.0")
    assert not keeps_fp8("vllm", "MiniMax M2.5", "h100_sxm", "fp8", "0.18.0")
    assert not keeps_fp8("trtllm", "Llama 3.1 8B", "h100_sxm", "bf16", "1.0.0rc3")
