"""Batches: checked whole, answered once a line whatever stops them, in the order of their input."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ridgeline.errors import RequestError
from ridgeline.serve.batches.batch import Batches, Files
from ridgeline.serve.batches.journal import Documents, Journal
from ridgeline.serve.batches.runner import BatchRunner

ENDPOINT = "/v1/completions"


class Room:
    """A folder with what is kept in it; `again` is the same after a restart."""

    def __init__(self, folder: Path, numbers: Any = None) -> None:
        self.folder = folder
        self.numbers = numbers or itertools.count()
        documents = Documents(folder)

        def new_id(prefix: str) -> str:
            return f"{prefix}{next(self.numbers)}"

        self.files = Files(documents, new_id)
        self.batches = Batches(documents, self.files, new_id)

    def again(self) -> Room:
        return Room(self.folder, self.numbers)

    def batch(self, *lines: Any) -> dict[str, Any]:
        data = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
        file = self.files.add("t", "in.jsonl", "batch", data.encode())
        return self.batches.create("t", ENDPOINT, file["id"], {"for": "test"})

    def output(self, batch: dict[str, Any], field: str = "output_file_id") -> list[Any]:
        found = self.batches.get("t", batch["id"])
        if found[field] is None:
            return []
        return [json.loads(line) for line in self.files.content("t", found[field]).splitlines()]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def line(number: int, **body: Any) -> dict[str, Any]:
    return {
        "custom_id": f"line {number}",
        "method": "POST",
        "url": ENDPOINT,
        "body": {"model": "m", "prompt": str(number), **body},
    }


@pytest.mark.parametrize(
    ("lines", "code", "param", "place"),
    [
        ([line(0), "no json\n"], "invalid_json_line", None, 2),
        ([line(0), line(0)], "invalid_request", "custom_id", 2),
        ([{**line(0), "url": "/v1/x"}], "invalid_request", "url", 1),
        ([{**line(0), "method": "GET"}], "invalid_request", "method", 1),
        ([{**line(0), "other": 1}], "invalid_request", "other", 1),
        ([line(0, stream=True)], "invalid_request", "body.stream", 1),
        ([{**line(0), "custom_id": 3}], "invalid_request", "custom_id", 1),
        (["[1]\n"], "invalid_request", "body", 1),
        ([], "empty_file", None, 0),
    ],
)
def test_what_is_wrong_with_an_input_is_said_by_line(
    room: Room, lines: list[Any], code: str, param: str | None, place: int
) -> None:
    batch = room.batch(*lines)
    assert batch["status"] == "failed"
    error = batch["errors"]["data"][0]
    assert (error["code"], error["param"], error["line"]) == (code, param, place)
    assert room.batches.live() == []


def run(room: Room, ask: Any, *, until: Any = None, most: float = 120.0, rows: int = 3) -> None:
    """Runs all there is; or until `until` says to, as a crash would end it."""

    async def main() -> None:
        runner = BatchRunner(room.batches, ask, lambda: rows)
        task = asyncio.create_task(runner.run())
        runner.wake()

        async def wait() -> None:
            while not (until() if until else not room.batches.live()):
                await asyncio.sleep(0.005)
                if task.done():
                    task.result()

        try:
            await asyncio.wait_for(wait(), most)
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


async def echo(tenant: str, endpoint: str, body: dict[str, Any]) -> tuple[int, Any]:
    assert (tenant, endpoint) == ("t", ENDPOINT)
    await asyncio.sleep(0.001 * (7 - int(body["prompt"]) % 7))
    if body.get("bad"):
        return 400, {"error": {"message": "no"}}
    return 200, {"text": body["prompt"]}


def test_each_line_is_answered_once_in_the_order_of_the_input(room: Room) -> None:
    batch = room.batch(*[line(i, **({"bad": True} if i == 4 else {})) for i in range(12)])
    run(room, echo)
    done = room.batches.get("t", batch["id"])
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 12, "completed": 11, "failed": 1}
    output = room.output(batch)
    assert [entry["custom_id"] for entry in output] == [f"line {i}" for i in range(12) if i != 4]
    assert all(entry["response"]["status_code"] == 200 for entry in output)
    assert [entry["response"]["body"]["text"] for entry in output] == [
        str(i) for i in range(12) if i != 4
    ]
    (bad,) = room.output(batch, "error_file_id")
    assert bad["custom_id"] == "line 4"
    assert bad["response"]["status_code"] == 400


def test_a_crash_loses_no_line_and_repeats_none_that_was_kept(room: Room) -> None:
    batch = room.batch(*[line(i) for i in range(20)])
    asked: list[str] = []
    restarted = False

    async def counting(tenant: str, endpoint: str, body: dict[str, Any]) -> tuple[int, Any]:
        asked.append(body["prompt"])
        if len(asked) > 12 and not restarted:
            await asyncio.Event().wait()
        return await echo(tenant, endpoint, body)

    def kept() -> int:
        return len(list(Journal(room.folder / "batches" / f"{batch['id']}.journal").entries()))

    run(room, counting, until=lambda: kept() >= 7)
    journal = room.folder / "batches" / f"{batch['id']}.journal"
    before = kept()
    assert before < 20
    with open(journal, "ab") as file:
        file.write(b'{"line": 19, "ok": true, "entr')  # the machine stopped while it was written
    asked.clear()
    restarted = True
    again = room.again()
    run(again, counting)
    assert len(asked) == 20 - before
    output = again.output(batch)
    assert [entry["custom_id"] for entry in output] == [f"line {i}" for i in range(20)]
    assert len({entry["id"] for entry in output}) == 20


def test_a_crash_while_the_output_is_made_makes_it_again(room: Room) -> None:
    batch = room.batch(line(0), line(1))
    left, counts = room.batches.left(batch)
    assert counts == {"completed": 0, "failed": 0}
    for one in left:
        room.batches.record(batch, one, 200, {"n": one.number})
    first = room.batches.finish(dict(batch), "completed")
    # As if the last write had not been made: files are named, the status is not set.
    document = room.batches.get("t", batch["id"])
    document["status"] = "in_progress"
    room.files.documents.write("batches", batch["id"], document)
    run(room.again(), echo)
    assert room.batches.get("t", batch["id"])["output_file_id"] == first["output_file_id"]
    assert [entry["response"]["body"] for entry in room.output(batch)] == [{"n": 0}, {"n": 1}]


def test_what_is_not_now_is_asked_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ridgeline.serve.batches.runner.AGAIN_SECONDS", 0.001)
    batch = room.batch(line(0))
    answers = iter([(429, {}), (503, {}), (200, {"text": "x"})])

    async def busy(*_: Any) -> tuple[int, Any]:
        return next(answers)

    run(room, busy)
    assert room.output(batch)[0]["response"]["body"] == {"text": "x"}


def test_cancelling_keeps_what_was_answered(room: Room) -> None:
    batch = room.batch(*[line(i) for i in range(30)])
    count = 0

    async def cancelling(tenant: str, endpoint: str, body: dict[str, Any]) -> tuple[int, Any]:
        nonlocal count
        count += 1
        if count == 5:
            room.batches.cancel("t", batch["id"])
        return await echo(tenant, endpoint, body)

    run(room, cancelling)
    done = room.batches.get("t", batch["id"])
    assert done["status"] == "cancelled"
    output = room.output(batch)
    assert 1 <= len(output) < 30
    assert done["request_counts"]["completed"] == len(output)
    with pytest.raises(RequestError, match="cancelled already"):
        room.batches.cancel("t", batch["id"])


def test_a_batch_without_its_input_stands_in_nobodys_way(room: Room) -> None:
    lost, good = room.batch(line(0)), room.batch(line(1))
    with pytest.raises(RequestError, match=f"is the input of {lost['id']}, which is not done"):
        room.files.remove("t", lost["input_file_id"])
    room.files.documents.remove("files", lost["input_file_id"])
    run(room, echo)
    found = room.batches.get("t", lost["id"])
    assert found["status"] == "failed"
    assert found["errors"]["data"][0]["code"] == "missing_file"
    assert room.batches.get("t", good["id"])["status"] == "completed"
    room.files.remove("t", good["input_file_id"])


def test_a_full_disk_loses_no_line(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = room.batch(*[line(i) for i in range(6)])
    fsync, calls = os.fsync, itertools.count()

    def full(handle: int) -> None:
        if 3 <= next(calls) < 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("ridgeline.serve.batches.runner.STUCK_SECONDS", 0.01)
    run(room, echo)
    assert [entry["custom_id"] for entry in room.output(batch)] == [f"line {i}" for i in range(6)]
    assert not list(room.folder.rglob("*.part"))


def test_a_line_that_is_a_fault_of_ours_ends_its_batch_alone(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = room.batch(line(0), line(1)), room.batch(line(2))
    monkeypatch.setattr("ridgeline.serve.batches.runner.STUCK_SECONDS", 0.01)

    async def failing(tenant: str, endpoint: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body["prompt"] == "1":
            raise ZeroDivisionError
        return await echo(tenant, endpoint, body)

    run(room, failing)
    found = room.batches.get("t", bad["id"])
    assert found["status"] == "failed"
    assert found["errors"]["data"][0]["message"] == "an error of ours: ZeroDivisionError"
    assert room.batches.get("t", good["id"])["status"] == "completed"


def test_another_tenant_sees_nothing(room: Room) -> None:
    batch = room.batch(line(0))
    for look in (room.batches.get, room.batches.cancel):
        with pytest.raises(KeyError):
            look("other", batch["id"])
    with pytest.raises(KeyError):
        room.files.content("other", batch["input_file_id"])
    assert room.batches.every("other") == []
    assert room.files.every("other") == []


def test_ids_of_strangers_lead_nowhere(room: Room) -> None:
    for name in ("../../etc/passwd", "", "a/b", "a\x00b", "x" * 99):
        with pytest.raises(KeyError):
            room.files.get("t", name)


def test_too_many_lines_are_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ridgeline.serve.batches.batch.MAX_LINES", 3)
    assert room.batch(*[line(i) for i in range(3)])["status"] == "in_progress"
    refused = room.batch(*[line(i) for i in range(4)])
    assert refused["errors"]["data"][0]["code"] == "too_many_tasks"
