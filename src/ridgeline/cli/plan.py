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

    from ridgeline.plan.search import Asked, Choice, Searched

EXAMPLES = """
Examples:

  ridgeline plan llama-3.3-70b --gpu h200 --count 8 --input 2000 --output 300 --rate 10 --slo
  ttft=500ms,itl=40ms

  ridgeline plan llama-3.3-70b --compare qwen-2.5-72b --gpu h100,h200,b200 --count 8 --rate 5

  ridgeline plan deepseek-v3.1 --gpu gb200 --count 72 --slo itl=30ms --html plan.html

  ridgeline plan qwen3-235b --gpu h200 --trace azure.csv --slo ttft=1s --emit vllm

Without --rate: as much as so many accelerators can serve within the SLO. Nine of ten requests keep
its TTFT, or as many as --slo-at says; ITL is an answer's mean, in which prompts of others lie as
longer gaps (`ridgeline simulate` has them one by one). $/MTok puts all cost on output tokens;
--json has input and output apart. Predictions are held to measurements in docs/accuracy.md.
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
    slo_at: Annotated[
        str, typer.Option(help="So many of 100 requests keep TTFT: p50, p90 or p99.")
    ] = "p90",
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
    from ridgeline.plan.report import distinct, failure_axis, fields, nearest
    from ridgeline.plan.report import html as page_of
    from ridgeline.plan.search import search

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
    lost: dict[str, str] = {}  # models that nothing serves, and what could be had
    with show_stages("searching") as report:
        for index, (name, config) in enumerate(models):
            report(name, index, len(models))
            try:
                found[name] = search(config, accelerators, asked)
            except CapacityError as error:
                lost[name] = str(error)
                continue
            if not found[name].ranked:
                lost[name] = f"nothing keeps {_load_text(asked)}: {nearest(found.pop(name))}"
    name = models[0][0]
    if not found:
        raise CapacityError("; ".join(f"{one}: {why}" for one, why in lost.items()))
    if name in lost and (html is not None or emit is not None):
        option = "--html" if html is not None else "--emit"
        raise CapacityError(f"{option} is of {name}: {lost[name]}")
    shown = {n: distinct(one.ranked, top) for n, one in found.items()}
    best = {n: choices[0] for n, choices in shown.items() if choices}
    if html is not None:
        subtitle = f"{_load_text(asked)}; {found[name].num_priced:,} candidates"
        roof = _roof(name, models[0][1], best[name])
        write(html, page_of(f"{name}: a plan", subtitle, found[name], shown[name], roof))
    started = None if emit is None else launch(best[name], _checkpoint(model), emit)
    if as_json:
        told = {
            "models": {
                n: {
                    "ranked": [fields(c) for c in shown[n]],
                    "front": [fields(c) for c in one.front],
                    "breaks": dict(failure_axis(best[n], has_slo=_has_slo(asked))),
                    "priced": one.num_priced,
                }
                for n, one in found.items()
            },
            "nothing_serves": lost,
            "launch": started,
        }
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
        return
    if started is not None:
        sys.stdout.write(started)
        return
    if name in best:
        _show(name, found[name], shown[name], asked, api_price)
    if len(models) > 1:
        _show_compared(best, lost)


def _has_slo(asked: Asked) -> bool:
    return asked.ttft is not None or asked.itl is not None


def _roof(name: str, config: Mapping[str, object], best: Choice) -> str:
    """A step of its answers under its accelerator's roof; "" where rows or stages are apart, which
    `ridgeline roofline` does not draw.
    """
    from ridgeline.plan.draw_roofline import svg
    from ridgeline.plan.roofline import roofline
    from ridgeline.step import StepShape

    mesh = best.deployment.mesh
    if mesh.dp > 1 or mesh.pp > 1:
        return ""
    rows = max(1, round(best.in_flight / max(1, best.workers)))
    context = best.input_tokens + best.output_tokens // 2
    found = roofline(
        name, config, best.accelerator, StepShape.decode(rows, context),
        step=f"decode:{rows}@{context}", precision=best.precision, kv=best.kv, tp=mesh.tp,
    )  # fmt: skip
    return svg(found)


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
    for what, text in failure_axis(best, has_slo=_has_slo(asked)):
        say(f"{what}: {text}")
    if api_price is not None:
        say(f"host it? {break_even(best, api_price)}")
    say(
        f"{found.num_priced:,} candidates of {found.num_fitting} layouts that fit; "
        f"{len(found.ranked)} keep the SLO",
        "dim",
    )


def _show_compared(best: Mapping[str, Choice], lost: Mapping[str, str]) -> None:
    from ridgeline.plan.report import HEAD, WORDS, cells

    rows = [(name, *cells(choice)) for name, choice in best.items()]
    made = _table(rows, ("model", *HEAD), ("model", *WORDS))
    console = console_for([made])
    console.print()
    console.print(made)
    for name, why in lost.items():
        console.print(f"{name}: {why}", markup=False)
