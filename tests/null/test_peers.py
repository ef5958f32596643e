"""benchmarks/peers.py without a peer: its bars, samples, statistics, tables, and fake engines."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peers
import pytest
from side_by_side import contenders, report, rounds
from side_by_side.cases import (
    CASES,
    OFFLINE,
    OURS,
    Bar,
    Case,
    chosen,
    offline_lengths,
    prompt_ids,
    with_lengths,
)
from side_by_side.description import Description, Engine, Model, read_description
from side_by_side.figures import Machine, Measured, Sample, hopeless, spread, verdicts
from side_by_side.foreign import Clocks, clocks, foreign_share
from side_by_side.processes import MissingError, Worker
from side_by_side.rounds import Field, Rounds, measure
from side_by_side.sample import tokens_per_second

PREFILL = Case("m", "prefill", 512, (Bar("openvino", 1.2), Bar("llamacpp:best", 2.4)), 0.6)


def samples_of(rates: dict[str, list[float]], share: float | None = None) -> tuple[Sample, ...]:
    near = Machine(40.0, 45.0, "near", {"int8": 900.0})
    return tuple(
        Sample(name, number, rate, near, 0.01, share if name == OURS else None)
        for name, values in rates.items()
        for number, rate in enumerate(values, 1)
    )


# ---- cases


def test_every_bar_of_the_issue_stands_in_the_cases() -> None:
    keys = [case.key for case in (*CASES, *OFFLINE)]
    assert len(set(keys)) == len(keys)
    assert sum(len(case.bars) for case in CASES) == 17
    assert all(case.roof_share is not None for case in CASES)


def test_cases_are_chosen_by_pattern_and_an_unknown_one_is_told() -> None:
    assert [c.key for c in chosen(CASES, ["smollm2-batch-*"])] == [
        "smollm2-batch-16",
        "smollm2-batch-32",
    ]
    with pytest.raises(ValueError, match=r"no case is called 'nothing'.*qwen-0\.5b-prefill-512"):
        chosen(CASES, ["nothing"])


def test_other_lengths_are_under_the_bars_of_the_nearest_case() -> None:
    cases = with_lengths(chosen(CASES, ["smollm2-prefill-*", "smollm2-batch-*"]), [300, 3000])
    assert [c.key for c in cases] == [
        "smollm2-prefill-300",
        "smollm2-prefill-3000",
        "smollm2-batch-16",
        "smollm2-batch-32",
    ]
    assert [c.bars[-1].ratio for c in cases[:2]] == [2.4, 1.5]
    decode = with_lengths(chosen(CASES, ["smollm2-decode-32"]), [], [500], [])
    assert [(c.key, c.context) for c in decode] == [("smollm2-decode-500", 630)]


def test_prompts_differ_by_seed_and_only_by_it() -> None:
    assert prompt_ids(2, 5, "a") == prompt_ids(2, 5, "a")
    assert prompt_ids(2, 5, "a") != prompt_ids(2, 5, "b")
    assert {len(ids) for ids in prompt_ids(3, 7, "a")} == {7}


def test_offline_requests_are_the_same_everywhere_and_within_the_bounds() -> None:
    lengths = offline_lengths(64)
    assert lengths == offline_lengths(64)
    assert len(lengths) == 64
    assert all(16 <= prompt <= 512 and 64 <= output <= 256 for prompt, output in lengths)
    assert len({prompt for prompt, _ in lengths}) > 30


# ---- the description


def test_a_description_gives_paths_beside_itself(tmp_path: Path) -> None:
    file = tmp_path / "here.toml"
    file.write_text(
        'threads = 3\n[engines.vllm]\npython = "bin/python"\npreload = ["a.so"]\nenv = { A = "1" }'
        '\n[models.m]\ngguf = "/x/m.gguf"\nformats = { Q4_0 = "q.gguf" }\n'
    )
    found = read_description(file)
    assert found.threads == 3
    assert found.engines["vllm"] == Engine(
        tmp_path / "bin/python", None, {"A": "1"}, (str(tmp_path / "a.so"),)
    )
    assert found.models["m"] == Model(Path("/x/m.gguf"), None, {"Q4_0": tmp_path / "q.gguf"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("threads = 0", "threads = 0 is not a positive"),
        ("thread = 1", "the file has 'thread'; known: threads"),
        ("[engines.other]", "has 'other'; known: ridgeline"),
        ("[engines.vllm]\npath = 'x'", r"\[engines.vllm\] has 'path'"),
        ("[models.m]\ngguf = 3", "gguf = 3 must be a path"),
        ("models = 3", "models must be a table"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_description_that_is_wrong_is_told(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "here.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=why):
        read_description(file)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    nothing = Description(2, {}, {})
    with pytest.raises(MissingError, match=r"vllm: the description has no \[engines.vllm\]"):
        contenders.open_contender("vllm", PREFILL, nothing, 1024, tmp_path)
    here = Description(2, {"llamacpp": Engine(bin=tmp_path / "bin")}, {"m": Model()})
    with pytest.raises(MissingError, match=r"bin of \[engines.llamacpp\] = .* is not there"):
        contenders.open_contender("llamacpp", PREFILL, here, 1024, tmp_path)


# ---- samples


@pytest.mark.parametrize("knows_first", [False, True])
def test_what_a_sample_counts(knows_first: bool) -> None:
    calls: list[tuple[list[list[int]], list[int]]] = []

    def run(prompts: list[list[int]], outputs: list[int]) -> dict[str, Any]:
        """A prompt token takes 1 ms, an output token 10 ms."""
        calls.append((prompts, outputs))
        first = 0.001 * sum(map(len, prompts))
        seconds = first + 0.010 * sum(n - 1 for n in outputs)
        return {"seconds": seconds, "first_seconds": first if knows_first else None}

    assert tokens_per_second(PREFILL, run, "1") == pytest.approx(1000)
    assert tokens_per_second(Case("m", "decode", 32, (), None), run, "1") == pytest.approx(100)
    assert len(calls) == (3 if knows_first else 4)
    batch = Case("m", "aggregate", 128, (), None, batch=4)
    assert tokens_per_second(batch, run, "1") == pytest.approx(100)
    offline = Case("m", "offline", 0, (), None, batch=64)
    lengths = offline_lengths(64)
    made = sum(output for _, output in lengths)
    seconds = 0.001 * sum(p for p, _ in lengths) + 0.010 * (made - 64)
    assert tokens_per_second(offline, run, "1") == pytest.approx(made / seconds)
    assert [len(prompt) for prompt in calls[-1][0]] == [prompt for prompt, _ in lengths]


def test_no_two_calls_of_a_run_share_token_ids() -> None:
    seen = []

    def run(prompts: list[list[int]], outputs: list[int]) -> dict[str, Any]:
        seen.extend(tuple(prompt) for prompt in prompts)
        return {"seconds": float(outputs[0]), "first_seconds": None}

    for number in range(3):
        for case in (PREFILL, Case("m", "decode", 32, (), None), CASES[4]):
            tokens_per_second(case, run, f"round {number}")
    assert len(set(seen)) == len(seen) == 3 * (2 + 2 + 32)


def test_llama_cpp_reports_are_read() -> None:
    text = json.dumps([{"build_commit": "abc", "samples_ts": [123.5], "n_prompt": 512}])
    assert contenders.bench_report(text)["samples_ts"] == [123.5]
    lines = 'main: n_kv_max = 1\n{"pl": 16, "speed_tg": 468.25, "speed_pp": 900.0}\n'
    assert contenders.batched_bench_rate(lines) == 468.25
    with pytest.raises(MissingError, match="no figures: nothing"):
        contenders.batched_bench_rate("nothing")


def test_what_others_took_is_what_is_neither_idle_nor_ours() -> None:
    before = Clocks(wall=10.0, busy=100.0, own=50.0)
    after = Clocks(wall=12.0, busy=104.0, own=53.0)
    assert foreign_share(before, after, processors=2) == pytest.approx(0.25)
    assert foreign_share(before, Clocks(12.0, 103.0, 53.1), 2) == 0.0  # clocks tick coarsely
    own = clocks(os.getpgid(0))
    assert own.own > clocks(None).own - 0.5 > 0


# ---- figures


def test_the_best_format_stands_for_the_peer() -> None:
    rates = {OURS: [100.0, 120.0, 140.0], "openvino": [100.0, 100.0, 50.0]}
    rates |= {"llamacpp": [10.0, 11.0, 12.0], "llamacpp:BF16": [40.0, 60.0, 50.0]}
    first, best = verdicts(Measured(PREFILL, samples_of(rates), {}))
    assert (first.contender, first.ratio, first.paired, first.met) == ("openvino", 1.2, 1.2, True)
    assert (best.contender, best.ratio, best.met) == ("llamacpp:BF16", 120 / 50, True)
    assert best.paired == 2.5  # of 100/40, 120/60, 140/50


def test_ratios_are_told_within_each_mode_of_the_host() -> None:
    near, far = Machine(40.0, 45.0, "near"), Machine(60.0, 204.0, "far")
    case = Case("m", "decode", 32, (Bar("openvino", 1.0),), None)
    turns = [(OURS, 1, 300.0, near), (OURS, 2, 400.0, far), ("openvino", 1, 100.0, near)]
    measured = Measured(case, tuple(Sample(n, r, v, m, 0.0) for n, r, v, m in turns), {})
    (verdict,) = verdicts(measured)
    assert verdict.by_mode == {"near": 3.0}
    both = Sample("openvino", 2, 200.0, far, 0.0)
    measured = Measured(case, (*measured.samples, both), {})
    assert verdicts(measured)[0].by_mode == {"near": 3.0, "far": 2.0}
    assert report.beside([measured]) == ["m: decode at 32: to OpenVINO 2.00 far, 3.00 near"]


def test_a_bar_without_samples_is_neither_met_nor_missed() -> None:
    first, best = verdicts(Measured(PREFILL, samples_of({OURS: [1.0], "openvino": [1.0]}), {}))
    assert (first.met, best.met, best.contender) == (False, None, None)


def test_shares_are_judged_by_their_median() -> None:
    assert Measured(PREFILL, samples_of({OURS: [1.0]}, 0.61), {}).share_met is True
    assert Measured(PREFILL, samples_of({OURS: [1.0]}, 0.59), {}).share_met is False
    assert Measured(PREFILL, samples_of({OURS: [1.0]}), {}).share_met is None


def test_only_formats_that_nobody_else_asks_for_are_given_up() -> None:
    rates = {"llamacpp": 50.0, "llamacpp:Q4_0": 90.0, "llamacpp:BF16": 100.0, OURS: 10.0}
    assert hopeless(PREFILL, rates).keys() == {"llamacpp"}
    both = Case("m", "prefill", 512, (Bar("llamacpp:best", 1.0), Bar("llamacpp", 1.0)), None)
    assert hopeless(both, rates) == {}
    assert hopeless(Case("m", "decode", 32, (Bar("llamacpp", 1.0),), None), rates) == {}


def test_spread() -> None:
    found = spread([3.0, 1.0, 2.0, 10.0])
    assert found is not None
    assert (found.median, found.low, found.high, found.count) == (2.5, 1.0, 10.0, 4)
    assert spread([]) is None


# ---- tables


def test_the_table_says_met_and_missed_with_our_figure() -> None:
    rates = {OURS: [2000.0], "openvino": [1000.0], "llamacpp": [1000.0]}
    table = report.markdown_table(
        report.bars_table([Measured(PREFILL, samples_of(rates, 0.5), {})])
    )
    assert len(table) == 4
    assert table[2].startswith("| m: prefill 512 | 2,000 (2,000 to 2,000) | OpenVINO: 1,000")
    assert "| 2.00 (2.00) | ≥ 1.2 | met | 50% of compute | ≥ 60% | **missed** |" in table[2]
    assert "llama.cpp, its best format: 1,000" in table[3]
    assert "| 2.00 (2.00) | ≥ 2.4 | **missed** |" in table[3]
    assert {line.count("|") for line in table} == {10}


def test_what_was_not_measured_is_said_in_every_form() -> None:
    measured = Measured(PREFILL, samples_of({OURS: [5.0]}), {"openvino": "is not there\nat all"})
    text = report.markdown([measured], {"machine": "x", "contenders": {}})
    assert "OpenVINO: not measured" in text
    assert "OpenVINO left out: is not there\n" in text
    assert "0 of 0 of the ratios met, 2 not measured" in text
    assert "| 40.0 (40.0 to 40.0) | 900 (900 to 900) | - | 45.0 (45.0 to 45.0) | near 1 |" in text
    page = report.html([measured], {"machine": "<x>"}, b"png")
    assert "<li>machine: &lt;x&gt;</li>" in page
    assert "data:image/png;base64,cG5n" in page
    record = json.loads(json.dumps(report.record([measured], {"machine": "x"})))
    assert record["cases"][0]["bars"][0]["met"] is None
    assert record["cases"][0]["tokens_per_second"][OURS]["median"] == 5.0


# ---- whole runs with fake engines

FAKE = """
import sys, time
from protocol import serve
def start(options):
    print("chatter that is nobody's answer")
    rate = {rate}
    def run(command):
        if {dies}: sys.exit("the engine broke")
        first = sum(map(len, command["prompts"])) / rate
        made = sum(n - 1 for n in command["outputs"])
        return {{"seconds": first + made / rate, "first_seconds": None}}
    machine = lambda _: {{"read_gbps": 40.0, "barrier_ns": 45.0, "mode": "near", "gops": {{}}}}
    share = lambda question: {{"share": question["tokens_per_second"] / 4000}}
    return {{"version": "fake 1"}}, {{"run": run, "machine": machine, "share": share}}
serve(start)
"""
LLAMA_BENCH = """#!{python}
import json
print(json.dumps([{{"build_commit": "abc", "samples_ts": [500.0], "model_type": "fake"}}]))
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A description of fake engines: ours at 2,000 tok/s, vLLM at 1,000, llama.cpp at 500."""
    protocol = Path(contenders.__file__).parent / "workers" / "protocol.py"
    (tmp_path / "protocol.py").write_text(protocol.read_text())
    (tmp_path / "run_ridgeline.py").write_text(FAKE.format(rate=2000.0, dies=False))
    (tmp_path / "run_vllm.py").write_text(FAKE.format(rate=1000.0, dies=False))
    (tmp_path / "run_transformers.py").write_text(FAKE.format(rate=1.0, dies=True))
    monkeypatch.setattr(contenders, "WORKERS", tmp_path)
    bench = tmp_path / "llama-bench"
    bench.write_text(LLAMA_BENCH.format(python=sys.executable))
    bench.chmod(0o755)
    (tmp_path / "m.gguf").touch()
    file = tmp_path / "here.toml"
    file.write_text(
        f'[engines.llamacpp]\nbin = "."\n[engines.vllm]\npython = "{sys.executable}"\n'
        f'[engines.transformers]\npython = "{sys.executable}"\n'
        '[models."qwen-0.5b"]\ngguf = "m.gguf"\nbf16 = "."\n'
    )
    return file


def test_a_whole_run_writes_the_table(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(fakes), "--cases", "qwen-0.5b-*", "--quick", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["peers.py", *words])
    peers.main()
    shown = capsys.readouterr().out
    assert "Bars: 3 of 3 of the ratios met; 1 of 2 of the roof's met." in shown
    record = json.loads((tmp_path / "out" / "peers.json").read_text())
    assert [case["key"] for case in record["cases"]] == [
        "qwen-0.5b-prefill-512",
        "qwen-0.5b-decode-32",
    ]
    assert [bar["ratio"] for bar in record["cases"][0]["bars"]] == pytest.approx([4.0, 2.0])
    assert record["cases"][0]["share"]["median"] == pytest.approx(0.5)
    assert "llama.cpp abc" in (tmp_path / "out" / "peers.md").read_text()


def test_rounds_are_interleaved_and_a_broken_peer_is_left_out(fakes: Path, tmp_path: Path) -> None:
    case = chosen(CASES, ["qwen-0.5b-prefill-512"])[0]
    told: list[str] = []
    also = ["transformers", "openvino"]
    field = Field([case], read_description(fakes), also, tmp_path / "out", told.append)
    try:
        measured = measure(case, field, Rounds(3, 3), told.append)
    finally:
        field.close()
    names = [OURS, "llamacpp", "vllm"]
    order = [sample.contender for sample in measured.samples]
    turns = [order[i : i + 3] for i in (0, 3, 6)]
    assert turns == [names[1:] + names[:1], names[2:] + names[:2], names]
    assert "the engine broke" in measured.left_out["transformers"]
    assert "has no [engines.openvino]" in measured.left_out["openvino"]
    assert any(line.startswith("left out: openvino") for line in told)


def test_without_ours_there_is_no_case(fakes: Path, tmp_path: Path) -> None:
    (tmp_path / "run_ridgeline.py").write_text(FAKE.format(rate=2000.0, dies=True))
    case = chosen(CASES, ["qwen-0.5b-decode-32"])[0]
    field = Field([case], read_description(fakes), [], tmp_path / "out", lambda _: None)
    try:
        with pytest.raises(MissingError, match="the engine broke"):
            measure(case, field, Rounds(2, 2), lambda _: None)
    finally:
        field.close()


def test_a_disturbed_turn_is_taken_again(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, 0.3, 0.02, 0.02, 0.4, 0.6, 0.5])  # of the machine, taken by others
    monkeypatch.setattr(rounds, "foreign_share", lambda *_: next(shares))
    case = chosen(CASES, ["qwen-0.5b-decode-32"])[0]
    told: list[str] = []
    field = Field([case], read_description(fakes), [], tmp_path / "out", told.append)
    try:
        ours, theirs = field.contenders(case)[0]
        first = rounds._calm(case, ours, ours, 1, told.append)
        others = rounds._calm(case, theirs, ours, 1, told.append)
        last = rounds._calm(case, theirs, ours, 2, told.append)
    finally:
        field.close()
    assert [sample.foreign for sample in (first, others, last)] == [0.02, 0.02, 0.4]


def test_a_worker_stands_still_between_its_turns(fakes: Path, tmp_path: Path) -> None:
    case = chosen(CASES, ["qwen-0.5b-prefill-512"])[0]
    description = read_description(fakes)
    worker = contenders.open_contender("vllm", case, description, 1024, tmp_path)
    assert isinstance(worker, Worker)
    try:
        pid = worker.group
        assert pid is not None
        assert state(pid, "T") == "T"
        worker.wake()
        assert worker.ask({"do": "machine"})["mode"] == "near"
        worker.sleep()
        assert state(pid, "T") == "T"
    finally:
        worker.close()
    assert not Path(f"/proc/{pid}").exists()


# ---- our own worker, on a small model


STUBBORN = """#!{python}
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    pathlib.Path({file!r}).write_text(str(os.getpid()))
    time.sleep(600)
sys.stdin.read()
time.sleep(1)
"""


def test_whoever_is_told_twice_to_end_leaves_nobody_behind(fakes: Path, tmp_path: Path) -> None:
    """As timeout(1) does: the second time in the midst of ending an engine that has children."""
    born, engine = tmp_path / "born", tmp_path / "engine"
    engine.write_text(STUBBORN.format(python=sys.executable, file=str(born)))
    engine.chmod(0o755)
    fakes.write_text(fakes.read_text() + f'[engines.ridgeline]\npython = "{engine}"\n')
    script = Path(contenders.__file__).parents[1] / "peers.py"
    words = [str(fakes), "--cases", "qwen-0.5b-decode-32", "--out", str(tmp_path / "out")]
    with subprocess.Popen([sys.executable, str(script), *words], stderr=subprocess.PIPE) as peers:
        while not (born.exists() and born.read_text()):
            time.sleep(0.01)
        child = int(born.read_text())
        peers.terminate()
        time.sleep(0.5)
        peers.terminate()
        assert b"told to end" in peers.communicate(timeout=240)[1]
    for _ in range(1200):
        if not Path(f"/proc/{child}").exists() or "Z" in process_state(child):
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        raise AssertionError("its child is still there")


def process_state(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def test_a_case_is_priced_by_the_steps_that_it_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(contenders.__file__).parent / "workers"))
    steps_of = importlib.import_module("run_ridgeline").steps_of
    prefill = steps_of({"phase": "prefill", "prompt": 1200, "output": 128, "batch": 1}, 512)
    assert [(s.new_tokens, s.context_lens, s.num_sampled, n) for s, n in prefill] == [
        ((512,), (0,), 0, 1),
        ((512,), (512,), 0, 1),
        ((176,), (1024,), 1, 1),
    ]
    ((decode, count),) = steps_of(
        {"phase": "aggregate", "prompt": 128, "output": 128, "batch": 16}, 512
    )
    assert (decode.new_tokens, decode.context_lens, count) == ((1,) * 16, (192,) * 16, 128)


def test_our_worker_answers(tmp_path: Path) -> None:
    file = Path(__file__).parents[1] / "golden" / "llama3" / "model.gguf"
    case = Case("m", "decode", 4, (), None, output=8)
    description = Description(2, {}, {"m": Model(gguf=file)})
    worker = contenders.open_contender(OURS, case, description, 64, tmp_path)
    assert isinstance(worker, Worker)
    try:
        worker.wake()
        machine = Machine(**worker.ask({"do": "machine", "case": asdict(case)}))
        assert machine.read_gbps is not None
        assert machine.read_gbps > 0
        run = worker.ask({"do": "run", "prompts": [[5, 6, 7, 8]], "outputs": [9]})
        assert 0 < run["first_seconds"] < run["seconds"]
        question = {"do": "share", "case": asdict(case)}
        slow = worker.ask({**question, "tokens_per_second": 10.0})["share"]
        assert worker.ask({**question, "tokens_per_second": 20.0})["share"] == 2 * slow > 0
    finally:
        worker.close()


def state(pid: int, wanted: str) -> str:
    """A process's state letter, after up to 2 minutes for it to be the wanted one."""
    end = time.monotonic() + 120
    while True:
        found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if found == wanted or time.monotonic() > end:
            return found
        time.sleep(0.01)
