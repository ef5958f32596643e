"""Which token may come next in a transcript, and which does.

The rules are those of Radford et al. 2022 (section 4.5): times come in pairs, never run backwards,
and come where together they are likelier than any other token. Pure functions of logits and of the
window's tokens so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ridgeline.engine.speech.tokens import SECONDS_PER_TIME, SpeechTokens

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

# The first time of a window is at most this far in.
MAX_FIRST_SECONDS = 1.0


def allowed(logits: Floats, said: Sequence[int], tokens: SpeechTokens, times: bool) -> Doubles:
    """logits [vocab] -> log-probabilities [vocab] of what may follow `said`; -Inf of what may not.

    said: the window's tokens after its prefix. times: whether the transcript has them.
    """
    x = logits.astype(np.float64)
    x[list(tokens.suppressed)] = -np.inf
    if not said:
        x[list(tokens.suppressed_first)] = -np.inf
    if times:
        _pair_times(x, said, tokens)
    scores = log_softmax(x)
    if times:
        first = tokens.first_time
        together = np.logaddexp.reduce(scores[first:]) if len(scores) > first else -np.inf
        if together > scores[:first].max():
            scores[:first] = -np.inf
            scores = log_softmax(scores)
    elif len(scores) > tokens.first_time:
        scores[tokens.first_time :] = -np.inf
        scores = log_softmax(scores)
    return scores


def _pair_times(x: Doubles, said: Sequence[int], tokens: SpeechTokens) -> None:
    first = tokens.first_time
    x[tokens.no_times] = -np.inf
    if not said:
        x[:first] = -np.inf
        x[first + round(MAX_FIRST_SECONDS / SECONDS_PER_TIME) + 1 :] = -np.inf
        return
    is_time = [token >= first for token in said[-2:]]
    opens = is_time[-1] and (len(said) < 2 or is_time[0])
    if is_time[-1]:
        if opens:
            x[first:] = -np.inf  # a text, after a time that opens it
        else:
            x[: tokens.end] = -np.inf  # no text, before a time or the end
    last = next((token for token in reversed(said) if token >= first), None)
    if last is not None:
        # The time that closes a text may open the next; others are later.
        x[first : last if is_time[-1] and not opens else last + 1] = -np.inf


def log_softmax(x: Doubles) -> Doubles:
    top = x.max()
    if not np.isfinite(top):
        return x
    shifted = x - top
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def draw(scores: Doubles, temperature: float, noise: np.random.Generator) -> int:
    """The likeliest; above temperature 0 one drawn from exp(scores / temperature), by the largest
    sum with Gumbel noise.
    """
    if temperature == 0:
        return int(scores.argmax())
    gumbel = noise.gumbel(size=len(scores))
    return int((scores / temperature + gumbel).argmax())
