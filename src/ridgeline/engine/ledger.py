"""Where a request's time went: phases that sum to the time from its arrival to its end.

Each step in which a request has a row books the step's time, as the request's own share and that of
its batch mates; whatever passes between two such steps is booked by what the request was then
waiting for. So nothing is left over, and nothing is measured twice. Moments are seconds of the
engine's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Chunks beyond so many are added up in the last one, and preemptions beyond so many are counted and
# have no moments: a ledger's size is bounded.
MAX_CHUNKS = 64
MAX_GAPS = 64

PHASES: dict[str, str] = {
    "tokenizing": "from the request's arrival until its text was templated and tokenized",
    "queue": "from then until the first step that had a row for it",
    "prefill_own": "in steps that computed its prompt: its own share of them",
    "prefill_mates": "in those steps: the share of the requests beside it",
    "prefill_outside": "between those steps: planning, booking, and steps without it, as where it "
    "waits for others' prompts in a wave (--wave-seconds)",
    "decode_own": "in steps that wrote its answer: its own share of them",
    "decode_mates": "in those steps: the share of the requests beside it",
    "decode_outside": "between those steps: sampling, planning, text, and steps without it",
    "preempted": "without a row, after it had to give its memory to others",
    "recompute": "in steps that computed again what it had given up",
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of a prompt that one step computed: the step's seconds, and the request's own."""

    tokens: int
    seconds: float
    own_seconds: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """seconds: of each of `PHASES`; they sum to end - arrival. steps: that had a row for it.
    forced: tokens that its grammar forced. first_step, first_token: when they began and ended; None
    if they never came. gaps: from when it gave its memory to others until it had a row again.
    """

    arrival: float
    end: float
    seconds: Mapping[str, float]
    chunks: tuple[Chunk, ...]
    steps: int
    preemptions: int
    forced: int = 0
    first_step: float | None = None
    first_token: float | None = None
    gaps: tuple[tuple[float, float], ...] = ()

    @property
    def total_seconds(self) -> float:
        return self.end - self.arrival

    def shares(self) -> dict[str, float]:
        """Percent of the whole, by phase; they sum to 100."""
        whole = self.total_seconds
        return {name: 100 * s / whole if whole > 0 else 0.0 for name, s in self.seconds.items()}


@dataclass(slots=True)
class Trace:
    """A request's ledger in the making; the engine books into it. until: all before is booked."""

    arrival: float
    submitted: float
    until: float = 0.0
    first_step: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    end: float | None = None
    steps: int = 0
    preemptions: int = 0
    forced: int = 0
    most_tokens: int = 0
    queue: float = 0.0
    prefill_own: float = 0.0
    prefill_mates: float = 0.0
    prefill_outside: float = 0.0
    decode_own: float = 0.0
    decode_mates: float = 0.0
    decode_outside: float = 0.0
    preempted: float = 0.0
    recompute: float = 0.0
    chunks: list[Chunk] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.until = self.submitted

    def book(
        self, began: float, ended: float, own: float, context: int, tokens: int, preemptions: int
    ) -> None:
        """A step had a row of `tokens` new tokens after `context` others; `own` of its seconds are
        the row's.
        """
        self._wait(began, preemptions)
        if self.first_step is None:
            self.first_step = began
        self.steps += 1
        run = ended - began
        if context + tokens <= self.most_tokens:
            self.recompute += run
        elif self.first_token is not None:
            self.decode_own += own
            self.decode_mates += run - own
        else:
            self.prefill_own += own
            self.prefill_mates += run - own
            if len(self.chunks) < MAX_CHUNKS:
                self.chunks.append(Chunk(tokens, run, own))
            else:
                last = self.chunks[-1]
                self.chunks[-1] = Chunk(
                    last.tokens + tokens, last.seconds + run, last.own_seconds + own
                )
        if context + tokens > self.most_tokens:
            self.most_tokens = context + tokens
        self.until = ended

    def close(self, moment: float, preemptions: int) -> None:
        """The answer has ended; what comes later is not its own."""
        if self.end is None:
            self._wait(moment, preemptions)
            self.end = self.until = max(moment, self.until)

    def _wait(self, moment: float, preemptions: int) -> None:
        """What passed until `moment` without a row in a step."""
        gap = moment - self.until
        if gap < 0.0:
            gap = 0.0
        if self.steps == 0:
            self.queue += gap
        elif preemptions != self.preemptions:
            self.preempted += gap
            if len(self.gaps) < MAX_GAPS:
                self.gaps.append((self.until, max(moment, self.until)))
        elif self.first_token is None:
            self.prefill_outside += gap
        else:
            self.decode_outside += gap
        self.preemptions = preemptions

    def ledger(self) -> Ledger:
        """As far as it is booked."""
        seconds = {"tokenizing": self.submitted - self.arrival}
        seconds |= {name: getattr(self, name) for name in PHASES if name != "tokenizing"}
        return Ledger(
            arrival=self.arrival,
            end=self.until,
            seconds=seconds,
            chunks=tuple(self.chunks),
            steps=self.steps,
            preemptions=self.preemptions,
            forced=self.forced,
            first_step=self.first_step,
            first_token=self.first_token,
            gaps=tuple(self.gaps),
        )


def phase_seconds(ledgers: Sequence[Ledger]) -> dict[str, float]:
    """Of the answer that took longest, for a `usage`: waiting, prompt, answer, and all."""
    if not ledgers:
        return {}
    longest = max(ledgers, key=lambda one: one.total_seconds)
    s = longest.seconds
    return {
        "queue_seconds": round(s["tokenizing"] + s["queue"] + s["preempted"], 6),
        "prefill_seconds": round(
            s["prefill_own"] + s["prefill_mates"] + s["prefill_outside"] + s["recompute"], 6
        ),
        "decode_seconds": round(s["decode_own"] + s["decode_mates"] + s["decode_outside"], 6),
        "total_seconds": round(longest.total_seconds, 6),
    }
