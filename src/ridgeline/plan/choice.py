"""What is asked of a plan, and one way to serve it with what that takes and costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from ridgeline.cost.accelerator import PAID_CLASSES, Accelerator
from ridgeline.cost.deployment import Deployment
from ridgeline.cost.described import Described
from ridgeline.cost.efficiency import Profile
from ridgeline.cost.steps import uniform_steps
from ridgeline.errors import RequestError

MTOK = 1e6
# What vLLM's server takes on an accelerator with 70 GiB and more (2026).
DEFAULT_CHUNK = 8192
# Of a prompt in the cache, what is computed all the same: a block of vLLM's.
CACHED_BLOCK = 16
CHUNKS = (512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True, slots=True)
class Drafter:
    """Who proposes tokens that a step then checks. method: "mtp" (the model's own predictor),
    "draft" (a smaller model, `name`) or "ngram" (what the text said before). acceptance: of a
    proposed token, given that those before it were right.
    """

    method: str
    acceptance: float
    name: str = ""
    described: Described | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A choice in the simulator, under Poisson arrivals or a trace: seconds, with what a server and
    its client add to a first token. within: of all requests, those that kept the SLO. grows: who
    comes later waits longer, without end. served: requests/s that were answered while others came.
    """

    requests: int
    rate: float
    ttft_p50: float
    ttft_p90: float
    ttft_p99: float
    itl_p50: float
    itl_p90: float
    gap_p99: float
    within: float
    preemptions: int
    hit_rate: float
    grows: bool = False
    served: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """rate: requests/s; None: as many as the SLO allows. ttft, itl, gap: seconds, of the first
    token, of the mean of later ones, and of 99 of 100 gaps between tokens; None: any. percentile:
    of 100 requests, so many must keep `ttft`. count: accelerators at most. max_usd_per_hour: of the
    whole. engine, version: whose overheads; "": the newest. profile: None: the fitted one. chunks:
    new tokens of a step at most, tried; drafts: tokens that are proposed a step, tried, by
    `drafter`.
    """

    input_tokens: int
    output_tokens: int
    count: int
    rate: float | None = None
    ttft: float | None = None
    itl: float | None = None
    percentile: float = 90.0
    max_usd_per_hour: float | None = None
    precisions: tuple[str, ...] = ("bf16", "fp8", "nvfp4", "int4")
    kv: tuple[str, ...] = ("bf16", "fp8")
    engine: str = "vllm"
    version: str = ""
    profile: Profile | None = None
    price_class: str | None = None
    gap: float | None = None
    chunks: tuple[int, ...] = (DEFAULT_CHUNK,)
    drafts: tuple[int, ...] = (0,)
    drafter: Drafter | None = None

    def check(self) -> None:
        for option, value in (("--input", self.input_tokens), ("--output", self.output_tokens)):
            if not 1 <= value <= 1 << 22:
                raise RequestError(option, f"{value} is not 1 to {1 << 22} tokens")
        if not 1 <= self.count <= 4096:
            raise RequestError("--count", f"{self.count} is not 1 to 4096 accelerators")
        if self.rate is not None and not 0 < self.rate <= 1e6:
            raise RequestError(
                "--rate", f"{self.rate:g} requests a second: give one above 0, up to a million"
            )
        if not self.chunks or not all(128 <= chunk <= 1 << 20 for chunk in self.chunks):
            raise RequestError("--chunk", f"tokens of a step, from 128 to {1 << 20}")
        if not self.drafts or not all(0 <= drafts <= 16 for drafts in self.drafts):
            raise RequestError("--drafts", "tokens that are proposed a step: 0 to 16")
        if any(self.drafts) and self.drafter is None:
            raise RequestError("--drafts", "nothing is there that would propose them")


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to serve. gpus: of all replicas. in_flight: requests at a time, of one replica.
    rate: requests/s that it is run at; most_rate: that it could within the SLO. within: share of
    the requests whose first token keeps it. Seconds with 80 % intervals as factors `spread_*`.
    gap_p99: seconds that 99 of 100 gaps between an answer's tokens do not exceed. usd_per_hour:
    least and most; None: no price is known. chunk: new tokens of a step of one data-parallel group
    at most. draft_share: of a step, what proposing a token takes. delta: seconds that a prompt
    adds; request_seconds: what a request takes of a replica, prompt and answer. seen: what came of
    it in a simulation; None: nobody looked.
    """

    accelerator: Accelerator
    deployment: Deployment
    precision: str
    kv: str
    prefill_workers: int
    workers: int
    replicas: int
    gpus: int
    in_flight: float
    limit: float
    rate: float
    most_rate: float
    ttft_p50: float
    ttft_p99: float
    within: float
    tpot: float
    delta: float
    request_seconds: float
    spread: float
    spread_ttft: float
    usd_per_hour: tuple[float, float, str] | None
    binds: str
    input_tokens: int
    output_tokens: int
    chunk: int
    drafts: int
    draft_share: float
    drafter: Drafter | None
    gap_p99: float
    described: Described
    seen: Seen | None = None

    @property
    def rows(self) -> int:
        """Requests that one engine runs at a time: those in flight and three deviations more, as
        many as its cache has room for.
        """
        each = self.in_flight / max(1, self.workers)
        return max(
            1, min(ceil(each + 3.0 * sqrt(each)) + 1, int(self.limit / max(1, self.workers)))
        )

    @property
    def late(self) -> float:
        """Seconds of a first token that 99 of 100 do not exceed, as seen, else by the formulas."""
        return self.ttft_p99 if self.seen is None else self.seen.ttft_p99

    @property
    def between(self) -> float:
        """Seconds from a token to the next, of the middle answer, or by the formulas the mean."""
        return self.tpot if self.seen is None else self.seen.itl_p50

    @property
    def tokens_per_second(self) -> float:
        return self.rate * self.output_tokens

    @property
    def watts(self) -> float | None:
        figure = self.accelerator.watts
        return None if figure is None else figure.value * self.gpus

    @property
    def joules_per_token(self) -> float | None:
        """Of output, at the power that is provisioned: an upper bound."""
        return None if self.watts is None else self.watts / self.tokens_per_second

    @property
    def prompts_share(self) -> float:
        """Of the time that computing takes, what prompts take; apart, what their workers are."""
        if self.prefill_workers:
            return self.prefill_workers / (self.prefill_workers + self.workers)
        return min(1.0, self.delta / self.request_seconds)

    @property
    def cached_share(self) -> float:
        """Of the time that a prompt takes, what it takes whose tokens but the last block's are in
        the cache: the block, which attends to all of them, beside the answers under way.
        """
        last = min(self.input_tokens, CACHED_BLOCK)
        rows = 0.0 if self.prefill_workers else self.in_flight / max(1, self.workers)
        steps = uniform_steps(
            self.deployment.windows,
            decode=rows,
            context=self.input_tokens + self.output_tokens / 2,
            prompts=np.array([0.0, 1.0, 1.0]),
            prompt_tokens=np.array([0.0, last, self.input_tokens]),
            prompt_context=np.array([0.0, self.input_tokens - last, 0.0]),
        )
        without, cached, whole = map(float, self.deployment.price(steps))
        if not rows:
            without = 0.0
        return min(1.0, max(0.0, (cached - without) / max(whole - without, 1e-12)))

    def usd_per_mtok(self, what: str) -> tuple[float, float] | None:
        """Least and most, of "output" (all cost on it), "input" and "generated" (cost parted by
        the time that each takes), "cached_input" (of prompts that are in the cache but for their
        last block; their room there costs nothing as long as it is free), or "total" tokens.
        """
        if self.usd_per_hour is None:
            return None
        low, high, _date = self.usd_per_hour
        tokens = {
            "output": (1.0, self.output_tokens),
            "total": (1.0, self.input_tokens + self.output_tokens),
            "input": (self.prompts_share, self.input_tokens),
            "cached_input": (
                self.prompts_share * (self.cached_share if what == "cached_input" else 0.0),
                self.input_tokens,
            ),
            "generated": (1.0 - self.prompts_share, self.output_tokens),
        }
        share, count = tokens[what]
        scale = share * MTOK / (3600.0 * self.rate * count)
        return low * scale, high * scale

    @property
    def hours_per_mtok(self) -> float:
        """Of accelerators, for a million output tokens."""
        return self.gpus * MTOK / (3600.0 * self.rate * self.output_tokens)

    @property
    def name(self) -> str:
        split = f" {self.prefill_workers}P:{self.workers}D" if self.prefill_workers else ""
        copies = f" x {self.replicas}" if self.replicas > 1 else ""
        ahead = f" {self.drafter.method}{self.drafts}" if self.drafts and self.drafter else ""
        return f"{self.precision}/{self.kv} {self.deployment.mesh}{split}{copies}{ahead}"


def price_of(
    accelerator: Accelerator, gpus: int, price_class: str | None
) -> tuple[float, float, str] | None:
    """USD an hour from the least to the most of a class, or of all classes that one pays."""
    classes = (price_class,) if price_class else PAID_CLASSES
    found = [r for r in (accelerator.price_range(name) for name in classes) if r is not None]
    if not found:
        return None
    return (
        gpus * min(r[0] for r in found),
        gpus * max(r[1] for r in found),
        max(r[2] for r in found),
    )
