"""Ridgeline beside llama.cpp, OpenVINO and vLLM on the same weights, interleaved: a table of bars.

    python benchmarks/peers.py DESCRIPTION.toml [--cases 'smollm2-*' ...] [--quick] [--out DIR]

DESCRIPTION says where each engine and model lies (benchmarks/side_by_side/description.py shows
one). What is not there is said and left out. Cases and their bars are data:
benchmarks/side_by_side/cases.py, `--list` prints them.

    --cases      keys, or shell patterns of keys; minutes-long ones ("*-offline-*") only by name
    --prompt     other prompt lengths of prefill, as 300,1000
    --context    other contexts of decode
    --batch      other batch sizes
    --also       further contenders beside the bars', as llamacpp:Q4_0 vllm

Every round measures each contender once, with token ids of its own each time; before each turn
Ridgeline measures what the machine can do at that moment. Nobody else's process runs meanwhile.
Writes peers.md, .json, .html and, with matplotlib, .png to --out. What else runs on the machine
it knows only as the part of the processors that others took during a turn: beyond a tenth, the turn
is taken again, twice at most.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from side_by_side.cases import CASES, OFFLINE, Case, chosen, with_lengths
from side_by_side.description import Description, read_description
from side_by_side.figures import Measured
from side_by_side.plot import draw
from side_by_side.processes import MissingError
from side_by_side.report import bars_table, counted, html, markdown, markdown_table, record
from side_by_side.rounds import Field, Rounds, measure


def numbers(text: str) -> list[int]:
    """`512,2048` as numbers."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise ValueError(text)
    return values


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Ridgeline beside its peers, interleaved: the table of bars."
    )
    parser.add_argument("description", type=Path, nargs="?", help="TOML: where the engines lie")
    parser.add_argument("--cases", nargs="+", default=None, metavar="KEY")
    parser.add_argument("--list", action="store_true", help="print the cases and their bars")
    parser.add_argument("--prompt", type=numbers, default=[], help="prompt lengths of prefill")
    parser.add_argument("--context", type=numbers, default=[], help="contexts of decode")
    parser.add_argument("--batch", type=numbers, default=[], help="batch sizes")
    parser.add_argument("--also", nargs="+", default=[], metavar="ENGINE[:FORMAT]")
    parser.add_argument("--threads", type=int, help="over the description's")
    parser.add_argument("--rounds", type=int, help="exactly so many a case")
    parser.add_argument("--quick", action="store_true", help="two rounds a case")
    parser.add_argument("--out", type=Path, default=Path("peers"))
    arguments = parser.parse_args(words)
    if arguments.description is None and not arguments.list:
        parser.error("a description is needed, unless --list")
    return arguments


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """Raises ValueError for a key that is not there."""
    known = with_lengths(CASES, arguments.prompt, arguments.context, arguments.batch)
    if arguments.cases is None:
        return known
    try:
        return chosen([*known, *OFFLINE], arguments.cases)
    except ValueError:
        # By the key that it has without --prompt and the like.
        picked = chosen([*CASES, *OFFLINE], arguments.cases)
        return with_lengths(picked, arguments.prompt, arguments.context, arguments.batch)


def rounds_of(arguments: argparse.Namespace) -> Rounds:
    if arguments.rounds:
        return Rounds(arguments.rounds, arguments.rounds)
    return Rounds(2, 2) if arguments.quick else Rounds()


def about(description: Description, rounds: Rounds, facts: dict[str, object]) -> dict[str, Any]:
    """Where and when, as far as it matters to the figures."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    versions = {str(fact.get("version")) for fact in facts.values() if isinstance(fact, dict)}
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{model}, {os.cpu_count()} processors; {description.threads} threads each",
        "engines": ", ".join(sorted(versions)),
        "rounds": f"{rounds.least} to {rounds.most} a case",
        "contenders": facts,
    }


def write(
    results: Sequence[Measured], facts: dict[str, Any], folder: Path, picture: bytes | None = None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "peers.md": markdown(results, facts),
        "peers.json": json.dumps(record(results, facts), indent=1) + "\n",
        "peers.html": html(results, facts, picture),
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")


def main() -> None:
    arguments = arguments_of()
    try:
        cases = cases_of(arguments)
        if arguments.list:
            print("\n".join(f"{case.key:28} {_bars(case)}" for case in [*cases, *OFFLINE]))
            return
        description = read_description(arguments.description)
    except ValueError as error:
        raise SystemExit(f"peers.py: {error}") from None
    if arguments.threads:
        description = replace(description, threads=arguments.threads)
    rounds = rounds_of(arguments)
    begin = time.monotonic()

    def tell(line: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {line}", file=sys.stderr, flush=True)

    results: list[Measured] = []
    field = Field(cases, description, arguments.also, arguments.out, tell)
    try:
        for case in cases:
            try:
                results.append(measure(case, field, rounds, tell))
            except MissingError as error:
                tell(f"{case.label} is left out: {error}")
                results.append(Measured(case, (), {"ridgeline": str(error)}))
            write(results, about(description, rounds, field.facts), arguments.out)
    finally:
        field.close()
    try:
        if draw(results, arguments.out / "peers.png"):
            picture = (arguments.out / "peers.png").read_bytes()
            write(results, about(description, rounds, field.facts), arguments.out, picture)
    except ImportError:
        tell("no picture: matplotlib is not installed (pip install 'ridgeline[plot]')")
    print("\n".join([*markdown_table(bars_table(results)), "", counted(results)]))


def _bars(case: Case) -> str:
    parts = [f">= {bar.ratio:g} x {bar.peer}" for bar in case.bars]
    if case.roof_share is not None:
        parts.append(f">= {case.roof_share:.0%} of {case.share_of}")
    return ", ".join(parts)


def end(*_signal: object) -> None:
    """Contenders that stand still must not be left behind; nor if one is told twice to end, as
    timeout(1) does, in the midst of ending them.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("peers.py: told to end")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    main()
