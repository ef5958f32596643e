"""Images in prompts, as the scheduler and the prefix cache see them: none is cut, none mistaken.

The null executor's token is a hash of the whole prefix with what is in its images, and a step that
ends within an image is an error there.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from ridgeline.backends.null.executor import NullExecutor, null_token
from ridgeline.engine.engine import Engine
from ridgeline.engine.request import Request
from ridgeline.errors import RequestError
from ridgeline.step import Image, RowSampling

VOCAB = 50
PLACEHOLDER = 49


def engine(num_blocks: int, max_rows: int, budget: int) -> Engine:
    executor = NullExecutor(
        vocab_size=VOCAB, num_blocks=num_blocks, max_rows=max_rows, block_tokens=4
    )
    return Engine(executor, max_context=200, max_tokens_per_step=budget)


def image(first: int, count: int, content: str) -> Image:
    return Image(first, count, np.zeros((count, 1), np.float32), content.encode())


def request(name: str, ids: list[int], images: tuple[Image, ...], answer: int) -> Request:
    return Request(
        id=name,
        token_ids=list(ids),
        num_prompt=len(ids),
        max_tokens=answer,
        sampling=RowSampling(),
        stop_token_ids=frozenset(),
        images=images,
    )


def expected(ids: list[int], images: tuple[Image, ...], count: int) -> list[int]:
    """By hand: each image's tokens are numbers that no text has, told by its content."""
    tokens = list(ids)
    for each in images:
        digest = hashlib.blake2b(each.name, digest_size=4).digest()
        first = VOCAB + int.from_bytes(digest, "little")
        tokens[each.first : each.end] = range(first, first + each.count)
    start = len(tokens)
    for _ in range(count):
        tokens.append(null_token(tokens, VOCAB))
    return tokens[start:]


def run(running: Engine) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for _ in range(10_000):
        if not running.has_work:
            return found
        for event in running.step():
            assert event.error is None, event.error
            if event.token_id is not None:
                found.setdefault(event.request_id, []).append(event.token_id)
        running.state.check_invariants()
    raise AssertionError("no progress")


@pytest.mark.parametrize("seed", range(20))
def test_images_are_whole_and_themselves(seed: int) -> None:
    """Few blocks and small steps: chunks, preemptions and hits within images happen, unseen."""
    rng = random.Random(seed)
    max_rows = rng.choice([1, 3, 6])
    running = engine(rng.choice([20, 30, 60]), max_rows, rng.choice([16, 20, 33]))
    text = [rng.randrange(PLACEHOLDER) for _ in range(12)]
    wanted = {}
    for index in range(20):
        ids, images = text[: rng.randrange(1, 12)], []
        for _ in range(rng.randrange(3)):
            count = rng.randrange(1, 10)
            images.append(image(len(ids), count, rng.choice("abc")))
            ids = [*ids, *[PLACEHOLDER] * count, *text[: rng.randrange(3)]]
        answer = rng.randrange(1, 8)
        name = f"r{index}"
        wanted[name] = expected(ids, tuple(images), answer)
        running.submit(request(name, ids, tuple(images), answer))
    assert run(running) == wanted


def test_the_prefix_cache_knows_images_apart() -> None:
    running = engine(100, 2, 40)
    ids = [1, 2, *[PLACEHOLDER] * 10, 3, 4]
    hits = {}
    for name, content in (("first", "a"), ("same", "a"), ("other", "b")):
        asked = request(name, ids, (image(2, 10, content),), 3)
        running.submit(asked)
        assert run(running)[name] == expected(ids, asked.images, 3)
        hits[name] = asked.num_cached
    # Twelve of fourteen tokens are whole blocks; the other image differs in the first of them.
    assert hits == {"first": 0, "same": 12, "other": 0}


def test_a_hit_may_end_within_an_image() -> None:
    running = engine(100, 2, 40)
    images = (image(2, 11, "a"),)
    for name, rest in (("first", [3]), ("second", [4])):
        ids = [1, 2, *[PLACEHOLDER] * 11, *rest]
        asked = request(name, ids, images, 3)
        running.submit(asked)
        assert run(running)[name] == expected(ids, images, 3)
    assert asked.num_cached == 12


def test_what_could_never_run_is_refused() -> None:
    running = engine(100, 4, 16)
    ids = [PLACEHOLDER] * 14
    with pytest.raises(RequestError, match="one has 14 tokens"):
        running.submit(request("large", ids, (image(0, 14, "a"),), 1))
    running.submit(request("fits", ids[:13], (image(0, 13, "a"),), 1))
    assert len(run(running)["fits"]) == 1
