"""`ridgeline simulate`: a fleet of engines on a virtual clock, under a load."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.config import Settings
from ridgeline.errors import RequestError
from ridgeline.output_files import write_output

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ridgeline.plan.deployed import Knobs, ReplicaKind
    from ridgeline.plan.fleet import Transfer
    from ridgeline.plan.knees import Knees
    from ridgeline.plan.load import Load

EXAMPLES = """
Examples:

  ridgeline simulate llama-3.3-70b --on h200 --precision fp8 --replicas 4 --rate 6 --input 2000
  --output 300 --slo ttft=2s,itl=80ms

  ridgeline simulate llama-3.1-8b --on h100 --trace azure.csv --rate 40 --replicas 8 --router
  prefix --fail replica=3@120s+60s --html fleet.html

  ridgeline simulate qwen3-235b --on b200 --tp 8 --precision fp8 --concurrency 512 --limits

  ridgeline simulate llama-3.3-70b --on h100 --precision fp8 --engine trtllm:1.1 --rate 4

  ridgeline simulate deepseek-v3.1 --on gb200 --precision nvfp4 --dp 16 --ep 16 --rate 20
  --disaggregate 2:1

  ridgeline simulate llama-3.1-8b --on h100 --trace azure.csv --rate 30 --autoscale 1:8 --scale-on
  queue=64 --scale-delay 90s --slo ttft=1s

A replica is our engine's scheduler, cache and policy; its steps take what the cost model says, with
the overheads of --engine: which steps it launches as CUDA graphs, what its host does between them.
Traces: Azure's (CSV) and Mooncake's (JSON lines). Same load and seed: the same bytes of --json.
"""


DEFAULT_REQUESTS = 2000
SCALE_ON, SCALE_DELAY, SCALE_DOWN_AFTER, LOST = "queue=32", "120s", "300s", "kept"


def simulate(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A published model, config.json, folder, GGUF or hf:owner/name.")
    ],
    on: Annotated[
        str, typer.Option(help="Accelerator (ridgeline roofline --list), or this: this machine.")
    ] = "h200",
    replicas: Annotated[int, typer.Option(help="Engines behind the router.")] = 1,
    trace: Annotated[
        Path | None,
        typer.Option(help="Recorded load: .csv (Azure) or .jsonl (Mooncake), or .gz."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Requests a second: a Poisson load, or the trace at this mean rate."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Closed loop: so many requests are under way at any time.")
    ] = None,
    prompt_tokens: Annotated[
        str, typer.Option("--input", help="Tokens of prompts: 2000, or from 500-4000.")
    ] = "2000",
    answer_tokens: Annotated[
        str, typer.Option("--output", help="Tokens of answers: 300, or from 50-600.")
    ] = "300",
    requests: Annotated[
        int | None, typer.Option(help="How many. [default: the trace's, or 2000]")
    ] = None,
    router: Annotated[
        str,
        typer.Option(help="round-robin, least-loaded, prefix, prefix-hash or session."),
    ] = "least-loaded",
    disaggregate: Annotated[
        str | None,
        typer.Option(metavar="P:D", help="Replicas for prompts and for answers, apart."),
    ] = None,
    link_gbs: Annotated[
        float | None,
        typer.Option(help="GB/s from one to the other. [default: a replica's NICs]"),
    ] = None,
    slo: Annotated[
        str, typer.Option(help="ttft=500ms,itl=40ms (mean gap); itl99 (99 of 100 gaps), e2e.")
    ] = "",
    policy: Annotated[str, typer.Option(help="fcfs, priority or fair.")] = "fcfs",
    fail: Annotated[
        list[str] | None,
        typer.Option(help="replica=3@120s+60s: lost at 120 s, back 60 s later; repeatable."),
    ] = None,
    straggler: Annotated[
        list[str] | None,
        typer.Option(help="replica=2x1.5@30s: steps take 1.5 times as long; repeatable."),
    ] = None,
    autoscale: Annotated[
        str | None,
        typer.Option(metavar="LEAST:MOST", help="Replicas come and go, between so many."),
    ] = None,
    scale_on: Annotated[
        str,
        typer.Option(
            help="What a replica is to have: queue=32 (requests, waiting and running) or ttft=1s "
            "(until its prompts are computed)."
        ),
    ] = SCALE_ON,
    scale_delay: Annotated[
        str, typer.Option(help="From a replica's start until it serves; it is paid meanwhile.")
    ] = SCALE_DELAY,
    scale_down_after: Annotated[
        str, typer.Option(help="Fewer replicas must do for so long before one is let go.")
    ] = SCALE_DOWN_AFTER,
    lost: Annotated[
        str, typer.Option(help="What a lost replica had written: kept, or anew.")
    ] = LOST,
    timeout: Annotated[
        str | None, typer.Option(help="A request that has no whole answer by then ends: 30s.")
    ] = None,
    tp: Annotated[
        int | None,
        typer.Option(help="Ranks that share each row. [default: the fewest that fit]"),
    ] = None,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    dp: Annotated[int, typer.Option(help="Data-parallel groups within a replica.")] = 1,
    ep: Annotated[int, typer.Option(help="In how many parts experts lie whole.")] = 1,
    precision: Annotated[
        str, typer.Option(help="Weights: bf16, fp8, fp8-block, int8, int4, nvfp4 or mxfp4.")
    ] = "bf16",
    kv: Annotated[str, typer.Option(help="Cache: bf16, f16, fp8 or int8.")] = "bf16",
    rows: Annotated[int, typer.Option(help="Requests that one engine runs at once.")] = 256,
    step_tokens: Annotated[int, typer.Option(help="New tokens of a step at most.")] = 8192,
    block: Annotated[
        int | None,
        typer.Option(help="Tokens of a cache block. [default: 64, or a trace's hashed 512]"),
    ] = None,
    itl_target: Annotated[
        str | None, typer.Option(help="Cut prompts so that steps with answers take this: 30ms.")
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option(help="Queue of a replica; more are refused. [default: any]")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Of efficiencies: fitted, published, or a file of ridgeline fit.")
    ] = "fitted",
    engine: Annotated[
        str | None,
        typer.Option(
            help="Whose overheads steps have: vllm, sglang or trtllm, or of a version: vllm:0.12. "
            "[default: vllm; of this machine: ours]"
        ),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(help="owned, reserved, spot or on-demand. [default: all of these]"),
    ] = None,
    limits: Annotated[
        bool,
        typer.Option("--limits", help="Find where cache, queue and SLO break; what may be lost."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of a load that is drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    html: Annotated[Path | None, typer.Option(help="One self-contained page.")] = None,
    png: Annotated[Path | None, typer.Option(help="Levels over time as a picture.")] = None,
) -> None:
    """What a fleet of engines makes of a load: TTFT, ITL, goodput, queue, cache, cost."""
    from ridgeline.cli.roofline import check_drawings
    from ridgeline.cli.stages import show_stages
    from ridgeline.plan.asked import (
        parse_autoscale,
        parse_disaggregation,
        parse_duration,
        parse_failure,
        parse_slo,
        parse_straggler,
    )
    from ridgeline.plan.deployed import Knobs
    from ridgeline.plan.draw_fleet import heading, lines
    from ridgeline.plan.draw_fleet import html as page
    from ridgeline.plan.draw_fleet import png as picture
    from ridgeline.plan.fleet import Fleet
    from ridgeline.plan.load import closed, counted, poisson, recorded
    from ridgeline.plan.simulate import simulate_fleet
    from ridgeline.plan.summary import summary
    from ridgeline.plan.trace_files import read_trace
    from ridgeline.plan.traces import HASHED_TOKENS

    settings: Settings = context.obj
    check_drawings(html, png)
    if lost not in ("kept", "anew"):
        raise RequestError("--lost", f"{lost!r}; there are: kept, anew")
    if not 0 <= seed < 1 << 63:
        raise RequestError("--seed", f"{seed} is not a whole number from 0 to 2^63 - 1")
    if link_gbs is not None and not disaggregate:
        raise RequestError("--link-gbs", "is between the two sides of --disaggregate P:D")
    scaling = "--autoscale LEAST:MOST", autoscale is not None
    failing = "--fail replica=R@TIME", bool(fail)
    for name, value, usual, (needs, is_given) in (
        ("--scale-on", scale_on, SCALE_ON, scaling),
        ("--scale-delay", scale_delay, SCALE_DELAY, scaling),
        ("--scale-down-after", scale_down_after, SCALE_DOWN_AFTER, scaling),
        ("--lost", lost, LOST, failing),
    ):
        if value != usual and not is_given:
            raise RequestError(name, f"{value}: it belongs to {needs}, which is not given")
    levels = parse_slo(slo)
    prefill, decode = parse_disaggregation(disaggregate) if disaggregate else (0, 0)
    if disaggregate and replicas not in (1, prefill + decode):
        raise RequestError(
            "--replicas", f"{replicas}, and --disaggregate {disaggregate} are {prefill + decode}"
        )
    scaled = None
    if autoscale is not None:
        if replicas != 1:
            raise RequestError("--replicas", "come and go with --autoscale LEAST:MOST")
        scaled = parse_autoscale(autoscale, scale_on, scale_delay, scale_down_after)
        replicas = scaled.most
    recording = None if trace is None else read_trace(trace)
    hashed = recording is not None and any(arrival.prefix for arrival in recording)
    knobs = Knobs(
        rows,
        step_tokens,
        block if block is not None else HASHED_TOKENS if hashed else 64,
        policy,
        max_waiting,
        None if itl_target is None else parse_duration("--itl-target", itl_target),
    )
    if router == "session" and not (recording and any(a.session for a in recording)):
        raise RequestError("--router", "session: the load has none; prefix looks at prompts")
    lengths = _lengths(prompt_tokens, answer_tokens)
    count = requests
    if count is None:
        count = len(recording) if recording else DEFAULT_REQUESTS
    if count < 1:
        raise RequestError("--requests", f"{count}; at least one is needed")
    asked = [rate is not None, concurrency is not None, recording is not None]
    if not any(asked):
        raise RequestError("--rate", "say what comes: --rate R, --concurrency C or --trace FILE")
    if rate is not None and concurrency is not None:
        raise RequestError("--concurrency", "users that wait for their answers have no --rate")

    def closed_load(users: int, number: int) -> Load:
        if recording is None:
            return closed(users, *lengths, number, seed)
        again = recorded(recording, number)
        return Load(again.arrivals, number, users, f"closed loop, {users} of the trace at a time")

    def open_load(per_second: float, number: int) -> Load:
        if recording is None:
            return poisson(per_second, *lengths, number, seed)
        return recorded(recording, number, per_second)

    load: Load
    if concurrency is not None:
        if concurrency < 1:
            raise RequestError("--concurrency", f"{concurrency}; at least one is under way")
        load = closed_load(concurrency, count)
    elif rate is not None:
        load = open_load(rate, count)
    else:
        assert recording is not None
        load = recorded(recording, count)
    mesh = None if (tp, pp, dp, ep) == (None, 1, 1, 1) else (1 if tp is None else tp, pp, dp, ep)
    kind = _kind(model, on, settings, knobs, mesh, precision, kv, price, profile, engine)
    fleet = Fleet(
        kind.make,
        kind.times,
        replicas=prefill + decode or replicas,
        prefill=prefill,
        router=router,
        transfer=_transfer(kind, link_gbs) if prefill else None,
        failures=tuple(map(parse_failure, fail or ())),
        stragglers=tuple(map(parse_straggler, straggler or ())),
        keeps_progress=lost == "kept",
        timeout_seconds=None if timeout is None else parse_duration("--timeout", timeout),
        autoscale=scaled,
    )
    knees: Knees | None = None
    slo_rate: float | None = None
    with show_stages("simulating") as report:

        def come(number: int) -> None:
            report(load.words, number, load.count)

        come(0)
        found = simulate_fleet(fleet, counted(load, come), levels)
        if limits:
            from ridgeline.plan.knees import find_knees, find_slo_rate

            report("where it breaks", 0, 1)
            # Apart, no replica does all of a request: what one stands says nothing of the fleet.
            knees = None if prefill else find_knees(fleet, closed_load, open_load)
            if slo:
                slo_rate = find_slo_rate(fleet, levels, closed_load, open_load)
    fields = summary(found, kind, fleet, load, levels, knees, slo_rate)
    if html is not None:
        write_output(html, page(fields))
    if png is not None:
        picture(fields, png)
    if as_json:
        sys.stdout.write(json.dumps(fields, indent=1, allow_nan=False) + "\n")
        return
    show(heading(fields), lines(fields), [*found_notes(fields), *kind.notes])


def found_notes(fields: Mapping[str, Any]) -> list[str]:
    """What a reader of the table should not overlook."""
    notes = []
    requests = fields["requests"]
    if requests["refused"]:
        what = ", ".join(f"{n} for {why}" for why, n in requests["refused_for"].items())
        notes.append(f"refused: {what}")
    if fields["slo"] and not fields["good_requests"]:
        best = ", ".join(
            f"{name} p50 {fields[name].get('p50') or 0:.3g} s" for name in ("ttft", "itl", "e2e")
        )
        notes.append(f"nothing met the SLO; the best that was had: {best}")
    return notes


def show(title: str, rows: list[tuple[str, str]], notes: list[str]) -> None:
    """A heading, a table of (what, how much), and notes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(title, markup=False, style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in rows:
        table.add_row(name, escape(text))
    Console(highlight=False).print(table)
    for note in notes:
        console.print(f"note: {note}", markup=False, style="dim")


def _lengths(prompts: str, answers: str) -> tuple[Any, Any]:
    from ridgeline.plan.load import Lengths

    return Lengths.parse("--input", prompts), Lengths.parse("--output", answers)


def _kind(
    model: str,
    on: str,
    settings: Settings,
    knobs: Knobs,
    mesh: tuple[int, int, int, int] | None,
    precision: str,
    kv: str,
    price: str | None,
    profile: str,
    engine: str | None,
) -> ReplicaKind:
    if on == "this":
        from ridgeline.assemble import Options
        from ridgeline.cli.progress import show_progress
        from ridgeline.plan.here import replica_here

        if mesh is not None:
            raise RequestError("--tp", "this machine is one replica; leave --tp to --ep out")
        if engine is not None:
            raise RequestError("--engine", "this machine's is ours, as it was timed; leave it out")
        with show_progress(model) as progress:
            return replica_here(model, settings, knobs, Options(kv_format=kv), progress)
    from ridgeline.cli.planned import planned_model
    from ridgeline.cost.accelerator import load_accelerator
    from ridgeline.cost.chip import Mesh
    from ridgeline.cost.engines import NEWEST, parse_engine
    from ridgeline.cost.profile import load_profile
    from ridgeline.plan.deployed import replica_on

    of, version = NEWEST if engine is None else parse_engine("--engine", engine)
    accelerator = load_accelerator(on)
    name, config = planned_model(model, settings)
    return replica_on(
        name,
        config,
        accelerator,
        knobs,
        mesh=None if mesh is None else Mesh(*mesh),
        precision=precision,
        kv=kv,
        price=price,
        profile=load_profile(profile),
        engine=of,
        version=version,
    )


def _transfer(kind: ReplicaKind, link_gbs: float | None) -> Transfer:
    from ridgeline.plan.fleet import Transfer

    speed = kind.link_bytes_per_second if link_gbs is None else 1e9 * link_gbs
    if speed is None or not speed > 0:
        raise RequestError("--link-gbs", "say how many GB/s go from prompts to answers")
    return Transfer(kind.kv_bytes, speed)
