"""A batch: its input checked, its lines answered one by one, its output made, whatever stops it.

Nothing here runs a model or knows HTTP: `Batches` keeps what is known of batches on the disk, and
whoever runs one asks for the lines that are left and brings their answers. An answer is in the
journal before its line counts as done; so after a crash no line is lost and none comes twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ridgeline.errors import RequestError, RidgelineError
from ridgeline.serve.batches.journal import Documents, Journal, write_whole

MAX_LINES = 50_000
MAX_FILE_BYTES = 200 << 20
MAX_FILES = 1000
WINDOW_SECONDS = 24 * 3600
# Batches of this endpoint are Anthropic's: their results are read from the journal.
MESSAGES = "/v1/messages"
LIVE = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch; number counts from 0."""

    number: int
    custom_id: str
    body: dict[str, Any]


class Files:
    """What people have uploaded, and what batches have made."""

    def __init__(self, documents: Documents, new_id: Callable[[str], str]) -> None:
        self.documents = documents
        self._new_id = new_id

    def add(self, tenant: str, name: str, purpose: str, data: bytes) -> dict[str, Any]:
        if len(data) > MAX_FILE_BYTES:
            raise RequestError(
                "file", f"has {len(data)} bytes; {MAX_FILE_BYTES} are allowed. Cut it in parts"
            )
        if len(self.documents.every("files")) >= MAX_FILES:
            raise RequestError("file", f"{MAX_FILES} files are kept already; delete some")
        file_id = self._new_id("file-")
        path = self.documents.path("files", file_id, ".data")
        write_whole(path, data)
        document = {
            "id": file_id,
            "object": "file",
            "bytes": len(data),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "tenant": tenant,
        }
        self.documents.write("files", file_id, document)
        return document

    def get(self, tenant: str, file_id: str) -> dict[str, Any]:
        return _owned(self.documents.read("files", file_id), tenant)

    def content(self, tenant: str, file_id: str) -> bytes:
        self.get(tenant, file_id)
        return self.documents.path("files", file_id, ".data").read_bytes()

    def every(self, tenant: str) -> list[dict[str, Any]]:
        return [file for file in self.documents.every("files") if file["tenant"] == tenant]

    def remove(self, tenant: str, file_id: str) -> None:
        """RequestError for the input of a batch that is not done: its lines were promised."""
        self.get(tenant, file_id)
        for batch in self.documents.every("batches"):
            if batch["input_file_id"] == file_id and batch["status"] in LIVE:
                raise RequestError(
                    "file_id", f"is the input of {batch['id']}, which is not done; cancel it first"
                )
        self.documents.remove("files", file_id)


class InputGone(RidgelineError):  # noqa: N818
    """A batch's input file is not there any more."""


class Batches:
    """The batches of all tenants, and where each stands."""

    def __init__(self, documents: Documents, files: Files, new_id: Callable[[str], str]) -> None:
        self._documents = documents
        self._files = files
        self._new_id = new_id

    def create(
        self,
        tenant: str,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None,
        *,
        prefix: str = "batch_",
    ) -> dict[str, Any]:
        """Checks the whole input; what is wrong with it is in the batch's errors, by line."""
        data = self._files.content(tenant, input_file_id)
        now = int(time.time())
        batch: dict[str, Any] = {
            "id": self._new_id(prefix),
            "object": "batch",
            "endpoint": endpoint,
            "errors": None,
            "input_file_id": input_file_id,
            "completion_window": "24h",
            "status": "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "in_progress_at": now,
            "expires_at": now + WINDOW_SECONDS,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": metadata,
            "tenant": tenant,
        }
        errors: list[dict[str, Any]] = []
        total = sum(1 for _ in _lines(data, endpoint, errors))
        if errors or not total:
            errors = errors or [_fault(0, "empty_file", "the file has no requests", None)]
            batch["errors"] = {"object": "list", "data": errors[:100]}
            batch["status"], batch["failed_at"] = "failed", now
            batch["in_progress_at"] = None
        batch["request_counts"]["total"] = total
        self._documents.write("batches", batch["id"], batch)
        return batch

    def get(self, tenant: str, batch_id: str) -> dict[str, Any]:
        return _owned(self._documents.read("batches", batch_id), tenant)

    def every(self, tenant: str) -> list[dict[str, Any]]:
        found = [batch for batch in self._documents.every("batches") if batch["tenant"] == tenant]
        return found[::-1]

    def live(self) -> list[dict[str, Any]]:
        """Those that have something left to do, oldest first."""
        return [batch for batch in self._documents.every("batches") if batch["status"] in LIVE]

    def cancel(self, tenant: str, batch_id: str) -> dict[str, Any]:
        batch = self.get(tenant, batch_id)
        if batch["status"] not in LIVE:
            raise RequestError("batch_id", f"the batch is {batch['status']} already")
        if batch["status"] != "cancelling":
            batch["status"], batch["cancelling_at"] = "cancelling", int(time.time())
            self._documents.write("batches", batch_id, batch)
        return batch

    def left(self, batch: dict[str, Any]) -> tuple[list[Line], dict[str, int]]:
        """The lines that have no answer yet, and how many have one, good or bad. InputGone: there
        are no lines any more.
        """
        done = {entry["line"]: entry["ok"] for entry in self._journal(batch).entries()}
        try:
            data = self._files.content(batch["tenant"], batch["input_file_id"])
        except (KeyError, FileNotFoundError):
            raise InputGone(f"the input file {batch['input_file_id']} is gone") from None
        lines = [line for line in _lines(data, batch["endpoint"], []) if line.number not in done]
        good = sum(done.values())
        return lines, {"completed": good, "failed": len(done) - good}

    def record(self, batch: dict[str, Any], line: Line, status: int, answer: Any) -> bool:
        """Keeps a line's answer for good; whether it is a good one."""
        ok = 200 <= status < 300
        response = {"status_code": status, "request_id": self._new_id("req_"), "body": answer}
        entry = {
            "id": self._new_id("batch_req_"),
            "custom_id": line.custom_id,
            "response": response,
            "error": None,
        }
        self._journal(batch).append({"line": line.number, "ok": ok, "entry": entry})
        return ok

    def count(self, batch: dict[str, Any], counts: dict[str, int]) -> None:
        batch["request_counts"] |= counts
        self._write_unless_cancelled(batch)

    def finish(self, batch: dict[str, Any], status: str) -> dict[str, Any]:
        """Makes the output of the journal, in the order of the input. Doing it twice does no harm:
        files are named in the batch before it says that it is finished.
        """
        entries = {entry["line"]: entry for entry in self._journal(batch).entries()}
        good: list[str] = []
        bad: list[str] = []
        for _, entry in sorted(entries.items()):
            (good if entry["ok"] else bad).append(json.dumps(entry["entry"], ensure_ascii=False))
        named = (("output_file_id", good, "output"), ("error_file_id", bad, "errors"))
        for field, lines, name in named:
            if lines and batch[field] is None and batch["endpoint"] != MESSAGES:
                data = "".join(f"{line}\n" for line in lines).encode()
                name = f"{batch['id']}_{name}.jsonl"
                file = self._files.add(batch["tenant"], name, "batch_output", data)
                batch[field] = file["id"]
                self._documents.write("batches", batch["id"], batch)
        counts = {"completed": len(good), "failed": len(bad)}
        batch["request_counts"] |= counts
        batch["status"], batch[f"{status}_at"] = status, int(time.time())
        self._documents.write("batches", batch["id"], batch)
        return batch

    def fail(self, batch: dict[str, Any], code: str, message: str) -> dict[str, Any]:
        """Ends a batch that cannot go on; what was answered is its output."""
        batch["errors"] = {"object": "list", "data": [_fault(0, code, message, None)]}
        return self.finish(batch, "failed")

    def answered(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The entries of the lines that have an answer, in the order of the input."""
        entries = {entry["line"]: entry["entry"] for entry in self._journal(batch).entries()}
        for _, entry in sorted(entries.items()):
            yield entry

    def remove(self, tenant: str, batch_id: str) -> None:
        """With its input and its answers. RequestError for one that is not done."""
        batch = self.get(tenant, batch_id)
        if batch["status"] in LIVE:
            raise RequestError("batch_id", "is not done; cancel it first")
        self._documents.remove("batches", batch_id)
        self._documents.remove("files", batch["input_file_id"])

    def _write_unless_cancelled(self, batch: dict[str, Any]) -> None:
        now = self._documents.read("batches", batch["id"])
        batch |= {key: now[key] for key in ("status", "cancelling_at") if key in now}
        self._documents.write("batches", batch["id"], batch)

    def _journal(self, batch: dict[str, Any]) -> Journal:
        return Journal(self._documents.path("batches", batch["id"], ".journal"))


def _owned(document: dict[str, Any], tenant: str) -> dict[str, Any]:
    """Another's document is as good as none."""
    if document["tenant"] != tenant:
        raise KeyError(document["id"])
    return document


def public(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "tenant"}


def _lines(data: bytes, endpoint: str, errors: list[dict[str, Any]]) -> Iterator[Line]:
    """The requests of an input file; what is wrong with it is added to `errors`."""
    seen: set[str] = set()
    number = -1
    for place, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        number += 1
        if number >= MAX_LINES:
            errors.append(_fault(place, "too_many_tasks", f"more than {MAX_LINES} requests", None))
            return
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            errors.append(_fault(place, "invalid_json_line", "the line is not JSON", None))
            continue
        found = _checked(line, endpoint, seen)
        if isinstance(found, str):
            field, _, message = found.partition(": ")
            errors.append(_fault(place, "invalid_request", message, field))
        else:
            seen.add(found[0])
            yield Line(number, *found)


def _checked(line: Any, endpoint: str, seen: set[str]) -> tuple[str, dict[str, Any]] | str:
    if not isinstance(line, dict):
        return "body: the line must be an object"
    unknown = set(line) - {"custom_id", "method", "url", "body"}
    if unknown:
        return f"{min(unknown)}: is not a field of a batch's line"
    name, body = line.get("custom_id"), line.get("body")
    if not isinstance(name, str) or not 0 < len(name) <= 512:
        return "custom_id: must be a text of 1 to 512 characters"
    if name in seen:
        return f"custom_id: {name!r} is the id of a line before"
    if line.get("method") != "POST":
        return "method: must be POST"
    if line.get("url") != endpoint:
        return f"url: must be the batch's endpoint, {endpoint}"
    if not isinstance(body, dict):
        return "body: must be an object"
    if body.get("stream"):
        return "body.stream: a batch's answers do not stream"
    return name, body


def _fault(line: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    return {"code": code, "line": line, "message": message, "param": param}
