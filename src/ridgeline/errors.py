"""Every error that Ridgeline raises on purpose.

A message is one line: what is wrong, why, and what to do about it. The class says whose turn it is:
the model's files (`ModelError`), the machine (`CapacityError`), the caller (`RequestError`), the
clock (`Overloaded`), or us (`EngineError`).
"""

from __future__ import annotations


class RidgelineError(Exception):
    """Base of all below: what Ridgeline means to say, and nothing else."""


class ModelError(RidgelineError):
    """A model cannot be found, read, or is unsupported; names the file, field or tensor."""


class CapacityError(RidgelineError):
    """Something will not fit: says the bytes needed, the bytes there, and what would fit."""


class RequestError(RidgelineError):
    """A request is wrong (HTTP 400): names the field and what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field

    def __reduce__(self) -> tuple[type[RequestError], tuple[str, str]]:
        # As it comes, a pool of processes could not read it, and would wait for ever.
        return type(self), (self.field, str(self)[len(self.field) + 2 :])


class Overloaded(RidgelineError):  # noqa: N818 (the field says Overloaded)
    """No room now (HTTP 429 or 503): `retry_after_seconds` says when to come back."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[type[Overloaded], tuple[str, float]]:
        return type(self), (str(self), self.retry_after_seconds)


class EngineError(RidgelineError):
    """A fault of ours that ended one request: NaN logits, a kernel that failed."""
