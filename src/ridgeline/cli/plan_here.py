"""`ridgeline plan --hardware this`: which model, precision, cache and threads, on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ridgeline.assemble import kept_profile, machine_isa
from ridgeline.cli.plan_asked import Coming
from ridgeline.cli.plan_shown import table_of
from ridgeline.cli.planned import planned_model
from ridgeline.cli.roofline import console_for
from ridgeline.cli.stages import show_stages
from ridgeline.config import Settings
from ridgeline.errors import CapacityError, RequestError
from ridgeline.model.opened import describe, open_model
from ridgeline.model.weights.sources import parse_reference, resolve
from ridgeline.model.weights.sources.catalogue import CATALOGUE
from ridgeline.output_files import write_output
from ridgeline.plan.here_search import (
    STORED,
    AskedHere,
    FoundHere,
    HereChoice,
    Model,
    search_here,
)
from ridgeline.plan.report import between, milliseconds
from ridgeline.plan.svg import page, table
from ridgeline.units import format_bytes

HEAD = (
    "model", "weights", "KV", "threads", "chunk", "memory", "req/s of most", "TTFT p50", "p99",
    "in time", "ITL", "80 %", "gap p99", "tok/s", "$/MTok out", "J/token",
)  # fmt: skip
WORDS = ("model", "weights", "KV")


def plan_here(
    references: Sequence[str], settings: Settings, asked: AskedHere, coming: Coming, *,
    top: int, emit: str | None, html: Path | None, as_json: bool,
) -> None:  # fmt: skip
    if emit not in (None, "ridgeline"):
        raise RequestError("--emit", f"{emit!r}; of this machine's engine there is: ridgeline")
    asked.check()
    with show_stages("planning") as report:
        models = [model_here(reference, settings) for reference in references]
        found = search_here(models, settings, asked, coming.loads, report)
    if not found.ranked:
        raise CapacityError(f"nothing keeps {load_text(asked)}: {nearest(found)}")
    shown = found.ranked[:top]
    if html is not None:
        title = f"{shown[0].model.name}: this machine"
        rows = [cells(c, asked) for c in shown]
        write_output(html, page(title, load_text(asked), [table(HEAD, rows, words=WORDS, best=0)]))
    started = None if emit is None else launch(shown[0])
    if as_json:
        told = {
            "machine": shown[0].engine.kind.machine,
            "ranked": [fields_of(c, asked) for c in shown],
            "lost": [fields_of(c, asked) for c in found.lost],
            "left_out": list(found.left_out),
            "tried": found.num_tried,
            "launch": started,
        }
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
        return
    if started is not None:
        sys.stdout.write(started)
        return
    _show(found, shown, asked)


def threads_here(settings: Settings) -> tuple[int, ...]:
    """Those that `ridgeline measure` timed, up to the settings'; else the settings' alone."""
    isa = machine_isa(settings)

    def is_timed(threads: int) -> bool:
        return kept_profile(replace(settings, threads=threads), isa) is not None

    timed = tuple(t for t in range(1, settings.threads + 1) if is_timed(t))
    return timed or (settings.threads,)


def model_here(reference: str, settings: Settings) -> Model:
    """What `ridgeline run` would run, opened; else a configuration by its published name."""
    from ridgeline.cli.progress import show_progress

    path = Path(reference).expanduser()
    if path.suffix == ".json" or not (
        path.exists() or reference in CATALOGUE or reference.startswith(("hf:", "pypi:"))
    ):
        name, config = planned_model(reference, settings)
        return Model(name, reference, config, describe(config, where=name))
    with show_progress(reference) as progress:
        opened = open_model(resolve(parse_reference(reference), settings, progress))
    return Model(opened.name, reference, opened.config, opened.graph)


def load_text(asked: AskedHere) -> str:
    parts = [f"{asked.input_tokens:,} + {asked.output_tokens:,} tokens"]
    parts.append("as fast as it goes" if asked.rate is None else f"{asked.rate:g} requests/s")
    for name, bound in (("TTFT", asked.ttft), ("ITL", asked.itl), ("gap p99", asked.gap)):
        if bound is not None:
            parts.append(f"{name} {1e3 * bound:g} ms")
    if len(parts) > 2:
        parts.append(f"for {asked.percentile:g} % of requests")
    return ", ".join(parts)


def nearest(found: FoundHere) -> str:
    told = []
    if found.lost:
        best = found.lost[0]
        seen = best.seen
        told.append(
            f"{best.name} on {best.threads} threads comes nearest: alone, a request has its first "
            f"token after {milliseconds(best.alone_ttft)} and one each "
            f"{1e3 * best.alone_itl:.1f} ms"
            + (f"; {seen.within:.0%} of requests are in time" if seen else "")
            + ("; the queue grows without end" if seen and seen.grows else "")
        )
    told += found.left_out[:2]
    return "; ".join(told) + "; loosen --slo, lower --rate, or take a smaller --precision or model"


def cells(c: HereChoice, asked: AskedHere) -> tuple[str, ...]:
    seen = c.seen
    assert seen is not None
    paid, joules = c.usd_per_mtok(asked), c.joules_per_token(asked)
    engine = c.engine
    return (
        c.model.name,
        c.precision,
        c.kv,
        str(c.threads),
        str(c.chunk),
        format_bytes(engine.fixed_bytes + engine.cache_bytes),
        f"{c.rate:.3g} of {c.most_rate:.3g}",
        milliseconds(seen.ttft_p50),
        milliseconds(seen.ttft_p99),
        f"{100 * seen.within:.1f} %" if seen.within < 1 else "-",
        f"{1e3 * seen.itl_p50:.1f} ms",
        "a bound" if engine.factor is None else between(seen.itl_p50, engine.factor),
        milliseconds(seen.gap_p99),
        f"{c.rate * asked.output_tokens:,.0f}",
        "-" if paid is None else f"{paid:.3f}",
        "-" if joules is None else f"{joules:.3f}",
    )


def launch(c: HereChoice) -> str:
    """The command that starts it as it was tried."""
    notes = [f"# {c.name}: {c.engine.kind.machine}"]
    if c.precision != STORED:
        notes.append(f"# {c.model.reference} must be a file whose weights are {c.precision}")
    target = c.engine.kind.knobs.itl_target
    words = [
        f"ridgeline serve {c.model.reference}",
        f"--kv-format {c.kv}",
        f"--threads {c.threads}",
        f"--max-tokens-per-step {c.chunk}",
    ]
    if target is not None:
        words.append(f"--itl-target {target:g}")
    return "\n".join(notes) + "\n" + " \\\n  ".join(words) + "\n"


def fields_of(c: HereChoice, asked: AskedHere) -> dict[str, object]:
    engine = c.engine
    return {
        "model": c.model.name,
        "precision": c.precision,
        "kv": c.kv,
        "threads": c.threads,
        "chunk": c.chunk,
        "rows": engine.rows_at_once,
        "bytes": {
            "weights": engine.weight_bytes,
            "all_but_cache": engine.fixed_bytes,
            "cache": engine.cache_bytes,
        },
        "cache_tokens": engine.kind.cache_tokens,
        "alone": {"ttft": c.alone_ttft, "itl": c.alone_itl},
        "itl_factor": engine.factor,
        "requests_per_second": c.rate,
        "most_requests_per_second": c.most_rate,
        "output_tokens_per_second": c.rate * asked.output_tokens,
        "busy": c.busy,
        "simulated": None if c.seen is None else asdict(c.seen),
        "usd_per_mtok_output": c.usd_per_mtok(asked),
        "joules_per_token": c.joules_per_token(asked),
        "notes": list(engine.kind.notes),
    }


def _show(found: FoundHere, shown: Sequence[HereChoice], asked: AskedHere) -> None:
    ranking = table_of([cells(c, asked) for c in shown], HEAD, WORDS)
    console = console_for([ranking])

    def say(text: str, style: str = "") -> None:
        console.print(text, markup=False, style=style)

    best = shown[0]
    engine = best.engine
    say(f"{engine.kind.machine}: {load_text(asked)}", "bold")
    console.print(ranking)
    say("")
    say(
        f"memory: weights {format_bytes(engine.weight_bytes)}, values and what operators need "
        f"{format_bytes(engine.fixed_bytes - engine.weight_bytes)}, cache "
        f"{format_bytes(engine.cache_bytes)}: {engine.kind.cache_tokens:,} tokens, "
        f"{engine.kind.cache_tokens // (asked.input_tokens + asked.output_tokens):,} requests of "
        f"this length; at most {engine.rows_at_once} run at once"
    )
    say(
        f"alone: first token after {milliseconds(best.alone_ttft)}, then one each "
        f"{1e3 * best.alone_itl:.1f} ms"
    )
    say(f"queue: above {best.most_rate:.3g} requests/s the SLO, or the queue's end, is lost")
    if best.usd_per_mtok(asked) is None:
        say("cost: say --watts and --usd-per-kwh, or --usd-per-hour, for $/MTok and J/token")
    for why in found.left_out[:4]:
        say(f"left out: {why}", "dim")
    for note in engine.kind.notes:
        say(f"note: {note}; what a format loses in quality is not in this ranking", "dim")
    say(
        f"{found.num_tried} ways fit; {len(found.ranked) + len(found.lost)} tried with care, "
        f"{len(found.ranked)} keep the SLO",
        "dim",
    )
