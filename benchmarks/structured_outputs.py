"""Answers in a form: are they always valid, and what do their masks take?

python benchmarks/structured_outputs.py [--seeds 20] [--large MODEL] [--timed MODEL]

Validity: a tiny model with random weights at temperature 1 answers each schema of schema_cases.py
with several seeds; jsonschema, and stricter checks of formats, judge. An answer that max_tokens cut
is a beginning: it is carried on under its grammar to an instance, which is judged too. The cases'
own instances are put to the grammars. --large: the masks of a large vocabulary. --timed: a decode
step with masks and without, one row and 16.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import numpy as np
from schema_cases import CASES, REFUSED, Case

from ridgeline import LLM, RequestError, SamplingParams
from ridgeline.engine.constrain import StructuredOutputs
from ridgeline.engine.constrain.compile import Constraints, Grammar
from ridgeline.engine.outputs import CompletionOutput

TINY = Path(__file__).parent.parent / "tests" / "golden" / "llama3" / "model.gguf"
MAX_TOKENS = 80
# How an answer that was cut is brought to its end: what ends most comes first.
_SOONEST = '}]",:0123456789nulfasetrTZ-PDx.@/abcdefghijklmopqvwyz'
_FORMATS = jsonschema.FormatChecker()


@_FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(text: object) -> bool:
    found = re.fullmatch(r"(?i)(\d{4}-\d\d-\d\d)t(.+)", str(text), re.ASCII)
    return bool(found and datetime.fromisoformat(found[1]) and _is_time(found[2]))


@_FORMATS.checks("time")
def _is_time(text: object) -> bool:
    hour, second = r"([01]\d|2[0-3]):[0-5]\d", r"([0-5]\d|60)(\.\d+)?"
    return bool(re.fullmatch(rf"(?i){hour}:{second}(z|[+-]{hour})", str(text), re.ASCII))


@_FORMATS.checks("duration")
def _is_duration(text: object) -> bool:
    time_part = r"T(\d+H(\d+M(\d+S)?)?|\d+M(\d+S)?|\d+S)"
    date_part = r"(\d+Y(\d+M(\d+D)?)?|\d+M(\d+D)?|\d+D)"
    return bool(re.fullmatch(rf"P({date_part}({time_part})?|{time_part}|\d+W)", str(text)))


@_FORMATS.checks("hostname")
def _is_hostname(text: object) -> bool:
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    return len(str(text)) <= 253 and bool(re.fullmatch(rf"{label}(\.{label})*", str(text)))


@_FORMATS.checks("email")
def _is_email(text: object) -> bool:
    atom, label = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+", r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
    quoted, domain = r'"([^"\\]|\\.)*"', rf"({label}(\.{label})*|\[[^\]]+\])"
    return bool(re.fullmatch(rf"({atom}(\.{atom})*|{quoted})@{domain}", str(text)))


@_FORMATS.checks("uri", raises=ValueError)
def _is_uri(text: object) -> bool:
    allowed = r"[A-Za-z][A-Za-z0-9+.-]*:([A-Za-z0-9:/?#\[\]@!$&'()*+,;=._~-]|%[0-9A-Fa-f]{2})*"
    return bool(re.fullmatch(allowed, str(text)) and urlsplit(str(text)).scheme)


@dataclass(slots=True)
class Tally:
    """Of one keyword."""

    schemas: int = 0
    whole: int = 0
    cut: int = 0
    instances: int = 0
    faults: list[str] = field(default_factory=list)


def tiny_llm(max_rows: int = 32) -> LLM:
    """Random weights; in its vocabulary, the printable ASCII that it lacks takes the place of
    tokens of several bytes.
    """
    llm = LLM(str(TINY), max_rows=max_rows, context_length=256)
    tokenizer = llm.tokenizer
    have = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    lacking = [bytes([i]) for i in range(32, 127) if bytes([i]) not in have]
    special = tokenizer.special_ids | tokenizer.eos_ids
    longer = [
        i
        for i in range(tokenizer.vocab_size)
        if len(tokenizer.token_bytes(i)) > 1 and i not in special
    ]
    for index, piece in zip(reversed(longer), lacking, strict=False):
        tokenizer._known[index] = piece
    return llm


def judge(schema: Any, text: str) -> str | None:
    """What is wrong with an answer; None: nothing."""
    try:
        jsonschema.Draft202012Validator(schema, format_checker=_FORMATS).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{json.dumps(schema)[:200]}: {text!r}: {str(error).splitlines()[0]}"
    return None


class Judge:
    """Grammars of a model, and what follows in them."""

    def __init__(self, llm: LLM) -> None:
        self.tokenizer = llm.tokenizer
        self.constraints = Constraints(self.tokenizer, self.tokenizer.vocab_size)
        self._words = -(-self.tokenizer.vocab_size // 32)
        (self._end,) = self.tokenizer.eos_ids
        self._ids = {
            self.tokenizer.token_bytes(i): i for i in reversed(range(self.tokenizer.vocab_size))
        }

    def grammar(self, schema: Any) -> Grammar:
        return self.constraints.compile(StructuredOutputs(json=json.dumps(schema)))

    def accepts(self, schema: Any, instance: Any) -> bool:
        ids = [self._ids[bytes([byte])] for byte in json.dumps(instance).encode()]
        return self._end in self._allowed(self.grammar(schema).follow().mask(ids, self._words))

    def carried_on(self, schema: Any, answer: Sequence[int]) -> str:
        """A whole text that begins with the answer; "" where there is no way in 400 tokens."""
        follower, ids = self.grammar(schema).follow(), list(answer)
        for _ in range(400):
            allowed = self._allowed(follower.mask(ids, self._words))
            text = b"".join(map(self.tokenizer.token_bytes, ids)).decode("utf-8", "replace")
            if self._end in allowed:
                return text
            if not allowed:
                return ""
            in_string = re.sub(r"\\.", "", text).count('"') % 2
            wished = ('"@:DSMHWZ' if in_string else "") + _SOONEST
            soonest = [self._ids[c.encode()] for c in wished if c.encode() in self._ids]
            ids.append(next((i for i in soonest if i in allowed), min(allowed)))
        return ""

    def _allowed(self, mask: np.ndarray[Any, np.dtype[np.uint32]]) -> set[int]:
        return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


def check_case(judge_of: Judge, case: Case, answers: Sequence[CompletionOutput], to: Tally) -> None:
    to.schemas += 1
    for answer in answers:
        if answer.finish_reason == "stop":
            to.whole += 1
            fault = judge(case.schema, answer.text)
        elif answer.finish_reason == "length":
            to.cut += 1
            fault = judge(case.schema, judge_of.carried_on(case.schema, answer.token_ids))
        else:
            fault = f"{json.dumps(case.schema)[:200]}: {answer.finish_reason}: {answer.error}"
        if fault:
            to.faults.append(fault)
    for instances, wanted in ((case.valid, True), (case.invalid, False)):
        for instance in instances:
            to.instances += 1
            if judge_of.accepts(case.schema, instance) is not wanted:
                said = "refuses" if wanted else "takes"
                to.faults.append(f"{json.dumps(case.schema)[:200]}: {said} {instance!r}")


def check_validity(seeds: int, llm: LLM) -> dict[str, Tally]:
    """By keyword."""
    found: dict[str, Tally] = defaultdict(Tally)
    judge_of = Judge(llm)
    cases, prompts, params = [], [], []
    for case in CASES:
        try:
            judge_of.grammar(case.schema)
        except RequestError as error:
            found[case.keyword].faults.append(f"{json.dumps(case.schema)[:200]}: {error}")
            continue
        cases.append(case)
        asked = StructuredOutputs(json=json.dumps(case.schema))
        for seed in range(seeds):
            prompts.append(f"number {seed}")
            params.append(
                SamplingParams(
                    structured_outputs=asked, temperature=1.0, seed=seed, max_tokens=MAX_TOKENS
                )
            )
    outputs = [output.outputs[0] for output in llm.generate(prompts, params)]
    for i, case in enumerate(cases):
        check_case(judge_of, case, outputs[i * seeds : (i + 1) * seeds], found[case.keyword])
    return found


def check_refusals(llm: LLM) -> list[str]:
    """What was taken, or refused without its pointer; empty: nothing."""
    faults = []
    for schema, pointer in REFUSED:
        asked = SamplingParams(structured_outputs=StructuredOutputs(json=schema), max_tokens=1)
        try:
            llm.generate("x", asked)
        except RequestError as error:
            if not str(error).startswith(f"structured_outputs.json: {pointer}: "):
                faults.append(f"{schema}: {error}")
        else:
            faults.append(f"{schema}: was taken")
    return faults


LARGE = {
    "type": "array",
    "minItems": 8,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "kind": {"enum": ["river", "lake", "sea"]},
            "length": {"type": "number", "minimum": 0},
        },
        "required": ["name", "kind", "length"],
        "additionalProperties": False,
    },
}


def time_masks(model: str) -> None:
    """Microseconds of a mask with its token, over random answers."""
    llm = LLM(model, max_rows=1, context_length=256)
    vocabulary = llm.tokenizer.vocab_size
    words = -(-vocabulary // 32)
    start = time.perf_counter()
    constraints = Constraints(llm.tokenizer, vocabulary)
    constraints.compile(StructuredOutputs(regex="a"))
    bridge = time.perf_counter() - start
    start = time.perf_counter()
    grammar = constraints.compile(StructuredOutputs(json=LARGE))
    compiled = time.perf_counter() - start
    random = np.random.default_rng(0)
    seconds, firsts = [], []
    for _ in range(12):
        follower, ids = grammar.follow(), list[int]()
        for position in range(100):
            start = time.perf_counter()
            mask = follower.mask(ids, words)
            taken = time.perf_counter() - start
            (firsts if position == 0 else seconds).append(taken)
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            if allowed.size == 0:
                break
            ids.append(int(random.choice(allowed)))
            if ids[-1] in llm.tokenizer.eos_ids:
                break
    micro = np.array(seconds) * 1e6
    print(
        f"\n{vocabulary:,} tokens: bridge {bridge:.2f} s once; compile {1e3 * compiled:.1f} ms; "
        f"mask and token, {micro.size} of them: median {np.median(micro):.0f} us, "
        f"p99 {np.percentile(micro, 99):.0f}, max {micro.max():.0f}"
    )


def time_steps(model: str, tokens: int = 64, repeat: int = 5) -> None:
    """Milliseconds of a decode step with masks and without, in turns."""
    llm = LLM(model, max_rows=16, context_length=256)
    plain = SamplingParams(max_tokens=tokens, temperature=1.0, seed=1, ignore_eos=True)
    masked = SamplingParams(
        max_tokens=tokens,
        temperature=1.0,
        seed=1,
        structured_outputs=StructuredOutputs(json=LARGE),
    )
    for rows in (1, 16):
        prompts = [f"A list of waters, number {i}:" for i in range(rows)]
        found: dict[str, list[float]] = {"without": [], "with": []}
        for turn in range(repeat + 1):
            for name, params in (("without", plain), ("with", masked)):
                outputs = llm.generate(prompts, [params] * rows)
                if turn == 0:
                    continue
                metrics, answer = outputs[-1].metrics, outputs[-1].outputs[0]
                assert metrics.first_token is not None
                assert metrics.finished is not None
                steps = len(answer.token_ids) - 1
                found[name].append(1e3 * (metrics.finished - metrics.first_token) / steps)
        without, with_masks = (statistics.median(found[name]) for name in ("without", "with"))
        print(
            f"{rows:>2} rows: a step without masks {without:.2f} ms, with {with_masks:.2f} ms "
            f"({100 * (with_masks / without - 1):+.1f} %; medians of {repeat})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--large", metavar="MODEL", help="time masks of this model's vocabulary")
    parser.add_argument("--timed", metavar="MODEL", help="time steps of this model")
    asked = parser.parse_args()
    if asked.seeds:
        llm = tiny_llm()
        start = time.perf_counter()
        found = check_validity(asked.seeds, llm)
        taken = time.perf_counter() - start
        print(f"{'keyword':22} schemas  whole  cut  instances  faults")
        for name, tally in found.items():
            row = (tally.schemas, tally.whole, tally.cut, tally.instances, len(tally.faults))
            print("{:22} {:7} {:6} {:4} {:10} {:7}".format(name, *row))
        tallies = found.values()
        refusals = check_refusals(llm)
        faults = [fault for tally in tallies for fault in tally.faults] + refusals
        whole, cut = (sum(getattr(t, name) for t in tallies) for name in ("whole", "cut"))
        print(
            f"{len(CASES)} schemas, {whole + cut} answers in {taken:.1f} s: {whole} whole, {cut} "
            f"cut at {MAX_TOKENS} tokens; {sum(t.instances for t in tallies)} instances; "
            f"{len(REFUSED)} refusals; {len(faults)} faults"
        )
        for fault in faults:
            print(f"  {fault}")
    if asked.large:
        time_masks(asked.large)
    if asked.timed:
        time_steps(asked.timed)


if __name__ == "__main__":
    main()
