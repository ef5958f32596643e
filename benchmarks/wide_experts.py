"""Experts over many ranks: what operators say theirs do, beside what is predicted. None was fitted.

How each ran stands in its text, and is taken from there: whether exchanges hide behind work, and
whether tokens were sent to all experts alike. Two batches (DeepSeek, SGLang on H100 and H200):
those of one half of a rank's rows behind the other half's kernels, which all run, and read all
weights, twice a step. One batch (GB200): behind it, or after it where the text says that nothing
overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from published import Published, deployment, published_rows

from ridgeline.cost.chip import Mesh
from ridgeline.cost.deployment import Deployment
from ridgeline.cost.efficiency import MEANINGS, piece_seconds
from ridgeline.cost.steps import Steps, uniform_steps

DEEPSEEK, KIMI = "deepseek-ai/DeepSeek-V3", "moonshotai/Kimi-K2-Instruct"
Overlap = Literal["two batches", "one batch", "none"]

# DeepSeek's day (open-infra-index, 2025-02-27/28): tokens in, of which found in caches, and out;
# tokens that an answer's token attends to; tokens a second that it writes.
DAY_INPUT, DAY_CACHED, DAY_OUTPUT = 608e9, 342e9, 168e9
DAY_CONTEXT, DAY_SPEED, DAY_NODES = 4989.0, 21.0, 226.75
# Of what a node and hour earned in the busiest hour, the mean of the day: its chart of income by
# the hour (562 of thousand dollars) over its chart of nodes (31.1 of 278 at 22:00).
DAY_LOAD = 562.0 / (DAY_NODES * 24.0) / (31.1 / 278.0)
# Lengths vary: in public traces of conversations an answer's token has 0.78 answers before it
# (Azure 2023: 0.80, Mooncake: 0.77), not half of one, and a prompt's new token attends to twice
# what it would if prompts were alike (1.92 of Azure's; Mooncake's, after what is cached: 2.14), as
# in prompts twice as long.
DAY_PROMPT = DAY_CONTEXT / (1.0 + 0.78 * DAY_OUTPUT / DAY_INPUT)
DAY_ATTENDED = 2.0 * DAY_PROMPT
DAY_NEW = DAY_ATTENDED * (1.0 - DAY_CACHED / DAY_INPUT)
DAY_ROWS = 1850.0 / DAY_SPEED


@dataclass(frozen=True, slots=True)
class Wide:
    """A figure: tokens a second of one GPU. stated: that, or the id in the file and what of it.
    prompt, cached: new tokens of a prompt, and those before them in the cache; tokens: of one
    rank's step. rows, context: of one rank's answers. share: of the most that is reached, and of
    tokens that are new.
    """

    who: str
    chip: str
    ranks: int
    stated: float | tuple[str, str]
    overlap: Overlap
    prompt: float = 0.0
    cached: float = 0.0
    tokens: float = 16384.0
    rows: float = 0.0
    context: float = 0.0
    model: str = DEEPSEEK
    precision: str = "fp8_block"
    kv: str = "bf16"
    alike: bool = False
    share: float = 1.0

    @property
    def label(self) -> str:
        if self.rows:
            how = f"{self.rows:.0f} answers at {self.context:.0f}"
        else:
            how = f"prompts of {self.prompt + self.cached:.0f}"
            how += f", {self.cached:.0f} of them cached" if self.cached else ""
        kind = "out" if self.rows else "in"
        how += ", experts alike" if self.alike else ""
        how += ", nothing overlaps" if self.overlap == "none" else ""
        return f"{self.who}, {self.chip}, EP{self.ranks}, {how}, tokens {kind}/s/GPU"


# LMSYS on 96 H100, 2025-05-05; GB200 NVL72, part 1, 2025-06-16, which did without two batches and
# names overlap as work to come; part 2, 2025-09-25, whose combine hides behind the experts' second
# matrix; and Kimi K2 on 128 H200, 2025-07-20. DeepSeek's profile (profile-data, by LMSYS's table)
# and SGLang's last sent tokens to all experts alike. RTP-LLM's report, 2025: H800 over RoCE. vLLM
# on GB200, 2026-02-03: its blog has no batch; SGLang's of the same precision is taken.
WIDE: tuple[Wide, ...] = (
    Wide(
        "DeepSeek's day", "H800 SXM", 32, ("m0299", "input_tokens_per_s_per_gpu"), "two batches",
        DAY_NEW, DAY_ATTENDED - DAY_NEW, share=DAY_LOAD * DAY_INPUT / (DAY_INPUT - DAY_CACHED),
    ),
    Wide(
        "DeepSeek's day", "H800 SXM", 144, ("m0300", "output_tokens_per_s_per_gpu"),
        "two batches", rows=DAY_ROWS, context=DAY_CONTEXT,
    ),
    Wide("DeepSeek's profile", "H800 SXM", 32, 62713 / 8, "two batches", 4096, alike=True),
    Wide(
        "DeepSeek's profile", "H800 SXM", 128, 18598 / 8, "two batches", rows=128, context=4096,
        alike=True,
    ),
    Wide("RTP-LLM", "H800 SXM", 32, 42600 / 8, "two batches", 4096, tokens=8192),
    Wide("RTP-LLM", "H800 SXM", 144, 1850, "two batches", rows=13200 / 144, context=5120),
    Wide("SGLang", "h100-sxm", 32, 57674 / 8, "two batches", 1024),
    Wide(
        "SGLang", "h100-sxm", 32, ("m0302", "input_tokens_per_s_per_gpu"), "two batches", 2048
    ),
    Wide("SGLang", "h100-sxm", 32, 50302 / 8, "two batches", 4096),
    Wide("SGLang", "h100-sxm", 32, 59337 / 8, "two batches", 4096, alike=True),
    Wide(
        "SGLang", "h100-sxm", 72, ("m0303", "output_tokens_per_s_per_gpu"), "two batches",
        rows=256, context=2050,
    ),
    Wide("SGLang", "h100-sxm", 72, 22310 / 1.255 / 8, "none", rows=256, context=2050),
    Wide(
        "SGLang, part 1", "gb200", 48, ("m0304", "output_tokens_per_s_per_gpu"), "none",
        rows=768, context=2050,
    ),
    Wide(
        "SGLang, part 2", "gb200", 4, ("m0306", "input_tokens_per_s_per_gpu"), "one batch", 2048
    ),
    Wide(
        "SGLang, part 2", "gb200", 48, ("m0306", "output_tokens_per_s_per_gpu"), "one batch",
        rows=704, context=2050,
    ),
    Wide(
        "SGLang, part 2, FP4", "gb200", 2, ("m0305", "input_tokens_per_s_per_gpu"), "one batch",
        2048, precision="nvfp4", kv="fp8",
    ),
    Wide(
        "SGLang, part 2, FP4", "gb200", 48, ("m0305", "output_tokens_per_s_per_gpu"),
        "one batch", rows=1408, context=2050, precision="nvfp4", kv="fp8",
    ),
    Wide(
        "vLLM, FP4", "gb200", 2, ("m0310", "input_tokens_per_s_per_prefill_gpu"), "one batch",
        2048, tokens=32768, precision="nvfp4", kv="fp8",
    ),
    Wide(
        "vLLM, FP4", "gb200", 8, ("m0310", "output_tokens_per_s_per_decode_gpu"), "one batch",
        rows=768, context=3072, precision="nvfp4", kv="fp8",
    ),
    Wide(
        "Mooncake", "h200-sxm", 32, 224e3 / 32, "two batches", 2048, model=KIMI,
    ),
    Wide(
        "Mooncake", "h200-sxm", 96, 288e3 / 96, "two batches", rows=480, context=2050, model=KIMI,
    ),
)  # fmt: skip

TABLE = "DeepSeek's day and large EP"


def wide_experts() -> tuple[Published, ...]:
    """All of WIDE, and the nodes that DeepSeek's day took."""
    known = {row["id"]: row["metrics"] for row in published_rows()}
    found, rates = [], []
    for wide in WIDE:
        stated = wide.stated
        if not isinstance(stated, float | int):
            stated = known[stated[0]][stated[1]]
        rates.append(predicted(wide))
        found.append(Published(TABLE, wide.label, float(stated), rates[-1]))
    seconds = 86400.0 * 8
    nodes = DAY_INPUT / rates[0] / seconds + DAY_OUTPUT / rates[1] / seconds
    return (Published(TABLE, "DeepSeek's day, nodes of 8 H800", DAY_NODES, nodes), *found)


def predicted(wide: Wide) -> float:
    """Tokens a second of one GPU."""
    d = deployment(
        wide.model, wide.precision, wide.kv, wide.chip, Mesh(dp=wide.ranks, ep=wide.ranks), "sglang"
    )
    if wide.alike:
        values = {**d.profile.values, "experts.skew": MEANINGS["experts.skew"][1]}
        d = d.with_profile(replace(d.profile, values=values))
    batches = 2 if wide.overlap == "two batches" else 1
    if wide.rows:
        tokens = wide.rows
        rows = wide.ranks * wide.rows / batches
        part = uniform_steps(d.windows, decode=rows, context=wide.context)
    else:
        # As many whole prompts as come nearest, since a rank has no parts of one.
        prompts = max(1, round(wide.tokens / batches / wide.prompt))
        tokens = batches * prompts * wide.prompt
        part = uniform_steps(
            d.windows,
            prompts=float(wide.ranks * prompts),
            prompt_tokens=wide.prompt,
            prompt_context=wide.cached,
        )
    return wide.share * tokens / _step(d, part, batches, wide.overlap != "none")


def _step(d: Deployment, part: Steps, batches: int, is_hidden: bool) -> float:
    """Seconds of a step that runs `part` so many times."""
    pieces = d.pieces(part)
    each = batches * piece_seconds(pieces, d.profile)
    sent = pieces.link_bytes > 0
    work, exchanged = float(each[~sent].sum()), float(each[sent].sum())
    device = max(work, exchanged) if is_hidden else work + exchanged
    return float(d.with_host(np.array([device]), part)[0])
