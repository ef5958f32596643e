"""Our own CPU engine beside its own prediction: prompts, tokens, batches and serving.

    python benchmarks/predicted.py MODEL [MODEL ...] [--rounds 3] [--json FILE]

Models take turns, round by round; prediction comes from this machine's profile (`ridgeline
measure`, done first where nothing is kept, or with --measure), before anything of a model was run.
No model is fitted on. Serving: 32 requests of 128 tokens that write 128, all there at the
beginning, through LLM.generate; predicted by the real scheduler on a virtual clock. Prints medians,
the error of each and the median error by kind.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import replace
from statistics import median

from ridgeline import LLM, SamplingParams
from ridgeline.assemble import machine_and_kernels
from ridgeline.bench import latency
from ridgeline.bench.kernels import profile_kernels
from ridgeline.bench.predict import Served, predict_serving
from ridgeline.bench.sample import Case
from ridgeline.bench.turned import shapes_of
from ridgeline.config import read_settings
from ridgeline.cost import measure
from ridgeline.cost.free_memory import available_bytes
from ridgeline.cost.kernel_store import load_profile, store_profile
from ridgeline.cost.kernel_times import KernelTimes

SERVED = Served(requests=32, prompt=128, output=128)
CASES = (
    Case("prefill", 1, 512),
    Case("decode", 1, 32),
    Case("decode", 1, 2048),
    Case("decode", 16, 32),
)
OUTPUT = 32


class Subject:
    """A model, its predictions, and what it then did."""

    def __init__(self, model: str) -> None:
        self.name = model.rsplit("/", 1)[-1]
        settings = replace(read_settings(), offline=True)
        longest = 2048 + OUTPUT + 24
        self.llm = LLM(model, settings=settings, context_length=longest, max_rows=32)
        made = self.llm.assembled
        roofs = made.kept_roofs()
        profile = load_profile(settings.cache_dir, machine_and_kernels(), made.isa, made.threads)
        assert roofs is not None
        assert profile is not None
        self.times = KernelTimes(made.bound_graph, made.precision, profile, roofs)
        self.predicted: dict[str, float] = {}
        self.measured: dict[str, list[float]] = {}
        for case in CASES:
            shapes = shapes_of(case, made.max_tokens_per_step, OUTPUT)
            seconds = sum(self.times(shape) for shape in shapes)
            tokens = case.context if case.phase == "prefill" else case.batch
            self.predicted[str(case)] = tokens / seconds
        self.predicted["serving"] = predict_serving(made, self.times, SERVED)

    def round(self) -> None:
        made = self.llm.assembled
        plans = (
            latency.Plan((512,), (), (1,), OUTPUT, 1),
            latency.Plan((), (32, 2048), (1,), OUTPUT, 1),
            latency.Plan((), (32,), (16,), OUTPUT, 1),
        )
        for plan in plans:
            for found in latency.run(made, plan):
                self.measured.setdefault(str(found.case), []).extend(found.rates)
        self.measured.setdefault("serving", []).append(self.serve())

    def serve(self) -> float:
        """Tokens a second that answers get, prompts included in the time."""
        draw = random.Random(len(self.measured.get("serving", ())))
        ids = range(1000, min(self.llm.assembled.vocab_size, 40000))
        prompts = [
            {"prompt_token_ids": draw.choices(ids, k=SERVED.prompt)} for _ in range(SERVED.requests)
        ]
        params = SamplingParams(temperature=0, max_tokens=SERVED.output, ignore_eos=True)
        begin = time.perf_counter()
        outputs = self.llm.generate(prompts, params)
        seconds = time.perf_counter() - begin
        return sum(len(o.outputs[0].token_ids) for o in outputs) / seconds


def measure_machine(force: bool) -> None:
    from ridgeline.assemble import machine_isa, machine_meter

    settings = read_settings()
    meter = machine_meter(machine_isa(settings))
    machine, isa = machine_and_kernels(), meter.isa
    if not force and load_profile(settings.cache_dir, machine, isa, settings.threads) is not None:
        return
    begin = time.perf_counter()
    roofs = measure.measure(meter, measure.thread_counts(settings.threads), available_bytes())
    measure.store(settings.cache_dir, roofs)
    profile = profile_kernels(meter, roofs, settings.threads)
    assert profile is not None
    store_profile(settings.cache_dir, machine_and_kernels(), profile)
    print(f"measured this machine in {time.perf_counter() - begin:.1f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="this machine again, first")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    measure_machine(arguments.measure)
    subjects = [Subject(model) for model in arguments.models]
    for turn in range(arguments.rounds):
        for subject in subjects:
            print(f"round {turn + 1}: {subject.name}", file=sys.stderr)
            subject.round()
    rows = []
    print(
        f"{'model':28}{'case':16}{'predicted':>11}{'measured':>11}{'min':>9}{'max':>9}{'error':>8}"
    )
    for subject in subjects:
        for case, rates in subject.measured.items():
            told, found = subject.predicted[case], median(rates)
            error = told / found - 1
            rows.append(
                {"model": subject.name, "case": case, "predicted": told, "measured": rates}
                | {"error": error}
            )
            print(
                f"{subject.name[:27]:28}{case:16}{told:11,.1f}{found:11,.1f}"
                f"{min(rates):9,.1f}{max(rates):9,.1f}{100 * error:+7.0f}%"
            )
    for kind in ("prefill", "decode", "serving"):
        errors = [abs(float(r["error"])) for r in rows if str(r["case"]).startswith(kind)]
        print(f"{kind}: median error {100 * median(errors):.1f} %")
    print(f"all: median error {100 * median(abs(float(r['error'])) for r in rows):.1f} %")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
