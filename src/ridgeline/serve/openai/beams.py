"""`use_beam_search` of completions and chat, as vLLM's clients say it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ridgeline.engine.request import SamplingParams
from ridgeline.errors import RequestError
from ridgeline.serve.core.ask import Beams
from ridgeline.serve.openai.chat_bodies import ConstrainedBody

# What a search has as well; a seed would change nothing, and no temperature that leaves the model's
# own probabilities, or takes the likeliest.
_KEPT = frozenset({"n", "max_tokens", "ignore_eos", "seed", "skip_special_tokens"})
_OFF: dict[str, tuple[Any, ...]] = {"temperature": (0, 1), "top_k": (0, -1)}
_NEVER = (
    "and use_beam_search: a search finds the model's likeliest answers, and keeps to nothing else"
)


def beams_of(body: ConstrainedBody, given: dict[str, Any]) -> Beams | None:
    """None: no search is asked for. given: of the sampling; what is the search's is taken out."""
    if not body.use_beam_search:
        if body.length_penalty is not None:
            raise RequestError("length_penalty", "needs use_beam_search to be true")
        return None
    num_given = given.get("n", 1)
    width = given.pop("best_of", num_given)
    if width < num_given:
        raise RequestError("best_of", f"{width} is below n, {num_given}")
    return Beams(width, 1.0 if body.length_penalty is None else body.length_penalty)


def check_beams(params: SamplingParams, *, tools: bool = False) -> None:
    """Raises RequestError for wishes that a search would not keep to."""
    if tools:
        raise RequestError("tools", _NEVER)
    for field in fields(SamplingParams):
        value, name = getattr(params, field.name), field.name
        off = _OFF.get(name, (getattr(_DEFAULT, name),))
        empty = not value and not off[0] and isinstance(value, list | tuple | dict)
        if name not in _KEPT and value not in off and not empty:
            raise RequestError(name, _NEVER)


_DEFAULT = SamplingParams()
