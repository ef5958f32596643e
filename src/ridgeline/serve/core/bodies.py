"""What the bodies of all dialects have in common: fields that are not known are told, not dropped.

Strict, an unknown field is an error that names it. Lenient, it is left out, and the answer says so.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """A JSON object of a request. `populate_by_name` is for fields named after Python's words."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())


def without(body: Any, place: tuple[str | int, ...]) -> None:
    """Takes the field at `place` (a pydantic error's `loc`) out of a JSON value. Parts of the place
    that name a union's member, not a field, are passed over.
    """
    target = body
    for part in place[:-1]:
        is_field = isinstance(target, dict) and part in target
        is_entry = isinstance(target, list) and isinstance(part, int) and part < len(target)
        if is_field or is_entry:
            target = target[part]
    if isinstance(target, dict):
        target.pop(str(place[-1]), None)
