"""What a template's work costs: steps, characters, and the largest value that it may make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ridgeline.model.text.template_values import MAX_TEXT, TemplateFault

CHARS_PER_STEP = 64


@dataclass(slots=True)
class Meter:
    """The steps that one rendering may still take. Running out raises `TemplateFault`."""

    fuel: int

    def spend(self, steps: int) -> None:
        self.fuel -= steps
        if self.fuel < 0:
            raise TemplateFault("does too much work; it does not end, or makes far too long a text")

    def made(self, value: Any) -> Any:
        """Pays for a value just made."""
        if isinstance(value, str):
            if len(value) > MAX_TEXT:
                raise TemplateFault(f"makes a text longer than {MAX_TEXT} characters")
            self.spend(len(value) // CHARS_PER_STEP)
        elif isinstance(value, (list, tuple, dict)):
            self.spend(len(value))
        return value

    def weigh(self, value: Any, level: int = 1) -> tuple[int, int, int]:
        """Pays for looking at all of `value`; its values, characters and depth, shared parts
        counted each time.
        """
        if isinstance(value, str):
            self.spend(1 + len(value) // CHARS_PER_STEP)
            return 1, len(value), level
        if not isinstance(value, (list, tuple, dict)):
            return 1, 32, level
        count, chars, depth = 1, 2, level
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        self.spend(1 + len(value))
        for part in parts:
            part_count, part_chars, part_depth = self.weigh(part, level + 1)
            count, chars, depth = count + part_count, chars + part_chars + 4, max(depth, part_depth)
        return count, chars, depth

    def limit(self, size: int) -> None:
        if size > MAX_TEXT:
            raise TemplateFault(f"makes a value larger than {MAX_TEXT} characters or items")
