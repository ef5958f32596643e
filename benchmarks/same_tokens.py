"""Same request, same tokens: one mixed workload under every condition that must not matter.

    python benchmarks/same_tokens.py MODEL [--requests 64] [--orders 20] [--longest 2000] [--seed 0]

The workload: prompts of 1 to 2,000 tokens (log-uniform), a third of which share a beginning; every
sampler, log-probabilities of answers and of some prompts. Each request is first answered alone and
cold. Then, and nothing may differ by a bit, tokens or log-probabilities:

    alone, cached       again, from the prefix cache
    cached to anywhere  after a random part of its prompt has been computed for somebody else
    among others        all at once, in random orders of arrival; every other order cold
    chunks              the same, each step with a budget of a random number of tokens
    one thread          of the CPU backend in place of two
    preempted           requests lose their memory at random steps and are computed again
    a cache too small   for all at once; then one by one, and once more: what was there has had to
                        make room meanwhile and is computed again

Prints a table; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ridgeline import LLM, SamplingParams, Service
from ridgeline.cost.count import count_kv_bytes
from ridgeline.engine.prompts import Tokenized
from ridgeline.engine.schedule import step as scheduler
from ridgeline.engine.session import Group

ORDINARY_IDS = (1000, 40000)  # no special tokens, and inside every model's vocabulary
LONGEST_SCORED = 200  # a prompt whose log-probabilities are wanted takes a row of logits a token
SAMPLERS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1.0},
    {"top_k": 40, "top_p": 0.9},
    {"min_p": 0.05, "repetition_penalty": 1.1},
    {"typical_p": 0.9, "frequency_penalty": 0.4},
    {"top_n_sigma": 1.2, "presence_penalty": 0.5},
    {"xtc_probability": 0.6, "xtc_threshold": 0.05},
    {"mirostat": 2, "mirostat_tau": 4.0},
    {"dynatemp_range": 0.5, "top_p": 0.95},
    {"dry_multiplier": 0.8, "no_repeat_ngram_size": 3},
    {"logit_bias": {260: 4.0, 284: -100.0}, "bad_words": [" the"], "min_tokens": 3},
    {"allowed_token_ids": [*range(100, 2000)]},
    {"temperature": 1.5, "min_p": 0.1, "top_k": 100, "xtc_probability": 0.3},
)


@dataclass(frozen=True, slots=True)
class Asked:
    token_ids: tuple[int, ...]
    params: SamplingParams


# Token ids, the log-probabilities of each, those of the prompt, and how it ended.
Answer = tuple[Any, ...]


def workload(count: int, longest: int, seed: int, answer: int = 24) -> list[Asked]:
    """`count` requests; the same for the same arguments."""
    rng = random.Random(f"same tokens {seed}")
    shared = [rng.randrange(*ORDINARY_IDS) for _ in range(longest)]
    made = []
    for index in range(count):
        size = max(1, round(math.exp(rng.uniform(0, math.log(longest)))))
        common = rng.randrange(size + 1) if index % 3 == 0 else 0
        own = [rng.randrange(*ORDINARY_IDS) for _ in range(size - common)]
        sampler = SAMPLERS[index % len(SAMPLERS)]
        params = SamplingParams(
            **{"temperature": rng.choice([0.7, 1.2])} | sampler,
            seed=rng.randrange(2**63),
            max_tokens=rng.randrange(2, answer + 1) + 3,
            ignore_eos=True,
            logprobs=2,
            prompt_logprobs=1 if size <= LONGEST_SCORED and index % 4 == 1 else None,
        )
        made.append(Asked((*shared[:common], *own), params))
    return made


def answer_of(group: Group) -> Answer:
    output = group.output()
    (answer,) = output.outputs
    scored = [s for s in output.prompt_logprobs or () if s is not None]
    logprobs = tuple(
        tuple((token, entry.logprob) for token, entry in each.items())
        for each in (*(answer.logprobs or ()), *scored)
    )
    return answer.token_ids, logprobs, len(scored), answer.finish_reason


_NUMBERS = itertools.count()


def fresh() -> Service:
    """A tenant that nothing is cached for."""
    return Service(tenant=f"tenant {next(_NUMBERS)}")


@dataclass(slots=True)
class Runner:
    """A model, and what happened in it so far. between: called before each step."""

    llm: LLM
    between: Callable[[], None] | None = None
    num_cached: int = 0
    num_evicted: int = 0
    num_tokens: int = 0

    @property
    def num_preemptions(self) -> int:
        return self.llm.session.engine.state.num_preemptions

    def together(self, asked: Sequence[Asked], service: Service) -> list[Answer]:
        """Their answers, all at once, in the order in which they are given."""
        session = self.llm.session
        groups = [
            session.submit(
                Tokenized(None, list(one.token_ids)),
                one.params,
                arrival=time.monotonic(),
                streams=False,
                service=service,
            )
            for one in asked
        ]
        while session.engine.has_work:
            if self.between is not None:
                self.between()
            session.step()
        for group in groups:
            self.num_cached += group.requests[0].num_cached or 0
            miss = group.requests[0].cache_miss
            self.num_evicted += miss is not None and miss.kind == "evicted"
            self.num_tokens += len(group.prompt.token_ids) + group.num_tokens
        return [answer_of(group) for group in groups]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. cached: tokens of prompts that came from the cache."""

    condition: str
    compared: int
    differences: int
    cached: int
    preemptions: int
    seconds: float
    note: str = ""


class Comparison:
    """Answers under each condition beside those of each request alone and cold."""

    def __init__(
        self,
        asked: Sequence[Asked],
        runner: Runner,
        seed: int,
        report: Callable[[Row], None] | None = None,
    ) -> None:
        self.asked = asked
        self.report = report
        self.rng = random.Random(seed)
        self.rows: list[Row] = []
        self.expected: list[Answer] = []
        self._begin(runner)
        self.tenants = [fresh() for _ in asked]
        for one, tenant in zip(asked, self.tenants, strict=True):
            self.expected += runner.together([one], tenant)
        self._end("alone, cold", runner, 0, 0)

    def _begin(self, runner: Runner) -> None:
        self._start = time.monotonic()
        self._before = (runner.num_cached, runner.num_preemptions)

    def _end(
        self, name: str, runner: Runner, compared: int, differences: int, note: str = ""
    ) -> None:
        cached, preemptions = self._before
        self.rows.append(
            Row(
                name,
                compared,
                differences,
                runner.num_cached - cached,
                runner.num_preemptions - preemptions,
                time.monotonic() - self._start,
                note,
            )
        )
        if self.report is not None:
            self.report(self.rows[-1])

    def one_by_one(
        self, name: str, runner: Runner, services: Sequence[Service], parts: Sequence[int] = ()
    ) -> None:
        """Each alone. parts: of each prompt, the tokens that somebody asked for before."""
        self._begin(runner)
        differences = 0
        before = runner.num_evicted
        for index, (one, service) in enumerate(zip(self.asked, services, strict=True)):
            if parts:
                params = SamplingParams(temperature=0, seed=0, max_tokens=1, ignore_eos=True)
                runner.together([Asked(one.token_ids[: parts[index]], params)], service)
            (found,) = runner.together([one], service)
            differences += found != self.expected[index]
        evicted = runner.num_evicted - before
        note = f"{evicted} found their blocks evicted" if evicted else ""
        self._end(name, runner, len(self.asked), differences, note)

    def orders(self, name: str, runner: Runner, count: int, cold: Callable[[int], bool]) -> None:
        """All at once, in `count` random orders of arrival."""
        self._begin(runner)
        differences = 0
        kept = fresh()
        for number in range(count):
            order = list(range(len(self.asked)))
            self.rng.shuffle(order)
            service = fresh() if cold(number) else kept
            found = runner.together([self.asked[i] for i in order], service)
            differences += sum(a != self.expected[i] for i, a in zip(order, found, strict=True))
        self._end(name, runner, count * len(self.asked), differences)

    def anywhere(self) -> list[int]:
        return [self.rng.randrange(1, len(one.token_ids) + 1) for one in self.asked]


def random_budgets(llm: LLM, rng: random.Random) -> Callable[[], None]:
    """Before each step: another number of tokens that it may compute."""
    state = llm.session.engine.state
    limits = state.limits

    def choose() -> None:
        most = rng.choice([1, 3, 17, 64, 200, limits.max_tokens_per_step])
        state.limits = replace(limits, max_tokens_per_step=rng.randint(1, most))

    return choose


def random_preemptions(llm: LLM, rng: random.Random) -> Callable[[], None]:
    """Before a step in five: somebody who runs gives all back, as if blocks had run out."""
    state = llm.session.engine.state

    def preempt() -> None:
        if state.running and rng.random() < 0.2:
            scheduler._preempt(state, rng.choice(state.running))

    return preempt


def compare(
    model: str,
    asked: Sequence[Asked],
    num_orders: int,
    seed: int,
    small_tokens: int,
    report: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Every condition. small_tokens: what the cache that is too small holds. report: told of each
    row as it is there.
    """
    context = max(len(one.token_ids) + (one.params.max_tokens or 0) for one in asked) + 1
    sizes = {"context_length": context, "max_rows": len(asked)}
    two = Runner(LLM(model, threads=2, **sizes))
    found = Comparison(asked, two, seed, report)
    found.one_by_one("alone, cached", two, found.tenants)
    found.one_by_one("cached to anywhere", two, [fresh() for _ in asked], parts=found.anywhere())
    found.orders(f"among {len(asked)} others", two, num_orders, cold=lambda number: number % 2 == 0)
    two.between = random_budgets(two.llm, found.rng)
    found.orders("chunks of random sizes", two, max(1, num_orders // 10), cold=lambda _n: True)
    two.between = None
    two.between = random_preemptions(two.llm, found.rng)
    found.orders("preempted", two, max(1, num_orders // 10), cold=lambda _n: True)
    two.between = None
    one = Runner(LLM(model, threads=1, **sizes))
    found.orders("one thread", one, 1, cold=lambda _n: True)
    del one
    memory = int(small_tokens * count_kv_bytes(two.llm.assembled.bound_graph).per_token)
    small = Runner(LLM(model, threads=2, **sizes, memory=memory))
    kept = fresh()
    found.orders("a cache too small", small, 1, cold=lambda _n: True)
    found.one_by_one("a cache too small, alone", small, [kept] * len(asked))
    found.one_by_one("evicted and computed again", small, [kept] * len(asked))
    return found.rows


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| condition | compared | differences | from the cache | preempted | s |",
        "|" + " --- |" * 6,
    ]
    for row in rows:
        cells = (
            row.condition,
            f"{row.compared:,}" if row.compared else "the reference",
            f"{row.differences}" if row.compared else "",
            f"{row.cached:,}",
            f"{row.preemptions:,}",
            f"{row.seconds:.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |" + (f" {row.note}" if row.note else ""))
    return "\n".join(lines)


def told(row: Row) -> None:
    print(f"{row.condition}: {row.differences} of {row.compared} differ", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--longest", type=int, default=2000, help="tokens of a prompt")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    asked = workload(given.requests, given.longest, given.seed)
    small = given.longest + 200
    rows = compare(given.model, asked, given.orders, given.seed, small, told)
    tokens = sum(len(one.token_ids) for one in asked)
    print(f"{len(asked)} requests, {tokens:,} prompt tokens, seed {given.seed}\n")
    print(table(rows))
    different = sum(row.differences for row in rows)
    print(f"\n{sum(row.compared for row in rows):,} answers compared, {different} differ")
    return different > 0


if __name__ == "__main__":
    raise SystemExit(main())
