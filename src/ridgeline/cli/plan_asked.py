"""What `ridgeline plan` is asked, of what was typed: RequestError names the option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from ridgeline.cli.planned import planned_model
from ridgeline.config import Settings
from ridgeline.cost.accelerator import PAID_CLASSES, Accelerator
from ridgeline.cost.described import describe
from ridgeline.cost.engines import parse_engine
from ridgeline.cost.profile import load_profile
from ridgeline.errors import RequestError
from ridgeline.plan.asked import parse_slo
from ridgeline.plan.choice import CHUNKS, DEFAULT_CHUNK, Asked, Drafter
from ridgeline.plan.deployed import PRECISIONS
from ridgeline.plan.here_search import AskedHere
from ridgeline.plan.load import Lengths, poisson, recorded
from ridgeline.plan.trace_files import read_trace
from ridgeline.plan.traces import HASHED_TOKENS, Arrival
from ridgeline.plan.trial import Loads

# Of DeepSeek V3's predictor, "between 85 % and 90 % across various generation topics" for the
# second token (arXiv 2412.19437, 5.4.3); further tokens, and drafts of other models, less.
MTP_ACCEPTANCE = 0.85
ACCEPTANCE = 0.7
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}


def make_asked(
    num_input: int, num_output: int, count: int, rate: float | None, slo: str, slo_at: str,
    precision: str, kv: str, engine: str, price: str | None, max_cost: float | None,
    api_price: float | None, chunk: str, drafts: str, drafter: Drafter | None, profile: str,
) -> Asked:  # fmt: skip
    of, version = parse_engine("--engine", engine)
    for option, value, known in (
        ("--slo-at", slo_at, tuple(PERCENTILES)),
        ("--price", price or PAID_CLASSES[0], PAID_CLASSES),
    ):
        if value not in known:
            raise RequestError(option, f"{value!r}; there are: {', '.join(known)}")
    for option, amount in (("--max-cost", max_cost), ("--api-price", api_price)):
        if amount is not None and not (amount > 0 and isfinite(amount)):
            raise RequestError(option, f"{amount:g} USD: give an amount above 0")
    level = parse_slo(slo)
    if isfinite(level.e2e):
        raise RequestError("--slo", "plan keeps ttft, itl and itl99; simulate has e2e, too")
    gap = level.itl99 if isfinite(level.itl99) else None
    chunks = whole_numbers("--chunk", chunk) if chunk else ()
    asked = Asked(
        num_input,
        num_output,
        count,
        rate=rate,
        ttft=level.ttft if isfinite(level.ttft) else None,
        itl=level.itl if isfinite(level.itl) else None,
        percentile=PERCENTILES[slo_at],
        max_usd_per_hour=max_cost,
        precisions=tuple(listed("--precision", precision)),
        kv=tuple(listed("--kv", kv)),
        engine=of,
        version=version,
        profile=load_profile(profile),
        price_class=price,
        gap=gap,
        # Only gaps between tokens gain by smaller ones.
        chunks=chunks or ((DEFAULT_CHUNK,) if gap is None else CHUNKS),
        drafts=whole_numbers("--drafts", drafts),
        drafter=drafter,
    )
    asked.check()
    return asked


def check_prices(
    accelerators: Sequence[Accelerator], price: str | None, max_cost: float | None
) -> None:
    """RequestError where a class of prices, or a bound of the cost, is asked of what has none."""
    for of in accelerators:
        known = [name for name in of.price_classes if name in PAID_CLASSES]
        if price is not None and price not in known:
            there = ", ".join(known) or "none"
            raise RequestError("--price", f"{price!r} of {of.name}; there are: {there}")
        if max_cost is not None and not known:
            raise RequestError(
                "--max-cost", f"no price of {of.name} is known: leave one of both out"
            )


def asked_here(
    num_input: int, num_output: int, rate: float | None, slo: str, slo_at: str,
    precision: str | None, kv: str | None, chunk: str,
    costs: tuple[float | None, float | None, float | None], threads: tuple[int, ...],
) -> AskedHere:  # fmt: skip
    """precision, kv: None: those that this machine has."""
    level = parse_slo(slo)
    if isfinite(level.e2e):
        raise RequestError("--slo", "plan keeps ttft, itl and itl99; simulate has e2e, too")
    if slo_at not in PERCENTILES:
        raise RequestError("--slo-at", f"{slo_at!r}; there are: {', '.join(PERCENTILES)}")
    ttft, itl, gap = (b if isfinite(b) else None for b in (level.ttft, level.itl, level.itl99))
    watts, usd_per_kwh, usd_per_hour = costs
    asked = AskedHere(
        num_input, num_output, rate, ttft, itl, gap, PERCENTILES[slo_at], threads=threads,
        watts=watts, usd_per_kwh=usd_per_kwh, usd_per_hour=usd_per_hour,
    )  # fmt: skip
    if precision is not None:
        asked = replace(asked, precisions=tuple(listed("--precision", precision)))
    if kv is not None:
        asked = replace(asked, kv=tuple(listed("--kv", kv)))
    if chunk:
        asked = replace(asked, chunks=whole_numbers("--chunk", chunk))
    elif gap is not None:
        asked = replace(asked, chunks=(128, 256, 512))
    if not all(16 <= size <= 1 << 16 for size in asked.chunks):
        raise RequestError("--chunk", f"tokens of a step, from 16 to {1 << 16}")
    return asked


def drafter_of(
    config: Mapping[str, object], drafts: str, draft_model: str | None, acceptance: float | None,
    precision: str, settings: Settings,
) -> Drafter | None:  # fmt: skip
    """Who proposes: the model named, else the model's own predictor, else what the text said."""
    if not any(whole_numbers("--drafts", drafts)):
        for option, value in (("--draft-model", draft_model), ("--acceptance", acceptance)):
            if value is not None:
                raise RequestError(option, "nothing is proposed: say how many, as --drafts 0,3")
        return None
    if acceptance is not None and not 0 <= acceptance < 1:
        raise RequestError("--acceptance", f"{acceptance:g} is not a share from 0 to below 1")
    if draft_model is not None:
        name, described = planned_model(draft_model, settings)
        first = listed("--precision", precision)[0]
        if first not in PRECISIONS:
            raise RequestError("--precision", f"{first!r}; there are: {', '.join(PRECISIONS)}")
        small = describe(described, PRECISIONS[first])
        return Drafter("draft", ACCEPTANCE if acceptance is None else acceptance, name, small)
    if describe(config, "bf16").predicts:
        return Drafter("mtp", MTP_ACCEPTANCE if acceptance is None else acceptance)
    if acceptance is None:
        raise RequestError(
            "--drafts",
            "the model has no predictor of its own (MTP): name a --draft-model, or say which "
            "--acceptance looking up what the text said before has (ngram)",
        )
    return Drafter("ngram", acceptance)


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in listed(option, text))
    except ValueError:
        raise RequestError(option, f"{text!r}: whole numbers, with commas") from None


def listed(option: str, text: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found and option != "--compare":
        raise RequestError(option, "is empty")
    return list(dict.fromkeys(found))


def arrivals_of(path: Path | None) -> list[Arrival] | None:
    return None if path is None else read_trace(path)


def means_of(arrivals: Sequence[Arrival], rate: float | None) -> tuple[int, int, float | None]:
    """Mean prompt, mean answer, and requests a second, unless they are said."""
    count = len(arrivals)
    seconds = arrivals[-1].seconds - arrivals[0].seconds
    if rate is None and seconds > 0:
        rate = (count - 1) / seconds
    prompts = sum(a.num_prompt for a in arrivals) / count
    answers = sum(a.num_output for a in arrivals) / count
    return max(1, round(prompts)), max(1, round(answers)), rate


@dataclass(frozen=True, slots=True)
class Coming:
    """What trials are run under. block_tokens: of a cache block that suits it. shares_prefixes:
    some of its prompts begin alike.
    """

    loads: Loads
    block_tokens: int = 64
    shares_prefixes: bool = False


def coming_of(arrivals: Sequence[Arrival] | None, num_input: int, num_output: int) -> Coming:
    if arrivals is not None:
        hashed = any(arrival.prefix for arrival in arrivals)
        return Coming(
            lambda rate, count: recorded(arrivals, count, rate),
            HASHED_TOKENS if hashed else 64,
            hashed,
        )
    prompts, answers = (Lengths(n, n) for n in (num_input, num_output))
    return Coming(lambda rate, count: poisson(rate, prompts, answers, count, seed=0))


def load_text(asked: Asked) -> str:
    parts = [f"{asked.input_tokens:,} + {asked.output_tokens:,} tokens"]
    parts.append("as fast as it goes" if asked.rate is None else f"{asked.rate:g} requests/s")
    if asked.ttft is not None:
        parts.append(f"TTFT p{asked.percentile:.0f} {1e3 * asked.ttft:g} ms")
    if asked.itl is not None:
        parts.append(f"ITL {1e3 * asked.itl:g} ms")
    if asked.gap is not None:
        parts.append(f"gap p99 {1e3 * asked.gap:g} ms")
    return ", ".join(parts) + f", {asked.count} accelerators at most"


def has_slo(asked: Asked) -> bool:
    return any(bound is not None for bound in (asked.ttft, asked.itl, asked.gap))
