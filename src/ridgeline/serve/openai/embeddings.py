"""POST /v1/embeddings as OpenAI's clients speak; /v1/rerank, /v1/score and /classify as Jina's and
vLLM's do.
"""

from __future__ import annotations

import base64
import time
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from ridgeline.engine.pooled import normalized, pair, probabilities, scores
from ridgeline.errors import RequestError
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.http import documented, key_of, read_body, route_of
from ridgeline.serve.core.pooled_texts import PoolDesk, Text
from ridgeline.serve.openai.errors import error_body

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class TextsBody(Body):
    model: str | None = None
    truncate_prompt_tokens: Count | None = None
    user: str | None = None


class EmbeddingsBody(TextsBody):
    """POST /v1/embeddings. normalize: vectors of length 1."""

    input: str | list[str] | list[TokenId] | list[list[TokenId]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None
    normalize: bool = True


class ClassifyBody(TextsBody):
    """POST /classify"""

    input: str | list[str] | list[TokenId] | list[list[TokenId]]


class Document(Body):
    text: str


class RerankBody(TextsBody):
    """POST /v1/rerank: the documents, best first."""

    query: str
    documents: list[str | Document]
    top_n: Count | None = None
    return_documents: bool = True


class ScoreBody(TextsBody):
    """POST /v1/score: one text with many, or each with its own."""

    text_1: str | list[str]
    text_2: str | list[str]


class Listed(BaseModel):
    """What the answers have in common."""

    model: str
    usage: dict[str, int]
    data: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    ignored_fields: list[str] = []


def router(core: Core) -> APIRouter:
    routes = APIRouter(route_class=route_of(error_body), tags=["openai"])
    desk = PoolDesk(core)

    async def scored(
        request: Request, tenant: str, body: TextsBody, firsts: list[Text], seconds: list[Text]
    ) -> tuple[list[float], int]:
        """How well each of `firsts` goes with its own of `seconds`, and the tokens that took."""
        names = ("query", "documents") if isinstance(body, RerankBody) else ("text_1", "text_2")
        once = list(dict.fromkeys(firsts))
        most = body.truncate_prompt_tokens
        if core.llm.task == "embed":
            heads = await desk.token_ids(once, names[0], most)
            tails = await desk.token_ids(seconds, names[1], most)
            vectors = normalized(await desk.rows(request, tenant, [*heads, *tails]))
            places = [once.index(text) for text in firsts]
            left, right = vectors[: len(once)][places], vectors[len(once) :]
            return scores(left, right), sum(map(len, [*heads, *tails]))
        heads = await desk.token_ids(once, names[0])
        tails = await desk.token_ids(seconds, names[1])
        ids = [pair(heads[once.index(a)], b) for a, b in zip(firsts, tails, strict=True)]
        pairs = await desk.token_ids(ids, names[1], most)
        found = probabilities(await desk.rows(request, tenant, pairs))[:, -1]
        return [float(one) for one in found], sum(map(len, pairs))

    def told(prefix: str, tokens: int, ignored: list[str], **fields: Any) -> Response:
        found_id = core.new_id(prefix)
        answer: dict[str, Any] = {
            "id": found_id,
            "object": "list",
            "created": int(time.time()),
            "model": core.model,
            **fields,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        if ignored:
            answer["ignored_fields"] = ignored
        return JSONResponse(answer, headers={"x-request-id": found_id})

    async def embeddings(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, EmbeddingsBody)
        core.check_model(body.model)
        texts = await desk.token_ids(texts_of(body.input), "input", body.truncate_prompt_tokens)
        width = core.llm.width
        if body.dimensions not in (None, width):
            raise RequestError("dimensions", f"this model's vectors have {width}; none are cut")
        rows = await desk.rows(request, tenant, texts)
        if body.normalize:
            rows = normalized(rows)
        data = [
            {"object": "embedding", "index": i, "embedding": written(row, body.encoding_format)}
            for i, row in enumerate(rows)
        ]
        return told("embd-", sum(map(len, texts)), ignored, data=data)

    async def classify(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, ClassifyBody)
        core.check_model(body.model)
        texts = await desk.token_ids(texts_of(body.input), "input", body.truncate_prompt_tokens)
        labels = core.llm.assembled.purpose.labels
        found = probabilities(await desk.rows(request, tenant, texts))
        data = [
            {
                "index": i,
                "label": labels[int(np.argmax(row))],
                "probs": row.tolist(),
                "num_classes": len(labels),
            }
            for i, row in enumerate(found)
        ]
        return told("classify-", sum(map(len, texts)), ignored, data=data)

    async def rerank(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, RerankBody)
        core.check_model(body.model)
        documents: list[Text] = [d if isinstance(d, str) else d.text for d in body.documents]
        queries: list[Text] = [body.query] * len(documents)
        found, tokens = await scored(request, tenant, body, queries, documents)
        best = sorted(range(len(found)), key=lambda i: (-found[i], i))[: body.top_n]
        results: list[dict[str, Any]] = [{"index": i, "relevance_score": found[i]} for i in best]
        if body.return_documents:
            for result in results:
                result["document"] = {"text": documents[result["index"]]}
        return told("rerank-", tokens, ignored, results=results)

    async def score(request: Request) -> Response:
        tenant = core.tenant(key_of(request))
        body, ignored = await read_body(core, request, ScoreBody)
        core.check_model(body.model)
        firsts, seconds = texts_of(body.text_1), texts_of(body.text_2)
        if len(firsts) == 1:
            firsts = firsts * len(seconds)
        if len(firsts) != len(seconds):
            raise RequestError(
                "text_2", f"{len(firsts)} and {len(seconds)} texts: one with many, or as many"
            )
        found, tokens = await scored(request, tenant, body, firsts, seconds)
        data = [{"index": i, "object": "score", "score": one} for i, one in enumerate(found)]
        return told("score-", tokens, ignored, data=data)

    for path, kind, call in (
        ("/v1/embeddings", EmbeddingsBody, embeddings),
        ("/classify", ClassifyBody, classify),
        ("/v1/rerank", RerankBody, rerank),
        ("/v1/score", ScoreBody, score),
    ):
        if {"/v1/embeddings": "embed", "/classify": "classify"}.get(path) in (None, core.llm.task):
            routes.post(path, openapi_extra=documented(kind, Listed))(call)
    return routes


def texts_of(given: Any) -> list[Text]:
    """One text or several, as text or token ids."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    return list(given)


def written(row: np.ndarray[Any, np.dtype[np.float32]], form: str) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    values: list[float] = row.tolist()
    return values
