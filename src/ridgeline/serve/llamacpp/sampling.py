"""What llama.cpp's clients ask of an answer, as the engine samples it, and told back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ridgeline.engine.constrain.gbnf import lark_of_gbnf
from ridgeline.engine.request import SamplingParams
from ridgeline.errors import RequestError
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.serve.core.phrasing import constrained
from ridgeline.serve.llamacpp.bodies import SamplingBody

# Where llama.cpp's own defaults are not ours.
DEFAULTS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
# Penalties look at so many of the last tokens, where nothing is said.
LAST_TOKENS = 64
RANDOM_SEEDS = (-1, 2**32 - 1)
# Their samplers in the order in which ours are applied, each with the values that switch it off.
SAMPLERS: dict[str, dict[str, Any]] = {
    "penalties": {
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
    },
    "dry": {"dry_multiplier": 0.0},
    "temperature": {"temperature": 1.0, "dynatemp_range": 0.0},
    "top_n_sigma": {"top_n_sigma": 0.0},
    "top_k": {"top_k": 0},
    "typ_p": {"typical_p": 1.0},
    "top_p": {"top_p": 1.0},
    "min_p": {"min_p": 0.0},
    "xtc": {"xtc_probability": 0.0},
}
_OTHER_NAMES = {
    "typical_p": "typ_p",
    "typical": "typ_p",
    "typ": "typ_p",
    "temp": "temperature",
    "nucleus": "top_p",
}
_SAME = (
    "dynatemp_range",
    "dynatemp_exponent",
    "top_p",
    "min_p",
    "typical_p",
    "xtc_probability",
    "xtc_threshold",
    "presence_penalty",
    "frequency_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "ignore_eos",
)
# Wishes that cannot be met, and what they may say all the same.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "n_indent": ((0,), "answers are not kept to a column"),
    "n_discard": ((0,), "a context is never shifted"),
    "min_keep": ((0,), "samplers cut as they say; it may be 0"),
    "t_max_prompt_ms": ((0, -1), "prompts are not cut off by the clock"),
    "t_max_predict_ms": ((0, -1), "answers are not cut off by the clock; n_predict ends them"),
    "timings_per_token": ((False,), "timings come at the end"),
    "return_progress": ((False,), "progress is told in /live and /metrics"),
    "post_sampling_probs": ((False,), "probabilities are those before the samplers"),
    "sse_ping_interval": ((-1,), "a stream that waits says nothing"),
    "lora": (([],), "no adapters are loaded"),
}


class Wishes:
    """Tells what cannot be met: an error that names it, or, of a lenient server, a name in
    `ignored`.
    """

    def __init__(self, lenient: bool) -> None:
        self.ignored: list[str] = []
        self._lenient = lenient

    def refuse(self, name: str, why: str) -> None:
        if not self._lenient:
            raise RequestError(name, why)
        self.ignored.append(name)


def sampling_of(body: SamplingBody, tokenizer: Tokenizer, wishes: Wishes) -> SamplingParams:
    """Unsaid, temperature, top_k, top_p and min_p are llama.cpp's."""
    for name, (fine, why) in _REFUSED.items():
        if (value := getattr(body, name)) is not None and value not in fine:
            wishes.refuse(name, why)
    found: dict[str, Any] = dict(DEFAULTS)
    if body.mirostat:  # it cuts by itself, and they leave the other cuts out
        found = {"temperature": DEFAULTS["temperature"]}
    for name in _SAME:
        if (value := getattr(body, name)) is not None:
            found[name] = value
    if body.temperature is not None:
        found["temperature"] = max(0.0, body.temperature)
    if body.top_k is not None:
        found["top_k"] = max(0, body.top_k)
    if body.top_n_sigma is not None:
        found["top_n_sigma"] = max(0.0, body.top_n_sigma)
    if body.seed is not None and body.seed not in RANDOM_SEEDS:
        found["seed"] = body.seed
    if body.n_predict is not None and body.n_predict >= 0:
        found["max_tokens"] = max(1, body.n_predict)  # of 0 the one is not told
    if body.n_cmpl is not None:
        found["n"] = body.n_cmpl
    if body.stop:
        found["stop"] = tuple(text for text in body.stop if text)
    if body.n_probs:
        found["logprobs"] = body.n_probs
    if body.dry_penalty_last_n == 0:
        del found["dry_penalty_last_n"]
        found["dry_multiplier"] = 0.0
    _add_penalties(found, body)
    _add_biases(found, body, tokenizer)
    if body.samplers is not None:
        _choose(found, body.samplers, wishes)
    return _formed(SamplingParams(**found), body)


def _add_penalties(found: dict[str, Any], body: SamplingBody) -> None:
    if body.repeat_penalty is not None:
        found["repetition_penalty"] = body.repeat_penalty
    last = body.repeat_last_n
    if last is not None and last < -1:
        raise RequestError("repeat_last_n", "is a number of tokens, or -1 (all)")
    found["penalty_last_n"] = LAST_TOKENS if last is None else last


def _add_biases(found: dict[str, Any], body: SamplingBody, tokenizer: Tokenizer) -> None:
    biases: dict[int, float] = {}
    never: list[list[int]] = []
    for token_id, amount in _biases(body, tokenizer):
        if amount is True:
            raise RequestError("logit_bias", "true is no number; it may be one, or false")
        if amount is False:
            never.append([token_id])
        else:
            biases[token_id] = float(amount)
    if biases:
        found["logit_bias"] = biases
    if never:
        found["bad_words"] = never


def _biases(body: SamplingBody, tokenizer: Tokenizer) -> Iterator[tuple[int, bool | float]]:
    """A text stands for each of its tokens; as a key of an object, digits are an id."""
    given = body.logit_bias or []
    entries = given.items() if isinstance(given, dict) else given
    for name, amount in entries:
        if isinstance(name, str) and isinstance(given, dict) and name.isascii() and name.isdigit():
            name = int(name[:12])
        if isinstance(name, int):
            yield name, amount
        else:
            for token_id in tokenizer.encode(name, add_special=False):
                yield token_id, amount


def _choose(found: dict[str, Any], names: list[str], wishes: Wishes) -> None:
    """Samplers that are not named are off."""
    chosen = []
    for given in names:
        name = given.replace("-", "_")
        name = _OTHER_NAMES.get(name, name)
        if name in SAMPLERS:
            chosen.append(name)
        else:
            wishes.refuse(f"samplers.{given[:40]}", f"is not here; there are {', '.join(SAMPLERS)}")
    for name, off in SAMPLERS.items():
        if name not in chosen:
            found.update(off)
    at_work = [
        name for name in chosen if any(found.get(k, v) != v for k, v in SAMPLERS[name].items())
    ]
    if at_work != [name for name in SAMPLERS if name in at_work]:
        wishes.refuse("samplers", f"come in the order {', '.join(SAMPLERS)}, each once")


def _formed(params: SamplingParams, body: SamplingBody) -> SamplingParams:
    if body.grammar and body.json_schema is not None:
        raise RequestError("grammar", "and json_schema: give one")
    if body.grammar:
        return constrained(params, "grammar", grammar=lark_of_gbnf(body.grammar, "grammar"))
    if body.json_schema is not None:
        return constrained(params, "json_schema", json=body.json_schema)
    return params


def settings_of(
    params: SamplingParams, body: SamplingBody, seed: int | None = None
) -> dict[str, Any]:
    """What an answer was sampled by, in their names. seed: the one that was drawn."""
    most = body.n_predict if body.n_predict is not None and body.n_predict >= 0 else -1
    return {
        "n_predict": most,
        "max_tokens": most,
        "seed": RANDOM_SEEDS[1] if seed is None else seed,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_n_sigma": params.top_n_sigma or -1.0,
        "repeat_last_n": params.penalty_last_n,
        "repeat_penalty": params.repetition_penalty,
        **{
            name: list(value) if isinstance(value := getattr(params, name), tuple) else value
            for name in _SAME
        },
        "stop": list(params.stop_strings),
        "logit_bias": [[token_id, bias] for token_id, bias in params.logit_bias.items()]
        + [[word[0], False] for word in params.bad_words],
        "grammar": body.grammar or "",
        "n_probs": params.logprobs or 0,
        "n_keep": -1,
        "n_discard": 0,
        "min_keep": 0,
        "samplers": list(SAMPLERS),
        "stream": bool(body.stream),
    }
