"""Our own CPU engine beside its own prediction: prompts, tokens, batches and serving.

    python benchmarks/predicted.py MODEL [MODEL ...] [--rounds 3] [--json FILE]

Models take turns, round by round; prediction comes from this machine's profile (`ridgeline
measure`, done first where nothing is kept, or with --measure) and from how fast the machine reads
the weights and computes just then, a second before each case is run, since these change by the
minute (of computing the median of the last looks: it moves as much from one second to the next).
What is known beforehand cannot tell of a machine that changes meanwhile: memory and computing are
looked at again after each case, and where one is further than MOVED from what it was, or others had
the cores, the case is predicted and run once more, up to RETRIES times; the last one counts, marked
`~` if it moved, too. No model is fitted on. Serving: 32 requests of 128 tokens that write 128, all
there at the beginning, through LLM.generate, by an engine whose cache's memory is ready, as it is
after seconds of rest; predicted by the real scheduler on a virtual clock.
Prints medians, the error of each and the median error by kind.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from ridgeline import LLM, SamplingParams
from ridgeline.assemble import machine_and_kernels
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.bench import latency
from ridgeline.bench.kernels import profile_kernels
from ridgeline.bench.predict import Served, predict_serving
from ridgeline.bench.sample import DISTURBED, Case
from ridgeline.bench.turned import shapes_of
from ridgeline.config import read_settings
from ridgeline.cost import measure
from ridgeline.cost.free_memory import available_bytes
from ridgeline.cost.kernel_store import load_profile, store_profile
from ridgeline.cost.kernel_times import KernelTimes
from ridgeline.cost.measure import steady

SERVED = Served(requests=32, prompt=128, output=128)
CASES = (
    Case("prefill", 1, 512),
    Case("decode", 1, 32),
    Case("decode", 1, 2048),
    Case("decode", 16, 32),
)
OUTPUT = 32
LOOKS = 5
REST_SECONDS, MOST_RESTS = 0.05, 600
RETRIES = 4
# Memory or computing whose paces before and after a case are further apart has moved. Looks of one
# pace are within a tenth of each other.
MOVED = 1.2


def plan_of(case: Case) -> latency.Plan:
    if case.phase == "prefill":
        return latency.Plan((case.context,), (), (1,), OUTPUT, 1)
    return latency.Plan((), (case.context,), (case.batch,), OUTPUT, 1)


class Subject:
    """A model, and what was predicted of each case just before it was run."""

    def __init__(self, model: str, paces: deque[float]) -> None:
        """paces: of the last looks, of whatever model."""
        self.paces = paces
        self.name = model.rsplit("/", 1)[-1]
        self.settings = replace(read_settings(), offline=True)
        longest = 2048 + OUTPUT + 24
        self.llm = LLM(model, settings=self.settings, context_length=longest, max_rows=32)
        self.predicted: dict[str, list[float]] = {}
        self.measured: dict[str, list[float]] = {}
        # Whether memory and computing kept their paces, and how often each case was run.
        self.kept: dict[str, list[bool]] = {}
        self.runs: dict[str, int] = {}

    def times(self) -> KernelTimes:
        """Steps by this machine's profile, with its memory and its pace as they are now."""
        made = self.llm.assembled
        roofs = made.roofs_now()
        machine = machine_and_kernels()
        profile = load_profile(self.settings.cache_dir, machine, made.isa, made.threads)
        assert roofs is not None
        assert profile is not None
        assert roofs.pace is not None
        self.paces.append(roofs.pace.gigaoperations_per_second)
        pace = replace(roofs.pace, gigaoperations_per_second=median(self.paces))
        roofs = replace(roofs, pace=pace)
        return KernelTimes(made.bound_graph, made.precision, profile, roofs)

    def memory(self) -> float:
        """GB/s at which the weights are read now."""
        return steady(self.llm.assembled.read_roof).gigabytes_per_second

    def computing(self) -> float:
        """10^9 operations a second that the kernels' pace is told by, now."""
        return self.llm.assembled.pace_now().gigaoperations_per_second

    def round(self) -> None:
        for case in CASES:
            self.take(str(case), partial(self.predict, case), partial(self.measure, case))
        self.take("serving", self.predict_serving, lambda: (self.serve(), True))

    def take(
        self, case: str, predict: Callable[[], float], measure: Callable[[], tuple[float, bool]]
    ) -> None:
        """Predicted, then measured; both again where the machine did not stay as it was."""
        for _ in range(RETRIES):
            read = self.memory()
            told = predict()
            computed = self.paces[-1]
            found, alone = measure()
            looks = ((read, self.memory()), (computed, self.computing()))
            self.runs[case] = self.runs.get(case, 0) + 1
            kept = alone and all(max(look) <= MOVED * min(look) for look in looks)
            if kept:
                break
        self.predicted.setdefault(case, []).append(told)
        self.measured.setdefault(case, []).append(found)
        self.kept.setdefault(case, []).append(kept)

    def predict(self, case: Case) -> float:
        shapes = shapes_of(case, self.llm.assembled.max_tokens_per_step, OUTPUT)
        times = self.times()
        tokens = case.context if case.phase == "prefill" else case.batch
        return tokens / sum(times(shape) for shape in shapes)

    def measure(self, case: Case) -> tuple[float, bool]:
        """Tokens a second, and whether others left it the cores."""
        (found,) = latency.run(self.llm.assembled, plan_of(case))
        alone = all((sample.cpu_share or 1.0) >= DISTURBED for sample in found.samples)
        return median(found.rates), alone

    def predict_serving(self) -> float:
        return predict_serving(self.llm.assembled, self.times(), SERVED)

    def errors(self, case: str) -> list[float]:
        """Of each round."""
        pairs = zip(self.predicted[case], self.measured[case], strict=True)
        return [told / found - 1 for told, found in pairs]

    def serve(self) -> float:
        """Tokens a second that answers get, prompts included in the time."""
        # Other prompts each time, tried again or not: what the prefix cache has is no work.
        draw = random.Random(self.runs.get("serving", 0))
        ids = range(1000, min(self.llm.assembled.vocab_size, 40000))
        prompts = [
            {"prompt_token_ids": draw.choices(ids, k=SERVED.prompt)} for _ in range(SERVED.requests)
        ]
        params = SamplingParams(temperature=0, max_tokens=SERVED.output, ignore_eos=True)
        executor = self.llm.assembled.executor
        assert isinstance(executor, CpuExecutor)
        for _ in range(MOST_RESTS):
            if executor.is_cache_ready:
                break
            time.sleep(REST_SECONDS)
        begin = time.perf_counter()
        outputs = self.llm.generate(prompts, params)
        seconds = time.perf_counter() - begin
        # An engine tells of rows that ended with its next step, which here is another engine's.
        made = self.llm.assembled
        closed = made.engine.state.closed
        while closed:
            made.executor.close_row(closed.pop(0))
        return sum(len(o.outputs[0].token_ids) for o in outputs) / seconds


def machine_facts(subject: Subject) -> dict[str, object]:
    """Which machine it was, and when."""
    made = subject.llm.assembled
    roofs = made.kept_roofs()
    assert roofs is not None
    return {
        "machine": roofs.machine.get("model name", ""),
        "threads": made.threads,
        "isa": made.isa,
        "measured_at": roofs.measured_at,
        "moment": "memory and arithmetic as fast as a read of 30 ms and products of a second found "
        "them",
    }


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
    paces: deque[float] = deque(maxlen=LOOKS)
    subjects = [Subject(model, paces) for model in arguments.models]
    for turn in range(arguments.rounds):
        for subject in subjects:
            print(f"round {turn + 1}: {subject.name}", file=sys.stderr)
            subject.round()
    rows: list[dict[str, Any]] = []
    print(f"{'model':28}{'case':16}{'predicted':>11}{'measured':>11}{'error':>8}  in each round")
    for subject in subjects:
        for case, rates in subject.measured.items():
            told, errors = subject.predicted[case], subject.errors(case)
            rows.append(
                {"model": subject.name, "case": case, "predicted": told, "measured": rates}
                | {"error": median(errors), "kept": subject.kept[case]}
                | {"runs": subject.runs[case]}
            )
            each = " ".join(
                f"{100 * error:+.0f}{'' if kept else '~'}"
                for error, kept in zip(errors, subject.kept[case], strict=True)
            )
            print(
                f"{subject.name[:27]:28}{case:16}{median(told):11,.1f}{median(rates):11,.1f}"
                f"{100 * median(errors):+7.0f}%  {each}"
            )
    for kind in ("prefill", "decode", "serving"):
        errors = [abs(float(r["error"])) for r in rows if str(r["case"]).startswith(kind)]
        print(f"{kind}: median error {100 * median(errors):.1f} %")
    print(f"all: median error {100 * median(abs(float(r['error'])) for r in rows):.1f} %")
    runs, moved = sum(int(r["runs"]) for r in rows), sum(r["kept"].count(False) for r in rows)
    counted = arguments.rounds * len(rows)
    print(f"{runs} runs for {counted} that count, of which {moved} moved (~) at the last")
    if arguments.json:
        found = {**machine_facts(subjects[0]), "rounds": arguments.rounds, "rows": rows}
        with open(arguments.json, "w", encoding="utf-8") as file:
            file.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
