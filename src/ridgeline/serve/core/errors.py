"""What becomes of an error on its way out: a status, and words that dialects have bodies for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ridgeline.errors import CapacityError, ModelError, Overloaded, RequestError, RidgelineError

Kind = Literal[
    "invalid_request",
    "authentication",
    "permission",
    "not_found",
    "too_large",
    "rate_limit",
    "overloaded",
    "server",
    "timeout",
]


class HttpError(RidgelineError):
    """An error that only HTTP knows: no such path, no key, a body that is too large."""

    def __init__(self, status: int, kind: Kind, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param


class Unavailable(Overloaded):
    """503: the server is ending, or its engine has stopped."""


class ContextExceeded(RequestError):  # noqa: N818
    """400: the prompt alone fills the context."""


class RateLimited(Overloaded):
    """429: a key's own limit, whatever the engine has room for."""


class StorageFault(RidgelineError):  # noqa: N818
    """507: what was to be kept cannot be written."""


@dataclass(frozen=True, slots=True)
class Fault:
    """param: the field at fault. retry_after: seconds, a whole number, for the header."""

    status: int
    kind: Kind
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        if self.status in (408, 413):
            # What is left of a body that nobody reads must not be taken for the next request.
            found["connection"] = "close"
        return found


# Words that clients look for.
_CODES = {401: "invalid_api_key", 404: "model_not_found", 413: "request_too_large"}


def fault_of(error: Exception) -> Fault:
    """What is ours to blame is told without its insides."""
    if isinstance(error, HttpError):
        code = _CODES.get(error.status)
        return Fault(error.status, error.kind, str(error), code, param=error.param)
    if isinstance(error, RequestError):
        code = "context_length_exceeded" if isinstance(error, ContextExceeded) else None
        return Fault(400, "invalid_request", str(error), code, param=error.field)
    if isinstance(error, Overloaded):
        seconds = max(1, math.ceil(min(error.retry_after_seconds, 86_400.0)))
        if isinstance(error, Unavailable):
            return Fault(503, "overloaded", str(error), "unavailable", retry_after=seconds)
        code = "rate_limit_exceeded" if isinstance(error, RateLimited) else "overloaded"
        return Fault(429, "rate_limit", str(error), code, retry_after=seconds)
    if isinstance(error, StorageFault):
        return Fault(507, "server", str(error), "storage")
    if isinstance(error, CapacityError):
        return Fault(503, "overloaded", str(error), "capacity", retry_after=1)
    if isinstance(error, ModelError):
        return Fault(400, "invalid_request", str(error), "model_error")
    if isinstance(error, RidgelineError):
        return Fault(500, "server", str(error))
    return Fault(500, "server", f"an error of ours: {type(error).__name__}")
