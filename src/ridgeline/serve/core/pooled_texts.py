"""Texts of requests become rows of numbers: read, checked, let in, computed. For all dialects."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Request

from ridgeline.engine.pooled import Floats, truncated
from ridgeline.errors import RequestError
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.http import while_there

# As many as OpenAI takes.
MAX_TEXTS = 2048

Text = str | Sequence[int]


class PoolDesk:
    """What all dialects of a server do with texts alike."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def token_ids(
        self, texts: Sequence[Text], field: str, most: int | None = None, *, cut: bool = False
    ) -> list[list[int]]:
        """Of each text. most: a longer one loses its end; cut: down to what the model holds. Raises
        RequestError naming the text that is empty, too long, or has ids that are not there.
        """
        if not texts:
            raise RequestError(field, "is empty; at least one text is needed")
        if len(texts) > MAX_TEXTS:
            raise RequestError(field, f"{len(texts)} texts; {MAX_TEXTS} are allowed")
        prompts, room = self._core.prompts, self._core.pool().max_context
        longest = min(room, most or room) if cut or most is not None else None

        def read() -> list[list[int]]:
            found = []
            for number, text in enumerate(texts):
                where = field if len(texts) == 1 else f"{field}[{number}]"
                try:
                    ids = prompts.tokenize(text if isinstance(text, str) else list(text)).token_ids
                except RequestError as error:
                    raise RequestError(where, str(error).removeprefix("prompt: ")) from None
                ids = ids if longest is None else truncated(ids, longest)
                if not 1 <= len(ids) <= room:
                    raise RequestError(where, f"has {len(ids)} tokens; 1 to {room} are possible")
                found.append(ids)
            return found

        return await asyncio.to_thread(read)

    async def rows(
        self,
        tenant: str,
        texts: Sequence[Sequence[int]],
        *,
        request: Request | None = None,
        late: bool = False,
    ) -> Floats:
        """What the model gives for each. Raises as the front door does. request: whose client may
        go away. late: after everybody else's.
        """
        num_tokens = sum(map(len, texts))
        entry = self._core.door.enter(tenant, num_tokens)
        try:
            found = self._core.pool().rows(texts, late=late)
            return await (found if request is None else while_there(request, found))
        finally:
            self._core.door.leave(entry, num_tokens)
