"""The page's files, as they lie in the package, under a policy that lets nothing else in."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import HttpError

KINDS = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "chat.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def router(_core: Core) -> APIRouter:
    routes = APIRouter(tags=["page"], include_in_schema=False)
    folder = files("ridgeline.serve.page")
    contents = {name: folder.joinpath(name).read_bytes() for name in KINDS}

    def sent(name: str) -> Response:
        return Response(contents[name], headers=HEADERS, media_type=KINDS[name])

    # Clients of Ollama ask by HEAD whether somebody is there.
    @routes.api_route("/", methods=["GET", "HEAD"])
    async def index() -> Response:
        return sent("index.html")

    @routes.get("/page/{name}")
    async def file(name: str) -> Response:
        if name not in KINDS:
            raise HttpError(404, "not_found", f"there is no {name[:100]!r} here")
        return sent(name)

    return routes
