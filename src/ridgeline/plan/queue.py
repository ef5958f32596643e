"""How long a request waits for its first token behind the prompts of others.

An engine takes all prompts that wait into its next step, as many as the step's tokens allow, and
all of them have their first token when it ends. So who comes waits for the end of the step that
runs, and then for a step with his own prompt and with those that came beside it: not M/D/1, where
prompts are computed one by one. What runs between prompts (answers) makes every step longer.

The numbers of prompts that wait where steps begin are a Markov chain; its stationary state gives
the distribution of the wait, found for a grid of (how busy, how long a step is without prompts) in
units of a prompt's time, and interpolated. That it says what the simulator does is a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, exp, inf, lgamma, log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BUSY = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.78, 0.85, 0.9, 0.94, 0.97])
_BASES = np.exp2(np.arange(-7.0, 6.0))
_SHARES = np.array([0.0, *np.arange(0.05, 0.9, 0.05), *np.arange(0.9, 0.99, 0.01), 0.99, 0.999])
_MOST = 80  # prompts that wait
_MOMENTS = (np.arange(8) + 0.5) / 8  # of a step, at which one comes
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True, slots=True)
class Queue:
    """Waits in front of `servers` engines, each request at the one that has the least to do, at
    `rate` requests/s all together. prompt: seconds that a prompt adds to a step; base: of a step
    without prompts; batch: prompts that one step may take, at least 1.
    """

    rate: float
    prompt: float
    base: float
    batch: float
    servers: int = 1

    @property
    def batched(self) -> int:
        return max(size for size in _BATCHES if size <= max(1.0, self.batch))

    @property
    def busy(self) -> float:
        """Of what prompts can be computed, how much is asked; at 1 the queue never ends."""
        return self.rate / self.servers * (self.prompt + self.base / self.batched)

    def wait(self, share: float) -> float:
        """Seconds beyond a step with one's own prompt that so many of all do not exceed."""
        if self.busy >= 1.0:
            return inf
        share = 1.0 - (1.0 - share) / self._pooled
        if share <= 0.0:
            return 0.0
        return float(np.interp(share, _SHARES, self._curves()[0])) * self._unit

    def within(self, seconds: float) -> float:
        """Of all requests, those who wait no longer."""
        if self.busy >= 1.0 or seconds < 0:
            return 0.0
        curve = self._curves()[0]
        if seconds >= curve[-1] * self._unit:
            return 1.0
        found = float(np.interp(seconds / self._unit, curve, _SHARES))
        return 1.0 - (1.0 - found) * self._pooled

    def beside(self, share: float) -> float:
        """Prompts in a step, which such a share of all steps do not exceed."""
        if self.busy >= 1.0:
            return float(self.batched)
        # Whole prompts, but between whole ones where it lies between marks of the table.
        return float(ceil(np.interp(share, _SHARES, self._curves()[1]) - 0.25))

    @property
    def _unit(self) -> float:
        # With several engines the shortest of their rests is waited for, and its batch, which is
        # not shorter: between 1 and one in so many.
        return float(self.prompt / self.servers**0.75)

    @property
    def _pooled(self) -> float:
        """Who finds one engine busy may find another that is not: how much rarer that makes waits
        (Erlang's C over what one engine alone would have).
        """
        return min(1.0, erlang_c(self.servers, self.busy) / max(self.busy, 1e-12))

    def _curves(self) -> Floats:
        """At `_SHARES`: waits in units of a prompt, and prompts of steps."""
        table = _table(self.batched)
        busy = min(max(self.busy, _BUSY[0]), _BUSY[-1])
        base = min(max(self.base / self.prompt, _BASES[0]), _BASES[-1])
        i = min(int(np.searchsorted(_BUSY, busy, "right")) - 1, len(_BUSY) - 2)
        j = min(int(np.searchsorted(_BASES, base, "right")) - 1, len(_BASES) - 2)
        x = (busy - _BUSY[i]) / (_BUSY[i + 1] - _BUSY[i])
        y = log(base / _BASES[j]) / log(_BASES[j + 1] / _BASES[j])
        low = table[i, j] * (1 - y) + table[i, j + 1] * y
        high = table[i + 1, j] * (1 - y) + table[i + 1, j + 1] * y
        return np.asarray(low * (1 - x) + high * x)


def erlang_c(servers: int, busy: float) -> float:
    """The share of those who find all servers busy (Erlang 1917), of `busy` each."""
    if busy >= 1.0:
        return 1.0
    offered, blocked = servers * busy, 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1.0 - busy * (1.0 - blocked))


@cache
def _table(batch: int) -> Floats:
    """[busy, base, (wait in units of a prompt's time, prompts of a step), share]. busy: of what can
    be computed; base: of a step without prompts, in the same units.
    """
    found = np.empty((len(_BUSY), len(_BASES), 2, len(_SHARES)))
    for j, base in enumerate(_BASES):
        for i, busy in enumerate(_BUSY):
            rate = float(busy) / (1.0 + float(base) / batch)
            found[i, j] = _waits(rate, float(base), batch)
    return found


def _waits(rate: float, base: float, batch: int) -> Floats:
    waiting = np.arange(_MOST + 1)
    taken = np.minimum(waiting, batch)
    seconds = base + taken
    # After a step: who was not taken, and who came while it ran.
    chain = np.zeros((_MOST + 1, _MOST + 1))
    come = _poisson(rate * seconds, _MOST)
    for row, left in enumerate((waiting - taken).tolist()):
        chain[row, left:] = come[row, : _MOST + 1 - left]
        chain[row, _MOST] += max(0.0, 1.0 - chain[row].sum())
    system = (chain - np.eye(_MOST + 1)).T
    system[-1] = 1.0
    state = np.clip(np.linalg.solve(system, np.eye(_MOST + 1)[-1]), 0.0, None)
    known = np.cumsum(state) / state.sum()
    beside = taken[np.searchsorted(known, _SHARES - 1e-9).clip(0, _MOST)].astype(np.float64)
    weights = state * seconds
    weights /= weights.sum()
    kept = weights > 1e-7
    n, seconds, weights = waiting[kept], seconds[kept], weights[kept]
    left = (n - taken[kept])[:, None, None]
    passed = seconds[:, None] * _MOMENTS[None, :]
    before = _poisson((rate * passed).ravel(), _MOST).reshape(*passed.shape, -1)
    ahead = left + np.arange(_MOST + 1)[None, None, :]
    full = ahead // batch
    remaining = (seconds[:, None] - passed)[:, :, None]
    behind = rate * (remaining + full * (base + batch))
    own = np.minimum(batch, ahead - full * batch + 1 + behind)
    wait = remaining + full * (base + batch) + own - 1.0
    shares = weights[:, None, None] * before / len(_MOMENTS)
    return np.stack([_quantiles(wait.ravel(), shares.ravel()), beside])


def _quantiles(values: Floats, weights: Floats) -> Floats:
    order = np.argsort(values)
    shares = np.cumsum(weights[order])
    return np.asarray(np.interp(_SHARES * shares[-1], shares, values[order]))


def _poisson(means: Floats, most: int) -> Floats:
    """Probabilities of 0 to `most` at each of the means: [mean, number]."""
    numbers = np.arange(most + 1)
    logs = np.array([lgamma(k + 1) for k in numbers])
    safe = np.maximum(means, exp(-60))[:, None]
    return np.asarray(np.exp(numbers[None, :] * np.log(safe) - safe - logs[None, :]))
