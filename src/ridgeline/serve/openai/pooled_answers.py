"""Embeddings, ranks, scores and classes: a body that a path was sent becomes the answer's JSON.

Over HTTP and as a line of a batch alike: as OpenAI's clients speak, and Jina's and vLLM's.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from ridgeline.engine.pooled import Floats, normalized, pair, probabilities, scores
from ridgeline.errors import RequestError
from ridgeline.model.task import Task
from ridgeline.serve.core.bodies import Body
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.pooled_texts import PoolDesk, Text

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


class PoolingBody(EmbeddingsBody):
    """POST /pooling, vLLM's: what the model pools of each text, a vector or the classes'
    probabilities. task: which; the model has one.
    """

    task: Literal["embed", "classify"] | None = None


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


@dataclass(frozen=True, slots=True)
class Pooling:
    """What an answer is made with. rows: what the model gives for texts, once they are let in."""

    core: Core
    desk: PoolDesk
    rows: Callable[[Sequence[Sequence[int]]], Awaitable[Floats]]


# The prefix of the answer's id, the tokens that it took, and its fields.
Answer = tuple[str, int, dict[str, Any]]


async def _embeddings(pooling: Pooling, body: EmbeddingsBody) -> Answer:
    most = body.truncate_prompt_tokens
    texts = await pooling.desk.token_ids(texts_of(body.input), "input", most)
    width = pooling.core.llm.width
    if body.dimensions not in (None, width):
        raise RequestError("dimensions", f"this model's vectors have {width}; none are cut")
    rows = await pooling.rows(texts)
    if body.normalize:
        rows = normalized(rows)
    data = [
        {"object": "embedding", "index": i, "embedding": written(row, body.encoding_format)}
        for i, row in enumerate(rows)
    ]
    return "embd-", sum(map(len, texts)), {"data": data}


async def _classify(pooling: Pooling, body: ClassifyBody) -> Answer:
    most = body.truncate_prompt_tokens
    texts = await pooling.desk.token_ids(texts_of(body.input), "input", most)
    labels = pooling.core.llm.assembled.purpose.labels
    found = probabilities(await pooling.rows(texts))
    data = [
        {
            "index": i,
            "label": labels[int(np.argmax(row))],
            "probs": row.tolist(),
            "num_classes": len(labels),
        }
        for i, row in enumerate(found)
    ]
    return "classify-", sum(map(len, texts)), {"data": data}


async def _pool(pooling: Pooling, body: PoolingBody) -> Answer:
    if body.task not in (None, pooling.core.llm.task):
        raise RequestError("task", f"this model is there to {pooling.core.llm.task}")
    if pooling.core.llm.task == "embed":
        _, tokens, fields = await _embeddings(pooling, body)
        found = [one["embedding"] for one in fields["data"]]
    else:
        if body.dimensions is not None or "normalize" in body.model_fields_set:
            raise RequestError("dimensions", "and normalize are of vectors, which this has not")
        texts = await pooling.desk.token_ids(
            texts_of(body.input), "input", body.truncate_prompt_tokens
        )
        tokens = sum(map(len, texts))
        rows = probabilities(await pooling.rows(texts))
        found = [written(row, body.encoding_format) for row in rows]
    data = [{"object": "pooling", "index": i, "data": one} for i, one in enumerate(found)]
    return "pool-", tokens, {"data": data}


async def _rerank(pooling: Pooling, body: RerankBody) -> Answer:
    documents: list[Text] = [d if isinstance(d, str) else d.text for d in body.documents]
    queries: list[Text] = [body.query] * len(documents)
    found, tokens = await _scored(pooling, body, queries, documents)
    best = sorted(range(len(found)), key=lambda i: (-found[i], i))[: body.top_n]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": found[i]} for i in best]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    return "rerank-", tokens, {"results": results}


async def _score(pooling: Pooling, body: ScoreBody) -> Answer:
    firsts, seconds = texts_of(body.text_1), texts_of(body.text_2)
    if len(firsts) == 1:
        firsts = firsts * len(seconds)
    if len(firsts) != len(seconds):
        raise RequestError(
            "text_2", f"{len(firsts)} and {len(seconds)} texts: one with many, or as many"
        )
    found, tokens = await _scored(pooling, body, firsts, seconds)
    data = [{"index": i, "object": "score", "score": one} for i, one in enumerate(found)]
    return "score-", tokens, {"data": data}


async def _scored(
    pooling: Pooling, body: TextsBody, firsts: list[Text], seconds: list[Text]
) -> tuple[list[float], int]:
    """How well each of `firsts` goes with its own of `seconds`, and the tokens that took."""
    names = ("query", "documents") if isinstance(body, RerankBody) else ("text_1", "text_2")
    once = list(dict.fromkeys(firsts))
    desk, most = pooling.desk, body.truncate_prompt_tokens
    if pooling.core.llm.task == "embed":
        heads = await desk.token_ids(once, names[0], most)
        tails = await desk.token_ids(seconds, names[1], most)
        vectors = normalized(await pooling.rows([*heads, *tails]))
        places = [once.index(text) for text in firsts]
        left, right = vectors[: len(once)][places], vectors[len(once) :]
        return scores(left, right), sum(map(len, [*heads, *tails]))
    heads = await desk.token_ids(once, names[0])
    tails = await desk.token_ids(seconds, names[1])
    ids = [pair(heads[once.index(a)], b) for a, b in zip(firsts, tails, strict=True)]
    pairs = await desk.token_ids(ids, names[1], most)
    found = probabilities(await pooling.rows(pairs))[:, -1]
    return [float(one) for one in found], sum(map(len, pairs))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """body: what is asked; answer: what comes of it; tasks: of models that have it."""

    body: type[TextsBody]
    answer: Callable[[Pooling, Any], Awaitable[Answer]]
    tasks: tuple[Task, ...] = ("embed", "classify")


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/embeddings": Endpoint(EmbeddingsBody, _embeddings, ("embed",)),
    "/classify": Endpoint(ClassifyBody, _classify, ("classify",)),
    "/pooling": Endpoint(PoolingBody, _pool),
    "/v1/rerank": Endpoint(RerankBody, _rerank),
    "/v1/score": Endpoint(ScoreBody, _score),
}


async def answered(pooling: Pooling, path: str, body: TextsBody) -> dict[str, Any]:
    """The answer of a path to a body of its kind, which the model's task has."""
    prefix, tokens, fields = await ENDPOINTS[path].answer(pooling, body)
    pooling.core.count_pooled(path.rpartition("/")[2])
    return {
        "id": pooling.core.new_id(prefix),
        "object": "list",
        "created": int(time.time()),
        "model": pooling.core.model,
        **fields,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


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
