"""Lists by the page, as OpenAI's clients ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ridgeline.errors import RequestError

MOST = 10_000


def page_of(
    entries: Sequence[dict[str, Any]],
    query: Mapping[str, str],
    *,
    limit: int = 100,
    order: str | None = None,
    known: Sequence[str] = (),
) -> dict[str, Any]:
    """Entries from `after` on, `limit` at most, as the query says. entries: oldest first; where
    `order` is none, they have theirs and the query may not turn it. known: what else the query may
    say. Raises RequestError naming what it may not.
    """
    allowed = ("after", "limit", *(("order",) if order else ()), *known)
    for name in query:
        if name not in allowed:
            raise RequestError(name[:100], f"is not known here; there are {', '.join(allowed)}")
    asked = query.get("limit", str(limit))
    if not (asked.isascii() and asked.isdecimal() and len(asked) < 9 and 1 <= int(asked) <= MOST):
        raise RequestError("limit", f"must be a whole number from 1 to {MOST}")
    turned = query.get("order", order)
    if turned not in ("asc", "desc", order):
        raise RequestError("order", "must be asc or desc")
    listed = list(reversed(entries) if turned == "desc" else entries)
    after = query.get("after")
    ids = [entry["id"] for entry in listed]
    if after is not None and after not in ids:
        raise RequestError("after", "is none of the list")
    start = 0 if after is None else ids.index(after) + 1
    found = listed[start : start + int(asked)]
    return {
        "object": "list",
        "data": found,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
        "has_more": start + len(found) < len(listed),
    }
