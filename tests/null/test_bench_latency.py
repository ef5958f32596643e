"""`ridgeline bench latency`: its records against a machine of known speed, and its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_meter import FakeMeter

from ridgeline.assemble import Assembled, Options, assemble
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.bench.latency import Plan, run
from ridgeline.bench.plot import dots
from ridgeline.bench.records import profile_of, record
from ridgeline.bench.sample import Measured
from ridgeline.cli.main import main
from ridgeline.config import read_settings
from ridgeline.cost.count import count_step
from ridgeline.errors import CapacityError, RequestError
from ridgeline.model.passes import screen
from ridgeline.step import StepShape

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")
SMALL = ("--prompt", "24", "--context", "16", "--output", "4", "--repeat", "2")
Output = pytest.CaptureFixture[str]
FIELDS = ["phase", "batch", "context", "tokens_per_s", "mbu", "mfu", "roof", "mode", "samples"]


def model(backend: str = "cpu", **options: Any) -> Assembled:
    return assemble(MODEL, read_settings(), Options(backend=backend, max_rows=4, **options))


def test_a_record_has_the_fields_that_others_read() -> None:
    plan = Plan((24,), (16,), (1, 2), output=4, repeat=3)
    found = run(model(), plan, meter=FakeMeter())
    records = [record(measured) for measured in found]
    assert [(r["phase"], r["batch"], r["context"]) for r in records] == [
        ("prefill", 1, 24),
        ("decode", 1, 16),
        ("decode", 2, 16),
    ]
    for fields in records:
        assert list(fields) == FIELDS
        rates: Any = fields["tokens_per_s"]
        assert 0 < rates["min"] <= rates["median"] <= rates["max"]
        assert isinstance(fields["mbu"], float)
        assert isinstance(fields["mfu"], float)
        samples: Any = fields["samples"]
        assert [len(samples), samples[0]["steps"]] == [3, 1 if fields["phase"] == "prefill" else 4]
        roof: Any = fields["roof"]
        assert roof["read_gb_per_s"] == 80
        threads = roof["threads"]
        used = set(roof["gop_per_s"])
        assert {"f32"} <= used <= {"f32", "bf16"}, "attention is bf16 on some instruction sets"
        assert all(roof["gop_per_s"][n] == FakeMeter().peaks[n] * threads / 2 for n in used)
        assert roof["binds"] in ("memory", "cache", "f32", "bf16")
        assert threads == read_settings().threads
    assert json.loads(json.dumps(records)) == records


def test_no_sample_has_steps_that_a_screen_learns_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "LEAST_CHANNELS", 32)
    assembled = assemble(MODEL, replace(read_settings(), isa="portable"), Options(max_rows=64))
    assert assembled.learns_from(1)
    assert not assembled.learns_from(64)
    cpu = assembled.executor
    assert isinstance(cpu, CpuExecutor)
    run(assembled, Plan((), (16,), (64,), output=4, repeat=1), meter=FakeMeter())
    assert assembled.learns_from(1)
    run(assembled, Plan((), (16,), (1,), output=4, repeat=2), meter=FakeMeter())
    assert not assembled.learns_from(1)
    assert cpu.screened[0] >= 2 * 4


@pytest.mark.parametrize("backend", ["cpu", "reference", "null"])
def test_utilization_is_work_over_time_and_roof(backend: str) -> None:
    assembled = model(backend)
    threads = assembled.threads
    found = run(assembled, Plan((), (16,), (2,), output=4, repeat=2), meter=FakeMeter())
    (measured,) = found
    # The third of four steps: 16 prompt tokens, the first answer token, two more.
    work = assembled.work(StepShape.decode(2, 18))
    for sample in measured.samples:
        assert sample.num_tokens == 8
        num_bytes = work.weight_bytes + work.kv_read_bytes + work.kv_write_bytes
        assert sample.mbu == pytest.approx(4 * num_bytes / sample.seconds / 80e9)
        peaks = {name: 1e9 * rate * threads / 2 for name, rate in FakeMeter().peaks.items()}
        ideal = 4 * sum(flops / peaks[name] for name, flops in work.flops.items())
        assert sample.mfu == pytest.approx(ideal / sample.seconds)
        assert sample.least_seconds >= max(sample.compute_seconds, sample.memory_seconds)
    assert profile_of(measured) is None


def test_a_long_prompt_is_counted_in_the_chunks_that_ran() -> None:
    assembled = model(max_tokens_per_step=16)
    (measured,) = run(assembled, Plan((40,), (), (1,), repeat=1), meter=FakeMeter())
    (sample,) = measured.samples
    assert (sample.num_tokens, sample.num_steps) == (40, 3)
    chunks = [StepShape((16,), (0,), 0), StepShape((16,), (16,), 0), StepShape((8,), (32,), 1)]
    work = [assembled.work(shape) for shape in chunks]
    num_bytes = sum(w.weight_bytes + w.kv_read_bytes + w.kv_write_bytes for w in work)
    assert sample.memory_seconds == pytest.approx(num_bytes / 80e9)


def test_a_profile_names_every_operator_and_adds_up() -> None:
    plan = Plan((24,), (16,), (2,), output=4, repeat=2, profile=True)
    for measured in run(model(), plan, meter=FakeMeter()):
        profile = profile_of(measured)
        assert profile is not None
        names = {row.name for row in profile.rows}
        assert {"layers.*.attn.attend", "layers.*.mlp.down", "head", "sample"} <= names
        seconds = [row.seconds for row in profile.rows]
        assert seconds == sorted(seconds, reverse=True)
        for sample in measured.samples:
            operators = sum(operator.seconds for operator in sample.operators)
            assert operators + sample.idle_seconds == pytest.approx(sample.seconds)
            assert operators < sample.seconds
        by_name = {row.name: row for row in profile.rows}
        down = by_name["layers.*.mlp.down"]
        assert (down.operator, down.calls) == ("linear", 2)
        assert down.achieved is not None
        assert down.roof is not None
        assert down.of_roof == pytest.approx(down.achieved / down.roof)
        assert by_name["sample"].achieved is None
        fields: Any = record(measured)["profile"]
        assert len(fields["operators"]) == len(profile.rows)


def test_repeats_of_a_decode_start_at_the_same_context() -> None:
    assembled = model()
    seen: list[StepShape] = []
    submit, run_on = assembled.executor.submit, assembled.executor.run_on

    def watched(plan: Any) -> None:
        seen.append(plan.shape)
        submit(plan)

    def watched_run(plan: Any, steps: int, ends: Any) -> Any:
        ran = run_on(plan, steps, ends)
        for step in range(len(ran)):
            contexts = tuple(context + step for context in plan.shape.context_lens)
            seen.append(replace(plan.shape, context_lens=contexts))
        return ran

    assembled.executor.submit = watched  # type: ignore[method-assign]
    assembled.executor.run_on = watched_run  # type: ignore[method-assign]
    run(assembled, Plan((), (16,), (2,), output=3, repeat=2), meter=FakeMeter())
    decodes = [shape.context_lens for shape in seen if shape.new_tokens == (1, 1)]
    assert decodes.count((16, 16)) == 3
    assert max(max(shape) for shape in decodes) == 18


@pytest.mark.parametrize("backend", ["reference", "null"])
def test_a_backend_without_timers_has_no_profile(backend: str) -> None:
    plan = Plan((8,), (), (1,), repeat=1, profile=True)
    with pytest.raises(RequestError, match="only the cpu backend"):
        run(model(backend), plan, meter=FakeMeter())


def test_what_does_not_fit_is_known_before_anything_runs() -> None:
    small = model(context_length=64)
    with pytest.raises(RequestError, match="prompt: prefill 64 needs 65 positions"):
        run(small, Plan((64,), (), (1,)), meter=FakeMeter())
    with pytest.raises(RequestError, match="context: decode 1 @ 60"):
        run(small, Plan((), (60,), (1,), output=8), meter=FakeMeter())
    with pytest.raises(CapacityError, match="5 rows; there are 4"):
        run(small, Plan((), (8,), (5,), output=1), meter=FakeMeter())
    for wrong in (Plan((0,)), Plan(batches=(0,)), Plan(repeat=0), Plan(output=0), Plan((), ())):
        with pytest.raises(RequestError):
            wrong.check()


def test_the_command_prints_a_table_or_json(capsys: Output, tmp_path: Path) -> None:
    assert main(["bench", "latency", MODEL, *SMALL, "--batch", "1,2", "--profile"]) == 0
    said = capsys.readouterr().out
    for words in ("prefill 24", "decode 2 @ 16", "MBU", "MFU", "operators by time", "attn.attend"):
        assert words in said
    assert main(["bench", "latency", MODEL, *SMALL, "--json", "-"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [r["phase"] for r in records] == ["prefill", "decode"]
    path = tmp_path / "found.json"
    assert main(["bench", "latency", MODEL, *SMALL, "--json", str(path), "--profile"]) == 0
    assert "profile" in json.loads(path.read_text())[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--prompt", "many"), "--prompt: 'many' is not a whole number"),
        (("--prompt", "512,"), "--prompt: '' is not a whole number"),
        (("--batch", "0"), "--batch: '0'"),
        (("--context", "-1"), "--context: '-1'"),
        (("--repeat", "0"), "--repeat: 0 is not"),
        (("--prompt", "none", "--context", "none"), "nothing to measure"),
        (("--prompt", "99999"), "positions"),
        (("--backend", "abacus"), "--backend: 'abacus'; there are"),
        (("--backend", "reference", "--profile"), "--profile: the reference backend"),
        (("--json", "/nowhere/at/all.json"), "--json:"),
        (("--threads", "0"), "--threads: 0"),
    ],
)
def test_a_wrong_flag_is_one_line(arguments: tuple[str, ...], reason: str, capsys: Output) -> None:
    assert main(["bench", "latency", MODEL, *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("\n") == 1
    assert reason in said.err


def test_the_group_shows_its_commands(capsys: Output) -> None:
    assert main(["bench", "--help"]) == 0
    assert "latency" in capsys.readouterr().out
    assert main(["bench", "latency", "--help"]) == 0
    assert "MBU" in capsys.readouterr().out


def test_operators_are_drawn_under_the_roof(capsys: Output, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "roofline.png"
    assert main(["bench", "latency", MODEL, *SMALL, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"wrote {path}" in capsys.readouterr().err


def test_dots_have_the_intensity_of_their_work() -> None:
    plan = Plan((), (16,), (2,), output=4, repeat=1, profile=True)
    (measured,) = run(model(), plan, meter=FakeMeter())
    by_name = {dot.name: dot for dot in dots(measured)}
    # F16 weights of 2 bytes; 2 FLOPs for each of two rows.
    assert by_name["mlp.down"].intensity == pytest.approx(2.0)
    assert "attn_norm" in by_name
    assert "sample" not in by_name


def test_a_plot_that_cannot_be_is_refused_before_anything_runs(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(path: Path) -> str:
        assert main(["bench", "latency", MODEL, *SMALL, "--plot", str(path)]) == 2
        return capsys.readouterr().err

    assert "the ending is one of .png, .svg, .pdf" in refusal(tmp_path / "a.html")
    assert "no such folder" in refusal(tmp_path / "b" / "a.png")
    monkeypatch.setattr("ridgeline.bench.plot.find_spec", lambda name: None)
    assert "pip install 'ridgeline[plot]'" in refusal(tmp_path / "a.png")


def test_a_sample_that_others_disturbed_is_busy() -> None:
    (measured,) = run(model(), Plan((24,), (), (1,), repeat=1), meter=FakeMeter())
    (sample,) = measured.samples
    calm = replace(sample, moment=replace(sample.moment, mode="near"))
    shares = (None, 1.0, 0.9, 0.8)
    samples = tuple(replace(calm, cpu_share=share) for share in shares)
    assert [s.mode for s in samples] == ["near", "near", "near", "busy"]
    assert Measured(measured.case, samples).mode == "mixed"
    assert Measured(measured.case, samples[:3]).mode == "near"


def test_attention_is_counted_in_what_its_kernels_multiply_in() -> None:
    from ridgeline.backends.cpu.executor import ATTENTION_ARITHMETIC, ISAS

    assert set(ATTENTION_ARITHMETIC) == set(ISAS)
    for kv_format in ("bf16", "f16", "int8"):
        assembled = model(isa="portable", kv_format=kv_format)
        shape = StepShape.prefill(8)
        rows = count_step(assembled.bound_graph, shape, assembled.precision).rows
        (attention,) = [row for row in rows if row.operator == "attention"]
        assert set(attention.work.flops) == {ATTENTION_ARITHMETIC["portable"][kv_format]}
        assert attention.kv_format == kv_format
