"""The requests of a beam search: each call's are forks of the last call's, which stay till then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from ridgeline.engine.outputs import RequestOutput
from ridgeline.engine.prompts import Tokenized
from ridgeline.engine.request import SamplingParams
from ridgeline.engine.session import Group, Session


class BeamRequests(AbstractContextManager["BeamRequests"]):
    """`beams.Ask` on a session. Leaving it ends what still runs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._groups: list[Group] = []

    def __call__(
        self,
        prompts: Sequence[Tokenized],
        params: Sequence[SamplingParams],
        parents: Sequence[int | None],
    ) -> list[RequestOutput]:
        before, self._groups = self._groups, []
        try:
            for prompt, own, parent in zip(prompts, params, parents, strict=True):
                fork_of = None if parent is None else before[parent]
                group = self._session.submit(
                    prompt, own, arrival=time.monotonic(), streams=False, fork_of=fork_of
                )
                self._groups.append(group)
            while any(group.num_tokens == 0 and not group.done for group in self._groups):
                self._session.step()
        finally:
            self._end(before)
        return [group.output() for group in self._groups]

    def __exit__(self, *_exception: object) -> None:
        self._end(self._groups)

    def _end(self, groups: Sequence[Group]) -> None:
        for group in groups:
            if not group.done:
                self._session.abandon(group)
