"""What a deployment runs on: a chip's limits and links, and how ranks are laid over chips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ridgeline.errors import RidgelineError


@dataclass(frozen=True, slots=True)
class Chip:
    """peaks: dense operations per second by arithmetic ("bf16", "fp8", "fp4", ...). link: bytes per
    second that it sends to others of its domain of `domain` chips; nic: to those beyond. in_switch:
    whether the domain's switch adds what ranks send (NVLS). year: in which it came.
    """

    name: str
    peaks: Mapping[str, float]
    memory_bytes: float
    memory_bytes_per_second: float
    link_bytes_per_second: float | None = None
    domain: int = 1
    nic_bytes_per_second: float | None = None
    in_switch: bool = False
    year: int = 0

    @property
    def is_joined(self) -> bool:
        """Whether any link to others of it is known."""
        return bool(self.link_bytes_per_second or self.nic_bytes_per_second)

    def link(self, ways: int) -> float:
        """Bytes per second among `ways` chips: of the slowest link on the way."""
        if ways <= 1:
            return 1e12
        if ways <= self.domain and self.link_bytes_per_second:
            return self.link_bytes_per_second
        slow = self.nic_bytes_per_second or self.link_bytes_per_second
        if not slow:
            raise RidgelineError(f"{self.name} has no link, and {ways} of them are needed")
        return slow


@dataclass(frozen=True, slots=True)
class Mesh:
    """tp: ranks that share each row's attention. dp: groups of those, each with rows of its own.
    ep: in how many parts a layer's experts lie whole; the rest of tp x dp cuts each expert.
    pp: pipeline stages.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def ranks(self) -> int:
        """Of one stage."""
        return self.tp * self.dp

    @property
    def gpus(self) -> int:
        return self.tp * self.dp * self.pp

    def __str__(self) -> str:
        parts = [f"{n}{v}" for n, v in (("tp", self.tp), ("pp", self.pp), ("dp", self.dp)) if v > 1]
        if self.ep > 1:
            parts.append(f"ep{self.ep}")
        return "-".join(parts) or "tp1"
