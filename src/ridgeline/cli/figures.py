"""What is said of an answer when it has come: tokens, times and speeds, decode beside what this
machine's memory allows. As one line for people, and as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ridgeline.errors import RidgelineError

if TYPE_CHECKING:
    from ridgeline.engine.outputs import RequestOutput
    from ridgeline.engine.request import SamplingParams
    from ridgeline.llm import LLM


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one answer; None for what it has not. load_seconds: from the process's start to the model
    ready; ttft_seconds: from the prompt handed over to the first token; decode_seconds: from then
    to the end. Rates: tokens a second. read_gbps: GB/s that decoding had to read. roof: what this
    machine's memory gives, or why that is not known.
    """

    num_prompt: int
    num_cached: int
    num_new: int
    ending: str
    load_seconds: float | None = None
    ttft_seconds: float | None = None
    decode_seconds: float | None = None
    prompt_rate: float | None = None
    decode_rate: float | None = None
    read_gbps: float | None = None
    roof_gbps: float | None = None
    kept_gbps: float | None = None
    roof_missing: str | None = None
    seed: int | None = None


def figures_of(
    llm: LLM, params: SamplingParams, output: RequestOutput, load_seconds: float | None
) -> Figures:
    answer, metrics = output.outputs[0], output.metrics
    num_prompt, num_new = len(output.prompt_token_ids), len(answer.token_ids)
    told: dict[str, Any] = {
        "num_prompt": num_prompt,
        "num_cached": output.num_cached_tokens,
        "num_new": num_new,
        "ending": _ending(llm, output),
        "load_seconds": load_seconds,
    }
    if metrics.first_token is None or metrics.finished is None:
        return Figures(**told)
    prefill_seconds = max(metrics.first_token - metrics.submitted, 1e-9)
    told["ttft_seconds"] = metrics.first_token - metrics.arrival
    told["decode_seconds"] = decode_seconds = metrics.finished - metrics.first_token
    told["prompt_rate"] = (num_prompt - output.num_cached_tokens) / prefill_seconds
    if num_new > 1 and decode_seconds > 0:
        told["decode_rate"] = rate = (num_new - 1) / decode_seconds
        needed = llm.step_bytes(1, num_prompt + num_new // 2) * rate / 1e9
        told |= {"read_gbps": needed, **_roof(llm, needed)}
    if params.temperature > 0:
        told["seed"] = answer.seed
    return Figures(**told)


def _roof(llm: LLM, needed: float) -> dict[str, Any]:
    """An answer is not lost over a roof that will not be measured."""
    try:
        found = llm.read_roof(needed)
    except (RidgelineError, ImportError, OSError, RuntimeError, MemoryError) as error:
        return {"roof_missing": " ".join(str(error).split()) or type(error).__name__}
    other = found.kept.gigabytes_per_second if found.other_mode and found.kept else None
    return {"roof_gbps": found.gigabytes_per_second, "kept_gbps": other}


def _ending(llm: LLM, output: RequestOutput) -> str:
    reason = output.outputs[0].finish_reason
    if reason == "abort":
        return "interrupted"
    if reason == "length":
        total = len(output.prompt_token_ids) + len(output.outputs[0].token_ids)
        return "the context is full" if total >= llm.max_context else "cut at max tokens"
    return "ended" if reason == "stop" else str(reason)


def as_line(told: Figures) -> str:
    cached = f" ({told.num_cached} cached)" if told.num_cached else ""
    parts = [f"{told.num_prompt} prompt{cached} + {told.num_new} new tokens ({told.ending})"]
    if told.load_seconds is not None:
        parts.append(f"load {seconds(told.load_seconds)}")
    if told.ttft_seconds is not None:
        parts.append(f"TTFT {seconds(told.ttft_seconds)}")
    if told.prompt_rate is not None:
        parts.append(f"prompt {told.prompt_rate:,.0f} tok/s")
    if told.decode_rate is not None:
        parts.append(f"decode {told.decode_rate:,.0f} tok/s")
    if told.read_gbps is not None:
        parts.append(_beside_the_roof(told, told.read_gbps))
    if told.kept_gbps is not None:
        parts.append(
            f"the machine is in another mode than when measured ({told.kept_gbps:.1f} GB/s)"
        )
    if told.seed is not None:
        parts.append(f"seed {told.seed}")
    return " · ".join(parts)


def _beside_the_roof(told: Figures, needed: float) -> str:
    if told.roof_gbps is None:
        return f"{needed:.1f} GB/s (memory roof not measured: {told.roof_missing})"
    share = 100 * needed / told.roof_gbps
    return f"{share:.0f}% of the memory roof ({needed:.1f} of {told.roof_gbps:.1f} GB/s)"


def as_json(told: Figures, model: str, output: RequestOutput) -> dict[str, Any]:
    answer = output.outputs[0]
    return {
        "model": model,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": told.num_prompt,
        "cached_tokens": told.num_cached,
        "completion_tokens": told.num_new,
        "seed": told.seed,
        "load_seconds": _rounded(told.load_seconds),
        "ttft_seconds": _rounded(told.ttft_seconds),
        "decode_seconds": _rounded(told.decode_seconds),
        "prompt_tokens_per_second": _rounded(told.prompt_rate, 1),
        "decode_tokens_per_second": _rounded(told.decode_rate, 1),
        "read_gbps": _rounded(told.read_gbps, 2),
        "memory_roof_gbps": _rounded(told.roof_gbps, 2),
    }


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)


def seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"
