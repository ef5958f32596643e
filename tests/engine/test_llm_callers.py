"""Whoever calls the Python API, and with what: threads, forks, pools of processes, callers that
close too early or ask in the middle, numbers of NumPy's, and what is no prompt at all.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline import (
    LLM,
    AsyncEngine,
    BeamSearchParams,
    CapacityError,
    EngineError,
    ModelError,
    Overloaded,
    RequestError,
    SamplingParams,
)
from ridgeline.config import read_settings

TINY = Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf"
LONG = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
FEW = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(TINY, max_rows=4)


def text_of(llm: LLM, prompt: Any, params: SamplingParams = FEW) -> str:
    return llm.generate(prompt, params)[0].outputs[0].text


def test_threads_take_turns_and_each_has_its_own_answer(llm: LLM) -> None:
    """Two of them in one step ended the process."""
    prompts = [f"Hello there {'x' * i}" for i in range(6)]
    alone = [text_of(llm, prompt, LONG) for prompt in prompts]
    found: dict[int, list[str]] = {}

    def ask(index: int) -> None:
        found[index] = [
            text_of(llm, prompts[index], LONG)
            if (index + turn) % 2
            else "".join(piece.text for piece in llm.stream(prompts[index], LONG))
            for turn in range(6)
        ]

    threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {index: [text] * 6 for index, text in enumerate(alone)}
    assert not llm._engine.has_work


def test_a_stream_dropped_while_another_thread_is_at_the_engine_frees_its_blocks(llm: LLM) -> None:
    stream = llm.stream("Hello there", LONG)
    next(stream)
    with llm.turns.turn():
        other = threading.Thread(target=stream.close)
        other.start()
        other.join(10)
        assert not other.is_alive()
        assert llm._engine.has_work
    text_of(llm, "a")
    assert not llm._engine.has_work


def test_who_is_called_in_the_middle_of_a_step_cannot_ask(llm: LLM) -> None:
    with llm.turns.turn(), pytest.raises(EngineError, match="at work"):
        text_of(llm, "a")
    assert text_of(llm, "a")


def test_the_child_of_a_fork_is_told_to_load_its_own(llm: LLM) -> None:
    """It had empty answers."""
    before = text_of(llm, "Hello there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            text_of(llm, "Hello there")
        except EngineError as error:
            status = 0 if "load one in each process" in str(error) else 2
        llm.close()
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert text_of(llm, "Hello there") == before


@pytest.mark.parametrize(
    "error", [RequestError("n", "is odd: very"), Overloaded("full", 1.5), ModelError("gone")]
)
def test_errors_go_from_process_to_process(error: Exception) -> None:
    """A pool could not read them, and waited for ever."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_results_and_parameters_are_pickled_and_a_model_is_not(llm: LLM) -> None:
    (output,) = llm.generate("Hello", SamplingParams(max_tokens=3, logprobs=2))
    assert pickle.loads(pickle.dumps(output)) == output
    assert pickle.loads(pickle.dumps(LONG)) == LONG
    with pytest.raises(TypeError, match="in each process"):
        pickle.dumps(llm)


def test_a_closed_model_gives_its_memory_back_and_says_that_it_is_closed() -> None:
    with LLM(TINY, max_rows=1) as model:
        assert "task='generate'" in repr(model)
        stream = model.stream("Hello there", LONG)
        next(stream)
        gone = weakref.ref(model.assembled.executor)
    assert gone() is None
    assert "closed" in repr(model)
    model.close()
    uses: list[Callable[[], object]] = [
        lambda: model.generate("a"),
        lambda: model.chat([{"role": "user", "content": "a"}]),
        lambda: model.stream("a"),
        lambda: model.embed("a"),
        lambda: model.max_context,
        lambda: model.tokenizer,
        lambda: AsyncEngine(model),
        stream.__next__,
    ]
    for use in uses:
        with pytest.raises(EngineError, match="closed"):
            use()
    with pytest.raises(AttributeError, match="no attribute 'sesion'"):
        model.sesion  # type: ignore[attr-defined]  # noqa: B018
    stream.close()


def test_an_engine_has_its_llm_to_itself_until_it_is_closed() -> None:
    """Two threads in one step end the process."""
    with LLM(TINY, max_rows=2) as model:
        expected = text_of(model, "Hello there")
        stream = model.stream("Hello there", LONG)
        next(stream)
        engine = AsyncEngine(model)
        uses: list[Callable[[], object]] = [
            lambda: model.generate("a"),
            lambda: model.stream("a"),
            lambda: model.beam_search("a", BeamSearchParams(beam_width=2, max_tokens=2)),
            lambda: AsyncEngine(model),
            stream.__next__,
            model.close,
        ]
        for use in uses:
            with pytest.raises(EngineError, match="is an AsyncEngine's; ask that, or close it"):
                use()
        stream.close()
        output = asyncio.run(engine.generate("Hello there", FEW))
        assert output.outputs[0].text == expected
        engine.close()
        assert text_of(model, "Hello there") == expected
        asyncio.run(AsyncEngine(model).generate("Hello there", FEW))  # dropped: it is free again
        gc.collect()
        assert text_of(model, "Hello there") == expected


def test_more_threads_than_could_help_are_refused_before_they_start() -> None:
    cores = len(os.sched_getaffinity(0))
    for settings in (None, replace(read_settings(), threads=1000)):
        options = {"threads": 1000} if settings is None else {}
        with pytest.raises(RequestError, match=f"threads: 1000 on the {cores} cores"):
            LLM(TINY, settings=settings, **options)
    LLM(TINY, threads=cores + 1).close()


def test_a_stream_that_was_closed_has_no_more_pieces(llm: LLM) -> None:
    """It waited for ever."""
    stream = llm.stream("Hello there", LONG)
    next(stream)
    stream.close()
    assert list(stream) == []
    stream.close()


def test_ids_of_an_array_are_a_prompt(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Hello there")
    expected = text_of(llm, ids)
    for prompt in (np.array(ids), list(np.array(ids)), [np.array(ids)], tuple(ids)):
        assert text_of(llm, prompt) == expected
    assert text_of(llm, {"prompt_token_ids": np.array(ids, np.uint16)}) == expected
    both = llm.generate(np.array([ids, ids]), FEW)
    assert [output.outputs[0].text for output in both] == [expected, expected]


@pytest.mark.parametrize(
    "prompt",
    [b"abc", [b"abc"], bytearray(b"abc"), [True, False], [1.0], np.array([1.5]), None, [None],
     {"a"}, ["a", 1], (p for p in "ab"), {"prompt": b"abc"}, {"prompt_token_ids": b"abc"}],
)  # fmt: skip
def test_what_is_no_prompt_is_refused(llm: LLM, prompt: Any) -> None:
    """Bytes were read as token ids."""
    with pytest.raises(RequestError, match="prompt"):
        llm.generate(prompt, FEW)


def test_numbers_of_an_array_are_parameters() -> None:
    found = SamplingParams(
        n=np.int8(2), temperature=np.float32(0.5), top_k=np.int64(5), max_tokens=np.int32(3),
        seed=np.uint64(2**63), logprobs=np.int64(1), stop_token_ids=list(np.array([3])),
        logit_bias={np.int64(4): np.float32(1)},
    )  # type: ignore[arg-type]  # fmt: skip
    assert found == SamplingParams(
        n=2, temperature=0.5, top_k=5, max_tokens=3, seed=2**63, logprobs=1, stop_token_ids=[3],
        logit_bias={4: 1},
    )  # fmt: skip
    assert type(found.n) is int
    assert type(found.temperature) is float
    for field, value in {"n": np.bool_(True), "top_k": np.float32(1), "temperature": "1"}.items():
        with pytest.raises(RequestError, match=field):
            SamplingParams(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["stop", "stop_regex", "dry_sequence_breakers"])
def test_half_of_a_character_is_no_text_to_stop_at(field: str) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        SamplingParams(**{field: ["é\ud800"]})  # type: ignore[arg-type]


def test_other_arguments_of_a_wrong_kind_are_named(llm: LLM, tmp_path: Path) -> None:
    odd: Any = {"max_tokens": 1}
    with pytest.raises(RequestError, match="sampling_params"):
        llm.stream("a", odd)
    with pytest.raises(RequestError, match="BeamSearchParams"):
        llm.beam_search("a", odd)
    with pytest.raises(RequestError, match="prompt"):
        llm.beam_search(b"a", BeamSearchParams(beam_width=2, max_tokens=2))  # type: ignore[arg-type]
    conversation = [{"role": "user", "content": "a"}]
    for tools in ("x", [1]):
        with pytest.raises(RequestError, match="tools"):
            llm.chat(conversation, FEW, tools=tools)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="chat_template_kwargs: 'tools'"):
        llm.chat(conversation, FEW, chat_template_kwargs={"tools": []})
    for model in (3, None, b"smollm2"):
        with pytest.raises(ModelError, match="a name or a path"):
            LLM(model)  # type: ignore[arg-type]
    for settings in (3, "x", {"threads": 1}):
        with pytest.raises(RequestError, match="settings: is a Settings, not"):
            LLM(TINY, settings=settings)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="there is no file"):
        LLM(Path("smollm2"))
    options: list[tuple[str, object]] = [
        ("context_length", "x"), ("max_rows", 1.5), ("max_rows", None), ("threads", True),
        ("memory", b""), ("record", 3), ("itl_steps", "x"), ("policy", "x"), ("kv_format", 3),
    ]  # fmt: skip
    for name, value in options:
        with pytest.raises(RequestError, match=name):
            LLM(TINY, **{name: value})
    with pytest.raises(CapacityError, match="max_rows"):
        LLM(TINY, max_rows=10**9)
    LLM(TINY, record=str(tmp_path / "record.jsonl")).close()
    assert (tmp_path / "record.jsonl").exists()
