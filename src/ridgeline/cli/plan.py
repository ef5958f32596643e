"""`ridgeline plan`: what serves a load within an SLO at the least cost, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.planned import planned_model
from ridgeline.cli.roofline import console_for, write
from ridgeline.cli.stages import show_stages
from ridgeline.config import Settings
from ridgeline.errors import CapacityError, RequestError

if TYPE_CHECKING:
    from rich.table import Table

    from ridgeline.cost.accelerator import Accelerator
    from ridgeline.plan.search import Asked, Choice, Searched

EXAMPLES = """
Examples:

  ridgeline plan llama-3.3-70b --gpu h200 --count 8 --input 2000 --output 300 --rate 10 --slo
  ttft=500ms,itl=40ms

  ridgeline plan llama-3.3-70b --compare qwen-2.5-72b --gpu h100,h200,b200 --count 8 --rate 5

  ridgeline plan deepseek-v3.1 --gpu gb200 --count 72 --slo itl=30ms --html plan.html

  ridgeline plan qwen3-235b --gpu h200 --trace azure.csv --slo ttft=1s --emit vllm

Without --rate: as much as so many accelerators can serve within the SLO. TTFT keeps the SLO at the
median, or as --slo-at says; ITL is an answer's mean. $/MTok puts all cost on output tokens; --json
has input and output apart. Predictions are held to measurements in docs/accuracy.md.
"""


def plan(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A published model, config.json, folder or GGUF file.")
    ],
    gpu: Annotated[
        str, typer.Option(help="Accelerators, as `ridgeline roofline --list` names them.")
    ] = "h200",
    count: Annotated[int, typer.Option(help="Of them, at most.")] = 8,
    num_input: Annotated[int, typer.Option("--input", help="Tokens of a prompt.")] = 2000,
    num_output: Annotated[int, typer.Option("--output", help="Tokens of an answer.")] = 300,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second. [default: the most that can be served]")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Lengths and rate from a trace: their means.")
    ] = None,
    slo: Annotated[str, typer.Option(help="As ttft=500ms,itl=40ms.")] = "",
    slo_at: Annotated[str, typer.Option(help="Where TTFT keeps it: p50, p90 or p99.")] = "p50",
    precision: Annotated[
        str, typer.Option(help="Of weights, tried: bf16,fp8,nvfp4,int4,int8,mxfp4.")
    ] = "bf16,fp8,nvfp4,int4",
    kv: Annotated[str, typer.Option(help="Of the cache, tried.")] = "bf16,fp8",
    engine: Annotated[str, typer.Option(help="Whose overheads: vllm, sglang or trtllm.")] = "vllm",
    price: Annotated[
        str | None, typer.Option(help="A class of prices: on-demand, reserved, spot or owned.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="USD an hour, of all.")] = None,
    api_price: Annotated[
        float | None, typer.Option(help="USD a million output tokens elsewhere: host it or not?")
    ] = None,
    compare: Annotated[str, typer.Option(help="Other models, for the same load.")] = "",
    top: Annotated[int, typer.Option(help="Configurations to show.")] = 6,
    emit: Annotated[
        str | None,
        typer.Option(help="The winner's launch: ridgeline, vllm, sglang, trtllm or llama.cpp."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="One self-contained page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """What serves a load within an SLO at the least cost, of all that can be laid out."""
    from ridgeline.cost.accelerator import load_accelerator
    from ridgeline.plan.launch import ENGINES, launch
    from ridgeline.plan.report import distinct, fields
    from ridgeline.plan.report import html as page_of

    settings: Settings = context.obj
    if emit is not None and emit not in ENGINES:
        raise RequestError("--emit", f"{emit!r}; there are: {', '.join(ENGINES)}")
    if not 1 <= top <= 1000:
        raise RequestError("--top", f"{top} is not 1 to 1000")
    asked = _asked(
        num_input, num_output, count, rate, trace, slo, slo_at, precision, kv, engine, price,
        max_cost, api_price,
    )  # fmt: skip
    accelerators = [load_accelerator(name) for name in _listed("--gpu", gpu)]
    models = [planned_model(one, settings) for one in (model, *_listed("--compare", compare))]
    found: dict[str, Searched] = {}
    with show_stages("searching") as report:
        for index, (name, config) in enumerate(models):
            report(name, index, len(models))
            found[name] = _search(name, config, accelerators, asked, single=len(models) == 1)
    name = models[0][0]
    if not any(one.ranked for one in found.values()):
        raise CapacityError(f"nothing keeps {_load_text(asked)} with any of {', '.join(found)}")
    shown = {n: distinct(one.ranked, top) for n, one in found.items()}
    best = {n: choices[0] for n, choices in shown.items() if choices}
    if html is not None and name in best:
        subtitle = f"{_load_text(asked)}; {found[name].num_priced:,} candidates"
        write(html, page_of(f"{name}: a plan", subtitle, found[name], shown[name]))
    started = None
    if emit is not None and name in best:
        started = launch(best[name], _checkpoint(model), emit)
    if as_json:
        told = {
            "models": {
                n: {"ranked": [fields(c) for c in shown[n]], "priced": one.num_priced}
                for n, one in found.items()
            },
            "launch": None
            if emit is None or name not in best
            else launch(best[name], _checkpoint(model), emit),
        }
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
        return
    if emit is not None:
        if started is None:
            raise CapacityError(f"nothing keeps {_load_text(asked)} with {name}")
        sys.stdout.write(started)
        return
    if name in best:
        _show(name, found[name], shown[name], asked, api_price)
    if len(models) > 1:
        _show_compared(best, found)


def _asked(
    num_input: int, num_output: int, count: int, rate: float | None, trace: Path | None, slo: str,
    slo_at: str, precision: str, kv: str, engine: str, price: str | None, max_cost: float | None,
    api_price: float | None,
) -> Asked:  # fmt: skip
    from ridgeline.cost.accelerator import PAID_CLASSES
    from ridgeline.cost.efficiency import ENGINES
    from ridgeline.plan.asked import parse_slo
    from ridgeline.plan.search import Asked

    percentiles = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    for option, value, known in (
        ("--slo-at", slo_at, tuple(percentiles)),
        ("--engine", engine, ENGINES),
        ("--price", price or PAID_CLASSES[0], PAID_CLASSES),
    ):
        if value not in known:
            raise RequestError(option, f"{value!r}; there are: {', '.join(known)}")
    for option, amount in (("--max-cost", max_cost), ("--api-price", api_price)):
        if amount is not None and not (amount > 0 and isfinite(amount)):
            raise RequestError(option, f"{amount:g} USD: give an amount above 0")
    level = parse_slo(slo)
    if isfinite(level.itl99) or isfinite(level.e2e):
        raise RequestError("--slo", "plan keeps ttft and itl; simulate has itl99 and e2e, too")
    if trace is not None:
        num_input, num_output, rate = _of_trace(trace, rate)
    asked = Asked(
        num_input,
        num_output,
        count,
        rate=rate,
        ttft=level.ttft if isfinite(level.ttft) else None,
        itl=level.itl if isfinite(level.itl) else None,
        percentile=percentiles[slo_at],
        max_usd_per_hour=max_cost,
        precisions=tuple(_listed("--precision", precision)),
        kv=tuple(_listed("--kv", kv)),
        engine=engine,
        price_class=price,
    )
    asked.check()
    return asked


def _of_trace(path: Path, rate: float | None) -> tuple[int, int, float | None]:
    """Mean prompt, mean answer, and requests a second, unless they are said."""
    from ridgeline.plan.traces import read_trace

    arrivals = read_trace(path)
    count = len(arrivals)
    seconds = arrivals[-1].seconds - arrivals[0].seconds
    if rate is None and seconds > 0:
        rate = (count - 1) / seconds
    prompts = sum(a.num_prompt for a in arrivals) / count
    answers = sum(a.num_output for a in arrivals) / count
    return max(1, round(prompts)), max(1, round(answers)), rate


def _checkpoint(model: str) -> str:
    """How engines find it: a published model's id on the hub, else what was said."""
    from ridgeline.model.configurations import find_configuration

    if Path(model).expanduser().exists():
        return model
    found = find_configuration(model.removeprefix("hf:"))
    return model.removeprefix("hf:") if found is None else found.id


def _listed(option: str, text: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found and option != "--compare":
        raise RequestError(option, "is empty")
    return list(dict.fromkeys(found))


def _search(
    name: str, config: Mapping[str, object], accelerators: Sequence[Accelerator], asked: Asked,
    *, single: bool,
) -> Searched:  # fmt: skip
    from ridgeline.plan.report import nearest
    from ridgeline.plan.search import search

    found = search(config, accelerators, asked)
    if not found.ranked and single:
        raise CapacityError(f"nothing keeps {_load_text(asked)} with {name}: {nearest(found)}")
    return found


def _load_text(asked: Asked) -> str:
    parts = [f"{asked.input_tokens:,} + {asked.output_tokens:,} tokens"]
    parts.append("as fast as it goes" if asked.rate is None else f"{asked.rate:g} requests/s")
    if asked.ttft is not None:
        parts.append(f"TTFT p{asked.percentile:.0f} {1e3 * asked.ttft:g} ms")
    if asked.itl is not None:
        parts.append(f"ITL {1e3 * asked.itl:g} ms")
    return ", ".join(parts) + f", {asked.count} accelerators at most"


def _table(rows: Sequence[Sequence[str]], head: Sequence[str], words: Sequence[str]) -> Table:
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="dim")
    for title in head:
        made.add_column(title, justify="left" if title in words else "right")
    for row in rows:
        made.add_row(*row)
    return made


def _show(
    name: str, found: Searched, shown: Sequence[Choice], asked: Asked, api_price: float | None
) -> None:
    from ridgeline.plan.report import (
        HEAD,
        WORDS,
        break_even,
        cells,
        dollars,
        failure_axis,
        ledger,
        why_lost,
    )
    from ridgeline.units import format_bytes

    best = shown[0]
    ranking = _table([cells(c) for c in shown], HEAD, WORDS)
    console = console_for([ranking])

    def say(text: str, style: str = "") -> None:
        console.print(text, markup=False, style=style)

    say(f"{name}: {_load_text(asked)}", "bold")
    console.print(ranking)
    say("")
    say(
        f"80 % intervals: ITL {1e3 * best.tpot / best.spread:.1f} - "
        f"{1e3 * best.tpot * best.spread:.1f} ms, TTFT {1e3 * best.ttft_p50 / best.spread_ttft:.0f}"
        f" - {1e3 * best.ttft_p50 * best.spread_ttft:.0f} ms"
    )
    if best.usd_per_hour is not None:
        low, high, date = best.usd_per_hour
        say(
            f"cost: ${low:,.2f} - {high:,.2f} an hour (prices of up to {date}); $/MTok of input "
            f"{dollars(best.usd_per_mtok('input'))}, of output "
            f"{dollars(best.usd_per_mtok('generated'))} if each bears the time that it takes; "
            "cached input costs its room in the cache only"
        )
    m = ledger(best)
    say(
        f"a rank's memory: weights {format_bytes(m.weights)}, values {format_bytes(m.values)}, "
        f"cache of {best.in_flight:.0f} requests {format_bytes(m.cache)}, free "
        f"{format_bytes(m.free)} of {format_bytes(m.usable)}"
    )
    if len(shown) > 1:
        say(f"runner-up: {shown[1].name}: {why_lost(best, shown[1])}")
    for what, text in failure_axis(best):
        say(f"{what}: {text}")
    if api_price is not None:
        say(f"host it? {break_even(best, api_price)}")
    say(
        f"{found.num_priced:,} candidates of {found.num_fitting} layouts that fit; "
        f"{len(found.ranked)} keep the SLO",
        "dim",
    )


def _show_compared(best: Mapping[str, Choice], found: Mapping[str, Searched]) -> None:
    from ridgeline.plan.report import HEAD, WORDS, cells, nearest

    rows = [(name, *cells(choice)) for name, choice in best.items()]
    made = _table(rows, ("model", *HEAD), ("model", *WORDS))
    console = console_for([made])
    console.print()
    console.print(made)
    for name, one in found.items():
        if name not in best:
            console.print(f"{name}: nothing keeps it: {nearest(one)}", markup=False)
