"""Record and replay: what came to an engine and what it did, as lines of JSON.

The scheduler is pure and a request's tokens are a function of the request, so arrivals in their
order are all that it takes to have a run again: the same step plans and the same tokens. A record
holds token ids and sampling parameters, no text.

    {"record": 3, ...}                               what the engine was: see `header`
    {"submit": {"id": ..., "token_ids": [...], ...}}
    {"abort": "request id"}
    {"now": seconds, "copies": [[source, target], ...],
     "plan": [[row, num_new, num_context, num_logits, [block, ...]], ...],
     "events": [[request id, token id, logprob, finish reason], ...],
     "fault": "what the executor raised",           only of a step that failed
     "ahead": steps}                                only of a run's first: see `run_on`
    {"factors": [of answers, of prompts]}            what the cost model has learned from here on
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from ridgeline.engine.engine import Engine
from ridgeline.engine.request import Event, Request
from ridgeline.errors import EngineError, RequestError, RidgelineError
from ridgeline.step import PlanRow, RowSampling, StepPlan

RECORD_VERSION = 3  # of plans that hold these blocks: who gets which is part of it

# What a caller asks for; the other fields of a request are the scheduler's own.
ASKED = (
    "id",
    "token_ids",
    "num_prompt",
    "max_tokens",
    "stop_token_ids",
    "salt",
    "sampling",
    "tenant",
    "priority",
    "arrival",
    "deadline",
    "fork_of",
    "grammar",
)


# What a step is compared by. Steps that did nothing are not recorded.
PARTS = ("copies", "plan", "events")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found. difference: the first, in words; None if all was the same."""

    num_requests: int
    num_steps: int
    num_tokens: int
    difference: str | None


class Recorder:
    """Writes what an engine is told and does, a line each, as it happens."""

    def __init__(self, file: IO[str], header: Mapping[str, Any]) -> None:
        self._file = file
        self._write({"record": RECORD_VERSION, **header})

    def submitted(self, request: Request) -> None:
        self._write({"submit": request_to_json(request)})

    def aborted(self, request_id: str) -> None:
        self._write({"abort": request_id})

    def learned(self, factors: tuple[float, float]) -> None:
        self._write({"factors": factors})

    def stepped(
        self,
        now: float,
        plan: StepPlan,
        events: Sequence[Event],
        fault: EngineError | None,
        ahead: int,
    ) -> None:
        failed = {} if fault is None else {"fault": str(fault)}
        begun = {} if ahead == 1 else {"ahead": ahead}
        self._write({"now": now, **step_to_json(plan, events), **failed, **begun})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()  # a record is for runs that end badly


def read_record(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """A record's lines, the header first. Raises RidgelineError naming a line that is not one."""
    first = True
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise RidgelineError(f"record, line {number}: is not JSON") from None
        if not isinstance(entry, dict) or (first and entry.get("record") != RECORD_VERSION):
            raise RidgelineError(
                f"record, line {number}: is not what Ridgeline writes with --record "
                f"(version {RECORD_VERSION})"
            )
        first = False
        yield entry
    if first:
        raise RidgelineError("record: is empty")


def replay(entries: Iterable[Mapping[str, Any]], engine: Engine) -> Replayed:
    """Tells `engine` what the record's engine was told, and compares what it does.

    entries: what comes after the header. The engine must be idle, of the sizes that the header
    says, and must not have seen a prompt yet. Raises RidgelineError for an entry that is none.
    """
    num_requests = num_steps = num_tokens = 0
    difference = None
    for number, entry in enumerate(entries, 2):
        try:
            if "submit" in entry:
                request = request_from_json(entry["submit"])
                engine.submit(request, request.arrival)
                num_requests += 1
            elif "abort" in entry:
                engine.abort(entry["abort"])
            elif "factors" in entry:
                answers, prompts = entry["factors"]
                engine.use_factors((float(answers), float(prompts)))
            else:
                expected = {part: entry[part] for part in PARTS}
                fault = EngineError(str(entry["fault"])) if "fault" in entry else None
                plan, events = engine.step_with_plan(
                    float(entry["now"]), fault, int(entry.get("ahead", 1))
                )
                found = json.loads(json.dumps(step_to_json(plan, events)))
                num_steps += 1
                num_tokens += sum(event.token_id is not None for event in events)
                difference = _difference(expected, found)
        except (KeyError, TypeError, ValueError, AttributeError, RequestError) as error:
            raise RidgelineError(f"record, line {number}: cannot be replayed: {error}") from None
        if difference is not None:
            difference = f"line {number}: {difference}"
            break
    return Replayed(num_requests, num_steps, num_tokens, difference)


def _difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    for part in PARTS:
        for i, (then, now) in enumerate(zip(expected[part], found[part], strict=False)):
            if then != now:
                return f"{part}[{i}] was {then} and is {now}"
        if len(expected[part]) != len(found[part]):
            return f"{part} had {len(expected[part])} entries and has {len(found[part])}"
    return None


def request_to_json(request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "token_ids": list(request.token_ids),
        "num_prompt": request.num_prompt,
        "max_tokens": request.max_tokens,
        "stop_token_ids": sorted(request.stop_token_ids),
        "salt": request.salt.hex(),
        "sampling": dataclasses.asdict(request.sampling),
        "tenant": request.tenant,
        "priority": request.priority,
        "arrival": request.arrival,
        "deadline": request.deadline,
        "fork_of": request.fork_of,
        "grammar": request.grammar,
    }


def request_from_json(entry: Mapping[str, Any]) -> Request:
    return Request(
        id=entry["id"],
        token_ids=[int(i) for i in entry["token_ids"]],
        num_prompt=entry["num_prompt"],
        max_tokens=entry["max_tokens"],
        stop_token_ids=frozenset(entry["stop_token_ids"]),
        salt=bytes.fromhex(entry["salt"]),
        sampling=RowSampling(**{k: _as_tuples(v) for k, v in entry["sampling"].items()}),
        tenant=str(entry["tenant"]),
        priority=int(entry["priority"]),
        arrival=float(entry["arrival"]),
        deadline=None if entry["deadline"] is None else float(entry["deadline"]),
        fork_of=entry["fork_of"],
        grammar=entry.get("grammar"),
    )


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(v) for v in value) if isinstance(value, list) else value


def step_to_json(plan: StepPlan, events: Sequence[Event]) -> dict[str, Any]:
    return {
        "copies": [[copy.source, copy.target] for copy in plan.copies],
        "plan": [_row_to_json(row) for row in plan.rows],
        "events": [[e.request_id, e.token_id, e.logprob, e.finish_reason] for e in events],
    }


def _row_to_json(row: PlanRow) -> list[Any]:
    return [row.row, row.num_new, row.num_context, row.num_logits, list(row.new_blocks)]
