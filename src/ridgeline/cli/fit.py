"""`ridgeline fit`: one's own benchmark results into a profile that predictions are made with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
Examples:

  ridgeline fit results.json --model qwen3-32b --gpu h100 --tp 2 --precision fp8

  ridgeline fit c4.json c64.json --model llama-3.3-70b --gpu h200 --engine vllm --out ours.toml

Reads vllm bench serve (--save-result), sglang.bench_serving, GenAI-Perf and AIPerf exports,
llama-bench -o json, ridgeline bench latency --json, and {"rows": [{"concurrency",
"input_tokens", "output_tokens", "tpot_ms", "ttft_ms"}, ...]}.
"""


def fit(
    results: Annotated[list[Path], typer.Argument(help="JSON of one or more runs, of one server.")],
    model: Annotated[str, typer.Option(help="What was served: a published configuration's name.")],
    gpu: Annotated[str, typer.Option(help="What it ran on.")],
    tp: Annotated[int, typer.Option(help="Ranks that share each row's attention.")] = 1,
    dp: Annotated[int, typer.Option(help="Groups of ranks with rows of their own.")] = 1,
    ep: Annotated[int, typer.Option(help="Parts in which experts lie.")] = 1,
    precision: Annotated[
        str, typer.Option(help="bf16, fp8, fp8_block, nvfp4, mxfp4, int4_wo or int8_wo.")
    ] = "bf16",
    kv: Annotated[str, typer.Option(help="What the cache was kept in: bf16 or fp8.")] = "bf16",
    engine: Annotated[
        str, typer.Option(help="vllm, trtllm or sglang; vllm:0.12 of a version.")
    ] = "vllm",
    start: Annotated[
        str, typer.Option("--profile", help="Where to start: fitted, published or a file.")
    ] = "fitted",
    out: Annotated[Path | None, typer.Option(help="The profile's file. [default: stdout]")] = None,
) -> None:
    """Fit the efficiencies of predictions to your own benchmark results.

    Each run is also predicted by a fit that has not seen runs like it: that error, not the one on
    what was fitted, is what to expect.
    """
    import numpy as np

    from ridgeline.cost.accelerator import load_accelerator
    from ridgeline.cost.chip import Mesh
    from ridgeline.cost.deployment import deploy
    from ridgeline.cost.described import describe
    from ridgeline.cost.engines import parse_engine
    from ridgeline.cost.profile import load_profile, profile_text
    from ridgeline.errors import RidgelineError
    from ridgeline.model.configurations import load_configuration
    from ridgeline.output_files import check_outputs, write_output
    from ridgeline.plan.degrees import check_degree
    from ridgeline.plan.fit import (
        ONE_MACHINE,
        Measurement,
        cross_validated,
        errors_of,
        with_spreads,
    )
    from ridgeline.plan.fit import fit as fitted
    from ridgeline.plan.results import read_results
    from ridgeline.plan.steady import Case, Cases, Load

    check_outputs({"--out": out})
    of, version = parse_engine("--engine", engine)
    profile = load_profile(start)
    described = describe(load_configuration(model).config, precision, kv=kv, where=model)
    check_degree(described.graph, tp)
    deployment = deploy(
        described,
        chip=load_accelerator(gpu).chip(),
        mesh=Mesh(tp=tp, dp=dp, ep=ep),
        engine=of,
        version=version,
        profile=profile,
    )
    if deployment.room.kv_bytes <= 0:
        deployment.check_fits()
    runs = [run for path in results for run in read_results(path)]
    measured = [
        Measurement(
            Case(deployment, Load(r.concurrency, r.input_tokens, r.output_tokens)),
            r.tpot,
            r.ttft,
            # Runs that differ in the load only say the same of lengths, and the other way round.
            (round(r.concurrency), round(r.input_tokens, -2), round(r.output_tokens, -2)),
            r.tool,
        )
        for r in runs
    ]
    if not any(m.tpot or m.ttft for m in measured):
        raise RidgelineError("no run has a time: of a token (tpot) or until the first (ttft)")
    loads = len({m.case.load for m in measured})
    if loads < LEAST_RUNS:
        raise RidgelineError(
            f"{len(measured)} runs of {loads} loads: {LEAST_RUNS} or more are needed, of different "
            "concurrency or lengths"
        )
    found = fitted(measured, profile, name=f"{model} on {gpu}", temper=ONE_MACHINE)
    tpot, ttft = cross_validated(measured, profile, temper=ONE_MACHINE)
    found = with_spreads(found, measured, tpot, ttft)
    for what, unseen in (("tpot", tpot), ("ttft", ttft)):
        known = np.array([getattr(m, what) or np.nan for m in measured])
        if np.isnan(known).all():
            continue
        cases = Cases([m.case for m in measured])
        before, after = (
            errors_of(getattr(cases.solve(p), what), known, 1.0) for p in (profile, found)
        )
        held = np.abs(np.expm1(unseen[~np.isnan(unseen)]))
        sys.stderr.write(
            f"{what.upper()}: {before.count} runs; median error {before.median:.1%} before, "
            f"{after.median:.1%} after, {np.median(held):.1%} on runs held out in turn\n"
        )
        if np.median(held) > DOUBTFUL:
            sys.stderr.write(
                f"note: {what.upper()} is not explained by this: are --model, --gpu, --tp, "
                "--precision and --engine what was measured, and was the server not overloaded?\n"
            )
    moved = sorted(found.values, key=lambda name: -abs(np.log(found[name] / profile[name])))
    for name in moved[:MOVED]:
        sys.stderr.write(f"  {name}: {profile[name]:.3g} -> {found[name]:.3g}\n")
    if out is None:
        sys.stdout.write(profile_text(found))
    else:
        write_output(out, profile_text(found))
        sys.stderr.write(f"wrote {out}: ridgeline plan --profile {out}\n")


LEAST_RUNS = 3
DOUBTFUL = 1.0  # twice as long as predicted, runs held out
MOVED = 6
