"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from typing import Any

from ridgeline.serve.core.errors import Fault

_KINDS = {
    "invalid_request": "invalid_request_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "too_large": "invalid_request_error",
    "rate_limit": "rate_limit_error",
    "overloaded": "server_error",
    "timeout": "timeout_error",
    "server": "server_error",
}


def error_body(fault: Fault) -> dict[str, Any]:
    return {
        "error": {
            "message": fault.message,
            "type": _KINDS[fault.kind],
            "param": fault.param,
            "code": fault.code,
        }
    }
