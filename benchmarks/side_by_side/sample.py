"""One sample of a case: which prompts an engine runs, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from side_by_side.cases import Case, offline_lengths, prompt_ids

Run = Callable[[list[list[int]], list[int]], dict[str, Any]]


def tokens_per_second(case: Case, run: Run, seed: str) -> float:
    """One sample of a case. run(prompts, output counts) gives `seconds` and `first_seconds`.

    Every call has token ids of its own. Decode counts from the first token where the engine says
    when that was; else, and for batches in every engine, it is the difference to a run of one token
    a request.
    """
    tokens = case.batch * case.output

    def seconds(part: str, outputs: int) -> dict[str, Any]:
        prompts = prompt_ids(case.batch, case.prompt, f"{case.key} {seed} {part}")
        return run(prompts, [outputs] * case.batch)

    if case.phase == "prefill":
        seconds("warm", 1)  # the others have had the caches since the last turn
        return case.batch * case.prompt / float(seconds("whole", 1)["seconds"])
    if case.phase == "offline":
        lengths = offline_lengths(case.batch)
        prompts = [
            prompt_ids(1, length, f"{case.key} {seed} {number}")[0]
            for number, (length, _) in enumerate(lengths)
        ]
        outputs = [output for _, output in lengths]
        return sum(outputs) / float(run(prompts, outputs)["seconds"])
    if case.phase == "aggregate":
        first = seconds("first", 1)["seconds"]
        return tokens / float(seconds("whole", case.output + 1)["seconds"] - first)
    whole = seconds("whole", case.output + 1)
    first = whole["first_seconds"]
    if first is None:
        first = seconds("first", 1)["seconds"]
    return tokens / float(whole["seconds"] - first)
