"""`ridgeline plan`: what serves a load within an SLO at the least cost, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.planned import planned_model
from ridgeline.cli.stages import show_stages
from ridgeline.config import Settings
from ridgeline.errors import CapacityError, RequestError
from ridgeline.output_files import check_outputs, write_output

if TYPE_CHECKING:
    from ridgeline.cli.plan_asked import Coming
    from ridgeline.plan.choice import Asked, Choice
    from ridgeline.plan.search import Searched
    from ridgeline.plan.traces import Arrival

EXAMPLES = """
Examples:

  ridgeline plan llama-3.3-70b --gpu h200 --count 8 --input 2000 --output 300 --rate 10 --slo
  ttft=500ms,itl=40ms

  ridgeline plan llama-3.3-70b --compare qwen-2.5-72b --gpu h100,h200,b200 --count 8 --rate 5

  ridgeline plan deepseek-v3.1 --gpu gb200 --count 72 --slo itl=30ms --html plan.html

  ridgeline plan deepseek-v3.1 --gpu b200 --count 8 --slo itl=20ms --drafts 0,1,3 --emit sglang

  ridgeline plan llama-3.3-70b --gpu h100 --rate 4 --slo ttft=2s,itl99=60ms --emit vllm

  ridgeline plan qwen3-235b --gpu h200 --trace azure.csv --slo ttft=1s --emit vllm

  ridgeline plan smollm2 --hardware this --compare qwen-0.5b.gguf --input 500 --output 100 --slo
  ttft=2s,itl=50ms --watts 65 --usd-per-kwh 0.3 --emit ridgeline

Formulas search; the best are then run through the simulator (the engine's own scheduler, request by
request), whose figures stand in the table; --json has both. Nine of ten requests keep the SLO, or
as many as --slo-at says: ttft, itl (an answer's mean gap) and itl99 (99 of 100 of its gaps, for
which prompts are cut in chunks). Without --rate: as much as so many accelerators can serve. $/MTok
puts all cost on output tokens; --json has input and output apart. docs/accuracy.md says how far off
predictions are.
"""


def plan(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="A published model, config.json, folder or GGUF file. Or name some in --compare."
        ),
    ] = None,
    gpu: Annotated[
        str,
        typer.Option(
            help="Accelerators, as `ridgeline roofline --list` names them; m3-max:64GB: of so much "
            "memory, where they are bought in sizes."
        ),
    ] = "h200",
    hardware: Annotated[
        str | None, typer.Option(help="this: this machine's CPU, in place of accelerators.")
    ] = None,
    count: Annotated[int, typer.Option(help="Of them, at most.")] = 8,
    num_input: Annotated[int, typer.Option("--input", help="Tokens of a prompt.")] = 2000,
    num_output: Annotated[int, typer.Option("--output", help="Tokens of an answer.")] = 300,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second. [default: the most that can be served]")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="A recorded load (.csv or .jsonl): searched by its means, tried as it is."
        ),
    ] = None,
    slo: Annotated[str, typer.Option(help="As ttft=500ms,itl=40ms; itl99: 99 of 100 gaps.")] = "",
    slo_at: Annotated[
        str, typer.Option(help="So many of 100 requests keep it: p50, p90 or p99.")
    ] = "p90",
    precision: Annotated[
        str,
        typer.Option(
            help="Of weights, tried: bf16,fp8,nvfp4,int4,int8,mxfp4; on this machine "
            "stored,bf16,q8_0,q5_0,q4_1,q4_0. [default there: stored,q8_0,q4_0]"
        ),
    ] = "bf16,fp8,nvfp4,int4",
    kv: Annotated[
        str, typer.Option(help="Of the cache, tried. [default on this machine: bf16,f16,int8]")
    ] = "bf16,fp8",
    chunk: Annotated[
        str,
        typer.Option(
            help="New tokens of a step at most, tried: 2048,8192. [default: 8192; with itl99 six]"
        ),
    ] = "",
    drafts: Annotated[
        str, typer.Option(help="Tokens that are proposed a step (MTP or a draft), tried: 0,1,3.")
    ] = "0",
    acceptance: Annotated[
        float | None,
        typer.Option(
            help="Of a proposed token, if those before it were right. [default: 0.85 of the "
            "model's own predictor, as DeepSeek V3's report has it; 0.7 of a draft model]"
        ),
    ] = None,
    draft_model: Annotated[
        str | None, typer.Option(help="Who proposes. [default: the model's own predictor]")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Whose overheads: vllm, sglang or trtllm, or of a version: vllm:0.12. [default: "
            "of the one that --emit starts, else vllm]"
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Of efficiencies: fitted, published, or a file of ridgeline fit.")
    ] = "fitted",
    price: Annotated[
        str | None, typer.Option(help="A class of prices: on-demand, reserved, spot or owned.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="USD an hour, of all.")] = None,
    watts: Annotated[
        float | None, typer.Option(help="That this machine draws while it computes.")
    ] = None,
    usd_per_kwh: Annotated[float | None, typer.Option(help="Of its power.")] = None,
    usd_per_hour: Annotated[float | None, typer.Option(help="Of this machine.")] = None,
    api_price: Annotated[
        float | None, typer.Option(help="USD a million output tokens elsewhere: host it or not?")
    ] = None,
    compare: Annotated[str, typer.Option(help="Other models, for the same load.")] = "",
    top: Annotated[int, typer.Option(help="Configurations to show.")] = 6,
    tried: Annotated[
        bool,
        typer.Option(
            "--trials/--no-trials",
            help="Run those that are shown through the simulator, or trust the formulas.",
        ),
    ] = True,
    emit: Annotated[
        str | None,
        typer.Option(help="The winner's launch: ridgeline, vllm, sglang, trtllm or llama.cpp."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="One self-contained page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """What serves a load within an SLO at the least cost, of all that can be laid out."""
    from ridgeline.cli.plan_asked import (
        arrivals_of,
        check_prices,
        coming_of,
        drafter_of,
        has_slo,
        listed,
        load_text,
        make_asked,
        means_of,
    )
    from ridgeline.cli.plan_shown import show, show_compared
    from ridgeline.cost.accelerator import load_accelerator
    from ridgeline.cost.engines import ENGINES as PRICED
    from ridgeline.plan.launch import ENGINES, launch
    from ridgeline.plan.report import failure_axis, fields
    from ridgeline.plan.report import html as page_of
    from ridgeline.plan.search import search

    settings: Settings = context.obj
    others = listed("--compare", compare)
    if model is None:
        if not others:
            raise RequestError("MODEL", "say which: ridgeline plan llama-3.3-70b")
        model, *others = others
    if emit is not None and emit not in ENGINES:
        raise RequestError("--emit", f"{emit!r}; there are: {', '.join(ENGINES)}")
    if not 1 <= top <= 1000:
        raise RequestError("--top", f"{top} is not 1 to 1000")
    check_outputs({"--html": html})
    arrivals = arrivals_of(trace)
    if arrivals is not None:
        num_input, num_output, rate = means_of(arrivals, rate)
    if hardware is not None:
        if hardware != "this":
            raise RequestError("--hardware", f"{hardware!r}; there is: this. Others are --gpu's")
        _plan_here(
            context, [model, *others], arrivals, num_input, num_output, rate,
            slo, slo_at, precision, kv, chunk, (watts, usd_per_kwh, usd_per_hour), top, emit, html,
            as_json,
        )  # fmt: skip
        return
    for option, value in (
        ("--watts", watts), ("--usd-per-kwh", usd_per_kwh), ("--usd-per-hour", usd_per_hour),
    ):  # fmt: skip
        if value is not None:
            raise RequestError(option, "is of this machine; accelerators have prices of their own")
    accelerators = [load_accelerator(name) for name in listed("--gpu", gpu)]
    check_prices(accelerators, price, max_cost)
    models = [planned_model(one, settings) for one in (model, *others)]
    drafter = drafter_of(models[0][1], drafts, draft_model, acceptance, precision, settings)
    asked = make_asked(
        num_input, num_output, count, rate, slo, slo_at, precision, kv,
        engine or (emit if emit in PRICED else "vllm"), price, max_cost, api_price, chunk, drafts,
        drafter, profile,
    )  # fmt: skip
    coming = coming_of(arrivals, num_input, num_output)
    planned: dict[str, _Planned] = {}
    lost: dict[str, str] = {}  # models that nothing serves, and what could be had
    with show_stages("searching") as report:
        for index, (name, config) in enumerate(models):
            report(name, index, len(models))
            mine = asked
            if index and asked.drafter is not None:
                try:
                    own = drafter_of(config, drafts, draft_model, acceptance, precision, settings)
                    mine = replace(asked, drafter=own)
                except RequestError:  # it has no predictor: planned without one
                    mine = replace(asked, drafter=None, drafts=(0,))
            try:
                found = search(config, accelerators, mine)
                report(f"{name}: trials", 0, 1)

                def trying(done: int, total: int, name: str = name) -> None:
                    report(f"{name}: trials, requests", done, total)

                shown = _shown(found, mine, coming, top, trying if tried else None)
                planned[name] = _Planned(found, shown)
            except CapacityError as error:
                lost[name] = str(error)
    name = models[0][0]
    if not planned:
        raise CapacityError("; ".join(f"{one}: {why}" for one, why in lost.items()))
    if name in lost and (html is not None or emit is not None):
        option = "--html" if html is not None else "--emit"
        raise CapacityError(f"{option} is of {name}: {lost[name]}")
    best = {n: one.shown[0] for n, one in planned.items()}
    if html is not None:
        first = planned[name]
        subtitle = f"{load_text(asked)}; {first.found.num_priced:,} candidates"
        roof = _roof(name, models[0][1], best[name])
        write_output(html, page_of(f"{name}: a plan", subtitle, first.found, first.shown, roof))
    started = None if emit is None else launch(best[name], _checkpoint(model), emit)
    if as_json:
        told = {
            "models": {
                n: {
                    "ranked": [fields(c) for c in one.shown],
                    "front": [fields(c) for c in one.found.front],
                    "breaks": dict(failure_axis(best[n], has_slo=has_slo(asked))),
                    "priced": one.found.num_priced,
                }
                for n, one in planned.items()
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
        show(name, planned[name].found, planned[name].shown, asked, api_price)
    if len(models) > 1:
        show_compared(best, lost)


# Options that say nothing of this machine.
_OF_ACCELERATORS = (
    "gpu", "count", "drafts", "acceptance", "draft_model", "engine", "price", "max_cost",
    "api_price", "tried", "profile",
)  # fmt: skip


def _plan_here(
    context: typer.Context, models: Sequence[str], arrivals: Sequence[Arrival] | None,
    num_input: int, num_output: int, rate: float | None, slo: str, slo_at: str, precision: str,
    kv: str, chunk: str, costs: tuple[float | None, float | None, float | None], top: int,
    emit: str | None, html: Path | None, as_json: bool,
) -> None:  # fmt: skip
    from ridgeline.cli.plan_asked import asked_here, coming_of
    from ridgeline.cli.plan_here import plan_here, threads_here

    def is_said(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    for name in _OF_ACCELERATORS:
        if is_said(name):
            option = "--trials" if name == "tried" else "--" + name.replace("_", "-")
            raise RequestError(option, "is of accelerators; leave it out with --hardware this")
    settings: Settings = context.obj
    asked = asked_here(
        num_input, num_output, rate, slo, slo_at, precision if is_said("precision") else None,
        kv if is_said("kv") else None, chunk, costs, threads_here(settings),
    )  # fmt: skip
    coming = coming_of(arrivals, num_input, num_output)
    plan_here(models, settings, asked, coming, top=top, emit=emit, html=html, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Planned:
    """shown: the cheapest first, one at least."""

    found: Searched
    shown: list[Choice]


def _shown(
    found: Searched,
    asked: Asked,
    coming: Coming,
    top: int,
    report: Callable[[int, int], None] | None,
) -> list[Choice]:
    """report: of trials; None: there are none. CapacityError says what could be had where nothing
    keeps the SLO.
    """
    from ridgeline.cli.plan_asked import load_text
    from ridgeline.plan.report import distinct, nearest, nearest_tried
    from ridgeline.plan.search import rank
    from ridgeline.plan.trial import try_choices

    if not found.ranked:
        raise CapacityError(f"nothing keeps {load_text(asked)}: {nearest(found)}")
    if report is None:
        return distinct(found.ranked, top)
    # Some are lost in the trial.
    candidates = distinct(found.ranked, 2 * top)
    trial = try_choices(
        candidates, asked, coming.loads, rank, wanted=top, block_tokens=coming.block_tokens,
        shares_prefixes=coming.shares_prefixes, report=report,
    )  # fmt: skip
    if not trial.ranked:
        raise CapacityError(f"nothing keeps {load_text(asked)}: {nearest_tried(trial.lost)}")
    return list(trial.ranked)


def _roof(name: str, config: Mapping[str, object], best: Choice) -> str:
    """A step of its answers under its accelerator's roof; "" where rows or stages are apart, which
    `ridgeline roofline` does not draw.
    """
    from ridgeline.plan.draw_roofline import operators, svg
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
    return svg(found) + operators(found)


def _checkpoint(model: str) -> str:
    """How engines find it: a published model's id on the hub, else what was said."""
    from ridgeline.model.configurations import find_configuration

    if Path(model).expanduser().exists():
        return model
    found = find_configuration(model.removeprefix("hf:"))
    return model.removeprefix("hf:") if found is None else found.id
