"""llama.cpp's paths: the answers that all have, in its clients' words, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tiny import tiny_core, within

from ridgeline.model.text.fill import FillMarks
from ridgeline.serve.core.core import Core

PLAIN = {"temperature": 0, "n_predict": 8}
DRAWN = {"temperature": 0.9, "seed": 7, "n_predict": 12, "ignore_eos": True}
# What llama.vim sends of an answer, beside the texts around the cursor.
LLAMA_VIM: dict[str, Any] = {
    "id_slot": 0,
    "n_predict": 6,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/predicted_ms",
        "truncated",
        "tokens_cached",
        "there/is/none",
    ],
}


@pytest.fixture
def core() -> Iterator[Core]:
    core = tiny_core()
    yield core
    core.close()


async def asked(client: httpx.AsyncClient, path: str = "/completion", **body: Any) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def streamed(client: httpx.AsyncClient, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = await client.post(path, json=body | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(one.removeprefix("data: ")) for one in answer.text.split("\n\n") if one]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """But for what the clock and the cache say, and whether it was a stream."""
    passing = ("timings", "tokens_cached", "content", "tokens", "completion_probabilities")
    cut = [{k: v for k, v in each.items() if k not in passing} for each in (one, other)]
    for each in cut:
        each["generation_settings"] = each["generation_settings"] | {"stream": False}
    return cut[0] == cut[1]


def test_an_answer_is_the_one_of_openais_path_streamed_or_not(core: Core) -> None:
    ids = core.prompts.tokenizer.encode("Hello there")

    async def check(client: httpx.AsyncClient) -> None:
        said = {"prompt": "Hello there", "temperature": 0.9, "seed": 7, "ignore_eos": True}
        cuts = {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "max_tokens": 12}
        theirs = (await client.post("/v1/completions", json=said | cuts)).json()
        whole = await asked(client, prompt="Hello there", return_tokens=True, n_probs=2, **DRAWN)
        assert whole["content"] == theirs["choices"][0]["text"]
        assert (whole["tokens_predicted"], whole["tokens_evaluated"]) == (12, len(ids))
        assert (whole["stop"], whole["stop_type"], whole["truncated"]) == (True, "limit", False)
        settings = whole["generation_settings"]
        assert (settings["seed"], settings["top_k"], settings["n_predict"]) == (7, 40, 12)
        assert len(whole["tokens"]) == len(whole["completion_probabilities"]) == 12
        for token, told in zip(whole["tokens"], whole["completion_probabilities"], strict=True):
            assert told["id"] == token
            assert len(told["top_logprobs"]) == 2
            assert told["top_logprobs"][0]["logprob"] >= told["top_logprobs"][1]["logprob"]
        pieces = await streamed(client, "/completions", prompt="Hello there", n_probs=2, **DRAWN)
        assert [piece["stop"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert "".join(piece["content"] for piece in pieces) == whole["content"]
        assert [one for piece in pieces for one in piece["tokens"]] == whole["tokens"]
        told = [one for p in pieces[:-1] for one in p["completion_probabilities"]]
        assert told == whole["completion_probabilities"]
        assert same(pieces[-1], whole)

    within(core, check)


def test_prompts_are_texts_ids_mixed_and_many(core: Core) -> None:
    ids = core.prompts.tokenizer.encode("Hi you")

    async def check(client: httpx.AsyncClient) -> None:
        alone = await asked(client, prompt="Hi you", **PLAIN)
        assert alone["prompt"] == "Hi you"
        for prompt in (ids, [*ids[:-3], "you"], {"prompt_string": "Hi you"}):
            found = await asked(client, prompt=prompt, **PLAIN)
            assert (found["content"], found["tokens_evaluated"]) == (alone["content"], len(ids))
        many = await asked(client, prompt=["z", ids, {"prompt_string": "Hi you"}], **PLAIN)
        assert [one["index"] for one in many] == [0, 1, 2]
        assert [one["content"] for one in many[1:]] == [alone["content"]] * 2
        pieces = await streamed(client, "/completion", prompt=["z", "Hi you"], n_cmpl=2, **DRAWN)
        whole = await asked(client, prompt=["z", "Hi you"], n_cmpl=2, **DRAWN)
        for one in whole:
            mine = [piece for piece in pieces if piece["index"] == one["index"]]
            assert "".join(piece["content"] for piece in mine) == one["content"]
        assert [one["generation_settings"]["seed"] for one in whole] == [7, 8, 7, 8]

    within(core, check)


def test_a_stop_word_is_told_and_left_out(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        whole = await asked(client, prompt="Hi", **DRAWN)
        word = whole["content"][4:6]
        cut = await asked(client, prompt="Hi", stop=["", word], **DRAWN)
        assert cut["content"] == whole["content"][: whole["content"].index(word)]
        assert (cut["stop_type"], cut["stopping_word"]) == ("word", word)

    within(core, check)


def test_answers_keep_to_a_schema_and_to_gbnf(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        schema = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}
        found = await asked(client, prompt="Hi", json_schema=schema, temperature=0)
        assert set(json.loads(found["content"])) <= {1, 2}
        assert found["stop_type"] == "eos"
        grammar = 'root ::= ("yes" | "no") "!"{2}'
        found = await asked(client, prompt="Hi", grammar=grammar, temperature=0)
        assert found["content"] in ("yes!!", "no!!")
        assert found["generation_settings"]["grammar"] == grammar

    within(core, check)


def test_biases_and_samplers_by_their_names(core: Core) -> None:
    encode = core.prompts.tokenizer.encode
    (x,), (y,) = encode("x", add_special=False), encode("y", add_special=False)

    async def check(client: httpx.AsyncClient) -> None:
        for bias in ([[x, 100]], [["x", 100]], {"x": 100}, {str(x): 100}):
            found = await asked(client, prompt="Hi", logit_bias=bias, **PLAIN)
            assert found["content"] == "x" * 8
        found = await asked(
            client, prompt="Hi", logit_bias=[[x, 100], [y, 99], [x, False]], **PLAIN
        )
        assert found["content"] == "y" * 8
        wide = {"prompt": "Hi", **DRAWN, "temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}
        off = await asked(client, prompt="Hi", samplers=[], **DRAWN)
        assert off["content"] == (await asked(client, **wide))["content"]
        some = await asked(client, prompt="Hi", samplers=["temperature", "top-k"], **DRAWN)
        kept = {**wide, "temperature": 0.9, "top_k": 40}
        assert some["content"] == (await asked(client, **kept))["content"]
        drawn = [await asked(client, prompt="Hi", seed=-1, n_predict=4) for _ in range(2)]
        seeds = [one["generation_settings"]["seed"] for one in drawn]
        assert seeds[0] != seeds[1]

    within(core, check)


def test_n_predict_0_reads_the_prompt_into_the_cache_and_cache_prompt_keeps_to_it(
    core: Core,
) -> None:
    prompt = "A prompt that is longer than a few blocks of the cache are, by far. " * 3

    async def check(client: httpx.AsyncClient) -> None:
        read = await asked(client, prompt=prompt, n_predict=0)
        assert (read["content"], read["tokens_predicted"], read["stop_type"]) == ("", 0, "limit")
        pieces = await streamed(client, "/completion", prompt=prompt, n_predict=0)
        assert [piece["stop"] for piece in pieces] == [True]
        cold = await asked(client, prompt=prompt, cache_prompt=False, **PLAIN)
        warm = await asked(client, prompt=prompt, **PLAIN)
        assert cold["tokens_cached"] == 0 < warm["tokens_cached"]
        timings = warm["timings"]
        assert timings["cache_n"] + timings["prompt_n"] == warm["tokens_evaluated"]
        assert timings["predicted_n"] == 8
        assert warm["content"] == cold["content"]

    within(core, check)


def test_a_gap_is_filled_with_other_files_before_it(core: Core) -> None:
    tokenizer = core.prompts.tokenizer
    core.prompts.__dict__["fill_marks"] = FillMarks(1, 2, 3, 4, 5)
    ids = [tokenizer.bos_id or 0] if tokenizer.add_bos else []

    def coded(text: str) -> list[int]:
        return tokenizer.encode(text, add_special=False)

    gap = {"input_prefix": "def f(", "input_suffix": "):", "prompt": "a"}
    ids += [4, *coded("myproject\n"), 5, *coded("b.py\n"), *coded("x = 1"), 5, *coded("filename\n")]
    ids += [1, *coded("def f("), 2, *coded("):"), 3, *coded("a")]
    extra = [{"text": "x = 1", "filename": "b.py", "time": [1, 2]}]

    async def check(client: httpx.AsyncClient) -> None:
        between = await asked(client, prompt=ids, **PLAIN)
        found = await asked(client, "/infill", input_extra=extra, **gap, **PLAIN)
        assert found["content"] == between["content"]
        assert found["tokens_evaluated"] == len(ids)
        pieces = await streamed(client, "/infill", input_extra=extra, **gap, **PLAIN)
        assert "".join(piece["content"] for piece in pieces) == between["content"]
        plain = {"prompt": "def f(", "suffix": "):", "temperature": 0, "max_tokens": 8}
        theirs = (await client.post("/v1/completions", json=plain)).json()["choices"][0]["text"]
        gap["prompt"] = ""
        assert (await asked(client, "/infill", **gap, **PLAIN))["content"] == theirs

    within(core, check)


def test_what_an_editor_sends_is_taken_by_a_lenient_server() -> None:
    core = tiny_core(lenient=True)
    core.prompts.__dict__["fill_marks"] = FillMarks(1, 2, 3)

    async def check(client: httpx.AsyncClient) -> None:
        texts = {"input_prefix": "a\n", "input_suffix": "\nb", "input_extra": [], "prompt": "  "}
        found = await asked(client, "/infill", **texts, **LLAMA_VIM)
        told = set(found.pop("ignored_fields"))
        assert told == {"n_indent", "t_max_prompt_ms", "t_max_predict_ms", "samplers.infill"}
        assert set(found) == set(LLAMA_VIM["response_fields"]) - {"there/is/none"}
        read = {**texts, "n_predict": 0, "samplers": [], "response_fields": [""]}
        assert await asked(client, "/infill", **read) == {}

    within(core, check)
    core.close()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"foo": 1}, "foo"),
        ({"n_indent": 4}, "n_indent"),
        ({"t_max_predict_ms": 500}, "t_max_predict_ms"),
        ({"samplers": ["top_k", "infill"]}, "samplers.infill"),
        ({"samplers": ["top_p", "top_k"]}, "samplers"),
        ({"repeat_penalty": 1.1, "repeat_last_n": -2}, "repeat_last_n"),
        ({"mirostat": 1}, "mirostat"),
        ({"lora": [{"id": 0, "scale": 1}]}, "lora"),
        ({"logit_bias": [[5, True]]}, "logit_bias"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "grammar"),
        ({"n_cmpl": 1000}, "n_cmpl"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, {"prompt_string": "a"}]}, "prompt"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": ["x"]}}, "prompt.multimodal_data"),
        ({"prompt": "a" * 2000}, "prompt"),
    ],
)
def test_what_cannot_be_had_is_a_400_that_names_it(
    core: Core, body: dict[str, Any], field: str
) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/completion", json={"prompt": "a", **body})
        error = answer.json()["error"]
        assert answer.status_code == error["code"] == 400
        assert error["param"] == field
        known = {"repeat_last_n": 64, "repeat_penalty": 1.0, "lora": [], "t_max_predict_ms": 0}
        fine = await client.post("/completion", json={"prompt": "a", "n_predict": 1, **known})
        assert fine.status_code == 200
        gap = await client.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
        assert "no marks" in gap.json()["error"]["message"]

    within(core, check)


def test_props_say_what_is_true(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        props = (await client.get("/props")).json()
        assert props["default_generation_settings"]["n_ctx"] == core.engine.max_context
        assert props["default_generation_settings"]["params"]["top_p"] == 0.95
        assert (props["total_slots"], props["model_alias"]) == (8, "tiny")
        assert props["chat_template"].startswith("{% for m in messages %}")

    within(core, check)


def test_texts_are_cut_in_tokens_as_llama_cpp_tells_it(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = core.prompts.tokenizer
    text = "Hi you!"

    async def check(client: httpx.AsyncClient) -> None:
        ids = (await asked(client, "/tokenize", content=text))["tokens"]
        assert ids == tokenizer.encode(text, add_special=False)
        with_begin = await asked(client, "/tokenize", content=text, add_special=True)
        assert with_begin["tokens"] == tokenizer.encode(text)
        told = (await asked(client, "/tokenize", content=text, with_pieces=True))["tokens"]
        assert [one["id"] for one in told] == ids
        whole = b"".join(
            one["piece"].encode() if isinstance(one["piece"], str) else bytes(one["piece"])
            for one in told
        )
        assert whole.decode().strip() == text
        back = await asked(client, "/detokenize", tokens=ids)
        assert back["content"] == back["prompt"]
        assert back["content"].strip() == text
        monkeypatch.setattr(type(tokenizer), "token_bytes", lambda _, one: b"\xc3")
        half = (await asked(client, "/tokenize", content="a", with_pieces=True))["tokens"]
        assert {tuple(one["piece"]) for one in half} == {(0xC3,)}
        both = await client.post("/tokenize", json={"content": "a", "prompt": "a"})
        assert both.status_code == 400
        assert both.json()["error"]["param"] == "prompt"

    within(core, check)
