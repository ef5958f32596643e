"""Reasoning that a client keeps for us and does not read: text in, an opaque text out, and back.

It is written in another alphabet, not enciphered: nothing in it is secret from whoever was
answered. A conversation of which the server keeps nothing goes on from the same tokens by it.
"""

from __future__ import annotations

import base64
import binascii

_MARK = "ridgeline1."


def seal(text: str) -> str:
    return _MARK + base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode()


def unseal(sealed: str) -> str | None:
    """None: another server's, or damaged."""
    if not sealed.startswith(_MARK):
        return None
    try:
        data = base64.b64decode(sealed.removeprefix(_MARK), b"-_", validate=True)
        return data.decode()
    except (binascii.Error, ValueError):
        return None
