"""Where models come from: what a MODEL argument means, and how it becomes a path on this machine.

`resolve` of a model that is already here costs a few milliseconds: it reads one manifest and
compares sizes and times. Everything that downloads is imported when it is needed.
"""

from __future__ import annotations

from ridgeline.model.weights.sources.reference import FORMS, Reference, cache_key, parse_reference
from ridgeline.model.weights.sources.resolve import pull, resolve
from ridgeline.model.weights.sources.transfer import Progress, silent

__all__ = [
    "FORMS",
    "Progress",
    "Reference",
    "cache_key",
    "parse_reference",
    "pull",
    "resolve",
    "silent",
]
