"""API keys: whose they are, and what their owners may have.

A TOML file, which only its owner should be able to read:

    metrics_keys = ["..."]       # may be left out: see below
    [tenants.acme]
    keys = ["sk-..."]            # or "sha256:..." of a key, in hex
    weight = 2                   # of the machine, beside others; 1 if not said
    requests_per_minute = 600    # these three: no limit if not said
    tokens_per_minute = 100000   # of prompts and answers together
    max_concurrent = 16

What the server tells of everybody, `/metrics` and `/live`, may be read with any key; where there
are `metrics_keys`, with those alone, and they open nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgeline.errors import RidgelineError

_FIELDS = {"keys", "weight", "requests_per_minute", "tokens_per_minute", "max_concurrent"}


@dataclass(frozen=True, slots=True)
class Tenant:
    """name: salts the prefix cache. The limits: None for none."""

    name: str
    weight: float = 1.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrent: int | None = None


class Keys:
    """SHA-256 digests of keys, each with its tenant. Keys themselves are not kept. metrics: the
    digests of those that alone may read metrics; none: any key may.
    """

    def __init__(
        self, digests: Iterable[tuple[bytes, Tenant]] = (), metrics: Iterable[bytes] = ()
    ) -> None:
        self._digests = tuple(digests)
        self._metrics = tuple(metrics)
        self.tenants = {tenant.name: tenant for _, tenant in self._digests}

    def __bool__(self) -> bool:
        return bool(self._digests)

    @staticmethod
    def of(keys: Iterable[str], metrics: Iterable[str] = ()) -> Keys:
        """Keys without a file: one tenant each, numbered, without limits."""
        tenants = [(_digest(key), Tenant(f"key-{i}")) for i, key in enumerate(keys)]
        return Keys(tenants, map(_digest, metrics))

    def with_metrics(self, keys: Iterable[str]) -> Keys:
        """These, and more that may read metrics."""
        return Keys(self._digests, (*self._metrics, *map(_digest, keys)))

    def may_read_metrics(self, key: str | None) -> bool:
        """As for `tenant_of`, the time it takes says nothing of keys."""
        if not self._metrics:
            return not self or self.tenant_of(key) is not None
        given = _digest(key or "")
        found = False
        for digest in self._metrics:
            found |= hmac.compare_digest(digest, given)
        return found and key is not None

    def tenant_of(self, key: str | None) -> Tenant | None:
        """Whose key it is, None if nobody's. The time it takes depends on how many keys there are,
        and on nothing in them: digests are compared, all of them, each in constant time.
        """
        given = _digest(key or "")
        found = None
        for digest, tenant in self._digests:
            if hmac.compare_digest(digest, given):
                found = tenant
        return found if key else None


def read_keys(path: Path) -> Keys:
    """A key file. Raises RidgelineError that says which entry is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RidgelineError(f"--api-keys: {path} cannot be read: {error}") from None
    tenants = content.get("tenants")
    if set(content) - {"metrics_keys"} != {"tenants"} or not isinstance(tenants, dict):
        tenants = None
    if not tenants:
        raise RidgelineError(
            f"--api-keys: {path} must hold tables [tenants.NAME], perhaps metrics_keys before "
            "them, and nothing else"
        )
    metrics: list[bytes] = []
    if "metrics_keys" in content:
        where = f"--api-keys: {path}: metrics_keys"
        metrics = [_stored(where, key) for key in _list_of_keys(where, content["metrics_keys"])]
    found: list[tuple[bytes, Tenant]] = []
    for name, entry in tenants.items():
        where = f"--api-keys: {path}: tenants.{name}"
        found += _entry(where, name, entry)
    digests = [digest for digest, _ in found]
    if len(set(digests)) != len(digests):
        raise RidgelineError(f"--api-keys: {path}: two tenants have the same key")
    return Keys(found, metrics)


def _list_of_keys(where: str, keys: Any) -> list[str]:
    if not isinstance(keys, list) or not keys or not all(isinstance(k, str) for k in keys):
        raise RidgelineError(f"{where}: must be a list of at least one key")
    if any(len(key) < 8 for key in keys):
        raise RidgelineError(f"{where}: a key needs 8 characters at least")
    return keys


def _entry(where: str, name: str, entry: Any) -> list[tuple[bytes, Tenant]]:
    unknown = set(entry) - _FIELDS if isinstance(entry, dict) else {"it"}
    if unknown:
        known = ", ".join(sorted(_FIELDS))
        raise RidgelineError(
            f"{where}: {', '.join(sorted(unknown))}: not known; there are: {known}"
        )
    keys = _list_of_keys(f"{where}.keys", entry.get("keys"))
    for field in _FIELDS - {"keys"}:
        value = entry.get(field, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise RidgelineError(f"{where}.{field}: {value!r} is not a number above 0")
    concurrent = entry.get("max_concurrent")
    tenant = Tenant(
        name,
        weight=float(entry.get("weight", 1)),
        requests_per_minute=entry.get("requests_per_minute"),
        tokens_per_minute=entry.get("tokens_per_minute"),
        max_concurrent=None if concurrent is None else int(concurrent),
    )
    return [(_stored(f"{where}.keys", key), tenant) for key in keys]


def _stored(where: str, key: str) -> bytes:
    if not key.startswith("sha256:"):
        return _digest(key)
    try:
        digest = bytes.fromhex(key.removeprefix("sha256:"))
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise RidgelineError(f"{where}: sha256: must be followed by 64 hexadecimal digits")
    return digest


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
