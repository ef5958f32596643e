"""What ends a text before its model does: stop strings and stop patterns, found as text comes.

One object serves one stream. Every character costs the same however many stop strings there are
(Aho & Corasick 1975) and at most a bounded walk for patterns: no request can hold up others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ridgeline.errors import RequestError
from ridgeline.model.text.stop_regex import StopRegex


class StopMatcher:
    """Cuts a stream of text at the first stop, and holds back what might become one.

    The stop that ends a text is the one that is complete first; of those complete at the same
    character, the one that starts first. The text ends before it, or after it with `include`.
    `matched` is the stop string, or the pattern, that ended the text, None until then.
    """

    def __init__(
        self, stops: Sequence[str], *, patterns: Sequence[str] = (), include: bool = False
    ) -> None:
        if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in stops):
            raise RequestError("stop", "must be a list of strings that are not empty")
        self.matched: str | None = None
        self._include = include
        self._scanners: list[_Strings | StopRegex] = []
        if stops:
            self._scanners.append(_Strings(stops))
        if patterns:
            self._scanners.append(StopRegex(patterns))
        self._held = ""
        self._released = 0

    def push(self, text: str) -> str:
        """The text that is certain now; nothing after a match."""
        if not self._scanners:
            return text
        if self.matched is not None:
            return ""
        self._held += text
        read = len(self._held) - len(text)
        for end, char in enumerate(text, read + 1):
            found = [m for scanner in self._scanners if (m := scanner.feed(char)) is not None]
            if found:
                start, self.matched = min(found, key=lambda match: match[0])
                held, self._held = self._held, ""
                return held[: end if self._include else start - self._released]
        certain = min(scanner.held_from for scanner in self._scanners) - self._released
        out, self._held = self._held[:certain], self._held[certain:]
        self._released += certain
        return out

    def flush(self) -> str:
        """The text held back, when the stream has ended without a stop."""
        held, self._held = self._held, ""
        self._released += len(held)
        return held


class _Strings:
    """Where stop strings end in one stream of characters: a tree of their beginnings, each node
    with the node of its longest ending that is in the tree too.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._children: list[dict[str, int]] = [{}]
        self._fallback = [0]
        self._depth = [0]
        self._ends: list[str | None] = [None]  # the longest stop that ends here
        for stop in stops:
            node = 0
            for char in stop:
                if char not in self._children[node]:
                    self._children[node][char] = len(self._children)
                    self._children.append({})
                    self._fallback.append(0)
                    self._depth.append(self._depth[node] + 1)
                    self._ends.append(None)
                node = self._children[node][char]
            self._ends[node] = stop
        waiting = deque(self._children[0].values())
        while waiting:
            node = waiting.popleft()
            for char, child in self._children[node].items():
                self._fallback[child] = self._step(self._fallback[node], char)
                waiting.append(child)
            if self._ends[node] is None:
                self._ends[node] = self._ends[self._fallback[node]]
        self._node = 0
        self._position = 0

    @property
    def held_from(self) -> int:
        return self._position - self._depth[self._node]

    def feed(self, char: str) -> tuple[int, str] | None:
        """Reads one character; a stop that ends with it: where it began, and itself."""
        self._node = self._step(self._node, char)
        self._position += 1
        stop = self._ends[self._node]
        return None if stop is None else (self._position - len(stop), stop)

    def _step(self, node: int, char: str) -> int:
        while node and char not in self._children[node]:
            node = self._fallback[node]
        return self._children[node].get(char, 0)
