"""What an engine's host adds to the device's seconds of a step: scheduling, streaming, and launches
of operators that are in no CUDA graph, of which it hides a part behind the device.

Does not know what the device does, nor which operators a graph has (`Deployment.host`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.cost.efficiency import Array, Profile, both


@dataclass(frozen=True, slots=True)
class Host:
    """Of one deployment, for a simulator that asks for one step at a time. step, row, launch:
    seconds. operators: launched by themselves where there is a prompt; pieces: that many, where its
    tokens are no more than `captured`. parts: that rows part in, groups: those side by side.
    """

    step: float
    row: float
    launch: float
    overlap: float
    operators: float
    pieces: float
    captured: float
    parts: int
    groups: int

    def __call__(
        self, device: float, answers: int, prompts: int, answer_tokens: int, prompt_tokens: int
    ) -> float:
        """Seconds of a step of so many rows of each kind, and their new tokens."""
        host = self.step + (answers + prompts) / self.groups * self.row
        if prompts:
            tokens = self._busiest(prompts, prompt_tokens)
            if answers:
                tokens += self._busiest(answers, answer_tokens)
            is_captured = tokens <= self.captured
            host += (self.pieces if is_captured else self.operators) * self.launch
        most, least = (device, host) if device > host else (host, device)
        return float(most * (1.0 + (least / most) ** self.overlap) ** (1.0 / self.overlap))

    def _busiest(self, rows: int, tokens: int) -> float:
        """Tokens of the part that has most of `rows` alike."""
        return tokens * -(-rows // self.parts) / rows

    def of_answers(self, device: Array, rows: int) -> Array:
        """Seconds of steps that have no prompt."""
        host = np.full_like(device, self.step + rows / self.groups * self.row)
        return both(device, host, self.overlap)


def with_host(device: Array, rows: Array, eager: Array, era: str, profile: Profile) -> Array:
    """Seconds of steps: the device's and the host's. eager: operators launched by themselves."""
    host = profile[f"host.step.{era}"] + rows * profile[f"host.row.{era}"]
    host = host + eager * profile[f"eager.{era}"]
    return both(device, host, profile["host.overlap"])
