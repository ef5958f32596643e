"""Traces as strangers write them: what is one is read, what is none is told by its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from ridgeline.errors import RidgelineError
from ridgeline.plan.load import recorded
from ridgeline.plan.trace_files import read_trace
from ridgeline.plan.traces import Arrival, as_requests

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"


def entry(**fields: object) -> str:
    known = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}
    return json.dumps(known | fields) + "\n"


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "without requests"),
        ("a.csv", HEAD, "without requests"),
        ("a.csv", "time,in\n1,2\n", "line 1: has no column TIMESTAMP, ContextTokens, Generated"),
        ("a.csv", (HEAD + ROW).replace(",", ";"), "line 1: has no column"),
        ("a.csv", HEAD + "yesterday,4,5\n", "line 2: TIMESTAMP 'yesterday' is no time"),
        ("a.csv", HEAD + ROW + ROW[:-4] + "\n", "line 3: has 2 of 3 columns"),
        ("a.csv", HEAD + ROW.replace("374", "-5"), "line 2: ContextTokens '-5'"),
        ("a.csv", HEAD + ROW.replace("374", "100.5"), "ContextTokens '100.5'"),
        ("a.csv", HEAD + ROW.replace("374", "nan"), "ContextTokens 'nan'"),
        ("a.csv", HEAD + ROW.replace("374", "1" + 12 * "0"), "from 0 to 16777216"),
        ("a.csv", HEAD + ROW.replace("374", 5000 * "9"), "from 0 to 16777216"),
        ("a.csv", HEAD + '"' + 2_000_000 * "x", "line 2: is longer than a request can be"),
        ("a.csv", HEAD + '"' + 200_000 * "x" + "\n", "line 2: is not CSV"),
        ("a.csv", bytes(range(256)), "is no text"),
        ("a.csv", gzip.compress((HEAD + 99 * ROW).encode(), mtime=0)[:-9], "broken as a gzip file"),
        ("a.jsonl", bytes(range(256)), "is no text"),
        ("a.jsonl", "[]\n", "line 1: is no JSON object of one line: '[]'"),
        ("a.jsonl", 100_000 * "[" + "\n", "line 1: is no JSON object"),
        ("a.jsonl", json.dumps([1], indent=1), "line 1: is no JSON object"),
        ("a.jsonl", '{"timestamp": 0}\n', "line 1: has no input_length, output_length"),
        ("a.jsonl", entry() + "\n" + entry(timestamp="x"), "line 3: timestamp 'x'"),
        ("a.jsonl", entry(timestamp=float("nan")), "timestamp nan is no time"),
        ("a.jsonl", entry(timestamp=float("inf")), "timestamp inf is no time"),
        ("a.jsonl", entry(timestamp=1e300), "no time in milliseconds"),
        ("a.jsonl", entry(input_length=float("inf")), "input_length inf"),
        ("a.jsonl", entry(input_length=True), "input_length True"),
        ("a.jsonl", entry(output_length=-1), "output_length -1"),
        ("a.jsonl", entry(output_length=1.5), "output_length 1.5"),
        ("a.jsonl", entry(hash_ids="12"), "hash_ids '12' is no list"),
        ("a.jsonl", entry(hash_ids=[1, None]), "is no list of whole numbers"),
        ("a.jsonl", entry(input_length=1025), "has 2 hash_ids; 1025 tokens have 3"),
        ("a.txt", "", "not a trace by its name; there are: *.csv, *.jsonl"),
    ],
)
def test_what_is_not_a_trace_is_told_by_its_line(
    tmp_path: Path, name: str, text: str | bytes, words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = written(tmp_path, name, text)
    with pytest.raises(RidgelineError) as told:
        read_trace(path)
    assert words in str(told.value)
    assert len(str(told.value)) < 200
    line = ["simulate", "llama-3.1-8b", "--on", "h100", "--trace", str(path)]
    assert main(line) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(RidgelineError, match=r"--trace: .*a\.csv cannot be read: Is a directory"):
        read_trace(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeff" + HEAD + ROW),
        ("a.CSV", (HEAD + ROW).replace("\n", "\r\n")),
        ("a.csv", "\n" + HEAD + "\n" + ROW + "\n\n"),
        ("a.csv", HEAD + ROW.replace("374", " 374.0")),
        ("a.csv", "more," + HEAD + "x," + ROW),
        ("a.csv.gz", gzip.compress((HEAD + ROW).encode(), mtime=0)),
        ("a.csv", gzip.compress((HEAD + ROW).encode(), mtime=0)),
        ("a.jsonl", "\ufeff\n" + entry(input_length=374, output_length=44, hash_ids=None)),
        ("a.jsonl", entry(timestamp=-7, input_length=374, output_length=44, hash_ids=[])),
    ],
)
def test_what_is_a_trace_is_read(tmp_path: Path, name: str, text: str | bytes) -> None:
    assert read_trace(written(tmp_path, name, text)) == [Arrival(0.0, 374, 44)]


def test_times_with_a_zone_keep_it_and_those_without_are_utc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file is the same load on every machine: with a fraction of a second, too."""
    monkeypatch.setenv("TZ", "America/New_York")
    times = (
        "2024-11-03 05:30:00.5000000",  # in New York this hour comes twice
        "2024-11-03 05:30:01+00:00",
        "2024-11-03 07:30:01.7500000+02:00",
        "2024-11-03 06:30:00",
    )
    text = HEAD + "".join(f"{time},{10 + n},5\n" for n, time in enumerate(times))
    found = read_trace(written(tmp_path, "a.csv", text))
    assert [(a.seconds, a.num_prompt) for a in found] == [
        (0.0, 10), (0.5, 11), (1.25, 12), (3599.5, 13),
    ]  # fmt: skip


def test_ids_that_are_hashes_are_ids(tmp_path: Path) -> None:
    text = entry(hash_ids=[-1, 2**63]) + entry(hash_ids=[-1, 2**40]) + entry(hash_ids=[5, 2**63])
    trace = read_trace(written(tmp_path, "a.jsonl", text))
    assert [a.prefix for a in trace] == [(0, 1), (0, 2), (3, 1)]
    requests = list(as_requests(recorded(trace, 7).arrivals(), 512))
    assert requests[0].token_ids[:512] == requests[1].token_ids[:512]
    assert requests[0].token_ids[0] not in (requests[2].token_ids[0], requests[3].token_ids[0])
