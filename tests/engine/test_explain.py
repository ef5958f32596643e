"""`ridgeline explain` on a tiny model, run for real: what it tells adds up and says why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.assemble import Options, machine_and_kernels, machine_isa, machine_meter
from ridgeline.bench.explain import KINDS, REASONS, plan_of
from ridgeline.bench.predict import Served, on_this_machine, predict_serving, simulate_load
from ridgeline.cli.inspect import parse_step
from ridgeline.cli.main import main
from ridgeline.config import read_settings
from ridgeline.cost.cold_weights import NO_AMOUNTS, Draw
from ridgeline.cost.device import Barrier, Peak, Read, Roofs
from ridgeline.cost.kernel_store import store_profile
from ridgeline.cost.kernel_terms import ROW_MARKS, SMALL_MARKS
from ridgeline.cost.kernels import KernelProfile
from ridgeline.cost.measure import store
from ridgeline.errors import RequestError, RidgelineError
from ridgeline.step import StepShape

MODEL = Path(__file__).parents[1] / "golden" / "llama3" / "model.gguf"


def prices() -> dict[str, float]:
    found = {"sample/1": 1e-6, "sample/row": 1e-6, "sample/logit": 1e-10}
    for mark in ROW_MARKS:
        for exact in ("int", "float"):
            for part in ("1", "late", "gated"):
                found[f"linear/{exact}/{part}@{mark}"] = 1e-6
            for part in ("output", "gated_output", "late_input", "gated_input"):
                found[f"linear/{exact}/{part}@{mark}"] = 1e-10
        for kind in ("linear", "gated", "head"):
            for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0"):
                found[f"{kind}/{name}@{mark}"] = mark * 1e-12
    for kv_format in ("bf16", "f16", "int8"):
        found[f"attention/{kv_format}/1"] = 2e-6
        for dim in (64, 128, 256):
            for group in (1, 4, 8):
                for part in ("item", "token", "chunk", "query", "pair"):
                    found[f"attention/{kv_format}/{dim}x{group}/{part}"] = 1e-9
    for mark in SMALL_MARKS:
        for name in ("embed", "norm", "add_norm", "select_rows", "rope_kv_write/bf16"):
            for part in ("1", "value", "written"):
                found[f"{name}/{part}@{mark}"] = 1e-9
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder in which this machine was measured, in some other world."""
    settings = read_settings()
    meter = machine_meter(machine_isa(settings))
    machine, isa = dict(meter.identity()), meter.isa
    meter.close()
    counts = (1, 2)
    roofs = Roofs(
        machine=machine,
        isa=isa,
        cache_bytes=1 << 25,
        reads=tuple(Read(s, t, 20.0 * t, 15.0 * t) for t in counts for s in (1 << 20, 1 << 29)),
        peaks=tuple(Peak(n, t, 500.0 * t) for n in ("int8", "bf16", "f32") for t in counts),
        barriers=tuple(Barrier(t, 100.0) for t in counts),
        measured_at="2026-11-28T00:00:00+00:00",
    )
    assert store(tmp_path, roofs)
    profile = KernelProfile(
        isa=isa,
        threads=2,
        prices=prices(),
        cold=(Draw(0.9, 30.0),) * len(NO_AMOUNTS),
        residuals={"linear": 0.05, "attention": 0.1},
        read_rate=40.0,
        barrier_nanoseconds=100.0,
        pace=1000.0,
        outside={"outside/1": 5e-5, "outside/row": 1e-6},
        measured_at="2026-11-28T00:00:00+00:00",
    )
    assert store_profile(tmp_path, machine_and_kernels(), profile)
    assert store_profile(tmp_path, machine_and_kernels(), replace(profile, threads=1))
    return tmp_path


def explained(cache: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(["--cache-dir", str(cache), "explain", str(MODEL), "--threads", "2", *words])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


@pytest.mark.parametrize("step", ["decode:1@20", "decode:3@16", "prefill:40"])
def test_all_of_it_adds_up(cache: Path, capsys: pytest.CaptureFixture[str], step: str) -> None:
    found = json.loads(explained(cache, capsys, "--step", step, "--json"))
    assert sum(line["share"] for line in found["ledger"]) == pytest.approx(1)
    whole = sum(line["seconds"] for line in found["ledger"])
    # Medians of parts, beside the median of the whole.
    assert whole == pytest.approx(found["measured_s"], rel=0.25)
    assert found["predicted_low_s"] < found["predicted_s"] < found["predicted_high_s"]
    assert 0 < found["read_gb_per_s"] < 1e4
    assert found["pace"] > 0
    assert found["error"] == pytest.approx(found["predicted_s"] / found["measured_s"] - 1)
    names = {each["name"] for each in found["operators"]}
    assert {"layers.*.attn.attend", "layers.*.mlp.gate_up", "head", "sample"} <= names
    for each in found["operators"]:
        assert each["reason"] in REASONS
        assert 0 <= each["waiting"] + each["starting"] <= each["seconds"] * (1 + 1e-9)
        if each["operator"] in KINDS:
            assert each["predicted"] > 0
    knobs = {(k["knob"], k["setting"]): k for k in found["knobs"]}
    assert knobs["policy", "any"]["moves"] is False
    assert ("--kv-format", "int8") in knobs
    one = knobs["--threads", "1"]
    assert one["seconds_a_token"] > 0, "its profile is kept, and priced"
    assert knobs["--threads", "4"]["change"] is None
    assert "ridgeline measure --threads 4" in knobs["--threads", "4"]["note"]
    if step.startswith("decode"):
        faster = knobs["requests at once", "16"]
        assert faster["moves"]
        assert faster["change"] < 0


def test_a_table_and_a_page(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = cache / "page.html"
    said = explained(cache, capsys, "--html", str(target), "--step", "decode:1@20")
    for words in ("measured", "predicted", "where the time goes", "100.0 %", "knobs, priced again"):
        assert words in said
    page = target.read_text()
    assert page.startswith("<!doctype html>")
    assert '<meta name="viewport" content="width=device-width' in page  # or telephones show it tiny
    assert "<script" not in page
    assert "http" not in page, "it needs nothing beside it"
    assert "mlp.gate_up" in page


def test_what_cannot_be_is_said_in_a_line(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        (["--step", "decode:x"], "write prefill:512"),
        (["--step", "prefill:2x8"], "one prompt can be explained"),
        (["another"], "one model at a time"),
        (["--html", "/nowhere/page.html"], "no such folder"),
        (["--kv-format", "fp7"], "fp7"),
    ):
        assert main(["--cache-dir", str(cache), "explain", str(MODEL), *words]) == 2
        said = capsys.readouterr().err
        assert expected in said
        assert len(said.splitlines()) == 1


def test_a_load_on_this_machine_before_a_weight_is_read(cache: Path) -> None:
    settings = replace(read_settings(), cache_dir=cache, threads=2)
    here = on_this_machine(str(MODEL), settings, Options(max_rows=4))
    assert here.times(StepShape.decode(1, 20)) > 0
    assert here.needs.weight_bytes > 0
    found = simulate_load(here.made, here.times, Served(requests=6, prompt=8, output=5))
    assert (found.num_finished, found.output_tokens) == (6, 30)
    assert predict_serving(here.made, here.times, Served(6, 8, 5)) > 0
    with pytest.raises(RidgelineError, match="ridgeline measure"):
        on_this_machine(str(MODEL), replace(settings, cache_dir=cache / "nothing"))


def test_plans_are_of_one_case() -> None:
    assert plan_of("prefill:1", parse_step("prefill:1")).prompts == (1,)
    assert plan_of("decode:8@512", parse_step("decode:8@512")).batches == (8,)
    with pytest.raises(RequestError):
        plan_of("prefill:2x512", parse_step("prefill:2x512"))
