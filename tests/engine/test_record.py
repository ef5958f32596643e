"""Record and replay: a run comes again step by step, and a run that went another way is told."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from pathlib import Path

import pytest

from ridgeline import LLM, RidgelineError, SamplingParams
from ridgeline.backends.null.executor import NullExecutor
from ridgeline.cli.main import main
from ridgeline.engine.engine import Engine
from ridgeline.engine.record import (
    ASKED,
    Recorder,
    read_record,
    replay,
    request_from_json,
    request_to_json,
)
from ridgeline.engine.request import Request, Status
from ridgeline.step import RowSampling

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")


def null_engine(observer: Recorder | None = None, *, num_blocks: int = 12) -> Engine:
    executor = NullExecutor(vocab_size=1000, num_blocks=num_blocks, max_rows=4)
    return Engine(executor, max_context=100, max_tokens_per_step=24, observer=observer)


def a_run(engine: Engine, seed: int) -> None:
    """Arrivals and aborts at random moments; blocks are too few, so that some are preempted."""
    generator = random.Random(seed)
    for number in range(30):
        size = generator.randrange(1, 60)
        request = Request(
            id=f"r{number}",
            token_ids=[generator.randrange(1000) for _ in range(size)],
            num_prompt=size,
            max_tokens=generator.randrange(1, 30),
            sampling=RowSampling(seed=number, temperature=0.5, top_k=3),
            stop_token_ids=frozenset(generator.randrange(1000) for _ in range(20)),
            salt=bytes([number % 2]),
        )
        engine.submit(request)
        for _ in range(generator.randrange(4)):
            engine.step()
        engine.abort(f"r{generator.randrange(30)}")
    while engine.has_work:
        engine.step()


def a_record(seed: int) -> list[str]:
    file = io.StringIO()
    a_run(null_engine(Recorder(file, {"model": "null"})), seed)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("seed", range(5))
def test_a_replay_goes_the_same_way(seed: int) -> None:
    lines = a_record(seed)
    header, *entries = read_record(lines)
    assert header == {"record": 3, "model": "null"}
    found = replay(entries, null_engine())
    assert found.difference is None
    assert found.num_requests == 30
    assert found.num_steps == sum("plan" in entry for entry in entries) > 30
    assert found.num_tokens == sum(e[1] is not None for x in entries for e in x.get("events", ()))


def test_the_first_difference_is_told() -> None:
    _, *entries = read_record(a_record(1))
    at, step = next((i, e) for i, e in enumerate(entries) if e.get("events"))
    token = step["events"][0][1]
    step["events"][0][1] = token + 1
    difference = replay(entries, null_engine()).difference
    assert difference is not None
    assert difference.startswith(f"line {at + 2}: events[0] was")
    assert str(token) in difference
    _, *entries = read_record(a_record(1))
    assert "plan" in str(replay(entries, null_engine(num_blocks=40)).difference)


def test_a_request_survives_the_record() -> None:
    sampling = RowSampling(
        logit_bias=((3, 1.5),),
        bad_words=((1, 2), (3,)),
        allowed_ids=(1, 2, 3),
        temperature=0.7,
        top_k=4,
        seed=2**63 + 1,
    )
    request = Request("a", [1, 2, 3], 3, 7, sampling, frozenset({5, 2}), salt=b"\x00\xff")
    again = request_from_json(json.loads(json.dumps(request_to_json(request))))
    assert dataclasses.asdict(again) == dataclasses.asdict(request)


def test_every_field_of_a_request_is_asked_for_or_starts_the_same() -> None:
    """A field that a caller can set must be in the record; one of the scheduler's own has a
    default.
    """
    for field in dataclasses.fields(Request):
        own = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        assert field.name in ASKED or own, field.name
    request = Request("a", [1], 1, 1, RowSampling(), frozenset())
    assert request.status is Status.WAITING
    assert set(request_to_json(request)) == set(ASKED)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["{}"],
        ['{"record":1}'],
        ["[1]"],
        ['{"record":2}', "not json"],
        ['{"record":2}', "[]"],
        ['{"record":2}', "{}"],
        ['{"record":2}', '{"submit":{}}'],
        ['{"record":2}', '{"submit":3}'],
        ['{"record":2}', '{"plan":1,"events":[]}'],
        ['{"record":2}', '{"abort":[]}'],
        ['{"record":2}', "[" * 100_000],
        [
            '{"record":2}',
            '{"submit":{"id":"a","token_ids":[],"num_prompt":0,"max_tokens":1,'
            '"stop_token_ids":[],"salt":"","sampling":{}}}',
        ],
    ],
)
def test_a_file_that_is_no_record_is_refused(lines: list[str]) -> None:
    with pytest.raises(RidgelineError, match="record"):
        replay(list(read_record(lines))[1:], null_engine())


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.jsonl"
    llm = LLM(MODEL, max_rows=3, max_tokens_per_step=20, threads=2, record=path)
    params = [
        SamplingParams(temperature=1.0, seed=i, max_tokens=10, ignore_eos=True) for i in range(6)
    ]
    llm.generate([f"prompt {i} " * (i + 1) for i in range(6)], params)
    for threads in ("1", "2"):
        assert main(["replay", str(path), "--threads", threads]) == 0
        assert capsys.readouterr().out.startswith("the same: 6 requests, ")
    lines = path.read_text().splitlines()
    token = json.loads(lines[-1])["events"][0][1]
    lines[-1] = lines[-1].replace(f",{token},", f",{token + 1},")
    path.write_text("\n".join(lines))
    assert main(["replay", str(path)]) == 1
    assert "different after 6 requests" in capsys.readouterr().out
    assert main(["run", MODEL, "--raw", "x", "--max-tokens", "4", "--record", str(path)]) == 0
    assert main(["replay", str(path), "--model", MODEL]) == 0
    assert main(["replay", str(tmp_path / "none")]) == 2
    path.write_text('{"record":3,"sizes":[]}')
    assert main(["replay", str(path)]) == 2
    assert "header" in capsys.readouterr().err
