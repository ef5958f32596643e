"""SGLang's way of /generate beside ours, and the small paths of SGLang and vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from tiny import chunks_of, tiny_core, within

from ridgeline.serve.core.core import Core

DRAWN = {"temperature": 0.9, "sampling_seed": 7, "max_new_tokens": 12, "ignore_eos": True}


@pytest.fixture
def core() -> Iterator[Core]:
    core = tiny_core()
    yield core
    core.close()


async def generated(client: httpx.AsyncClient, **body: Any) -> Any:
    answer = await client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_one_path_answers_in_both_ways_and_alike(core: Core) -> None:
    ids = core.prompts.tokenizer.encode("Hello")

    async def check(client: httpx.AsyncClient) -> None:
        sampling = {"temperature": 0.9, "seed": 7, "max_tokens": 12, "ignore_eos": True}
        ours = (await generated(client, token_ids=ids, **sampling))["choices"][0]
        asked = {"sampling_params": DRAWN, "return_logprob": True, "top_logprobs_num": 2}
        asked["return_text_in_logprobs"] = True
        whole = await generated(client, text="Hello", **asked)
        assert (whole["text"], whole["output_ids"]) == (ours["text"], ours["token_ids"])
        info = whole["meta_info"]
        assert info["finish_reason"] == {"type": "length", "length": 12}
        assert (info["prompt_tokens"], info["completion_tokens"]) == (len(ids), 12)
        told = info["output_token_logprobs"]
        assert [entry[1] for entry in told] == whole["output_ids"]
        assert all(entry[0] < 0 and isinstance(entry[2], str) for entry in told)
        for top in info["output_top_logprobs"]:
            assert len(top) == 2
            assert top[0][0] >= top[1][0]
        assert (await generated(client, input_ids=ids, **asked))["text"] == whole["text"]
        answer = await client.post("/generate", json={"text": "Hello", **asked, "stream": True})
        pieces = chunks_of(answer.text)
        texts = [piece["text"] for piece in pieces]
        assert all(b.startswith(a) for a, b in pairwise(texts))
        assert pieces[0]["meta_info"]["finish_reason"] is None
        assert pieces[0]["meta_info"]["prompt_tokens"] == len(ids)
        end = pieces[-1]
        passing = ("e2e_latency", "id", "cached_tokens")
        for one in (end, whole):
            for name in passing:
                one["meta_info"].pop(name)
        assert end.pop("index") == 0
        assert end == whole
        both = await client.post("/generate", json={"text": "Hello", "token_ids": ids})
        assert both.status_code == 400
        assert both.json()["error"]["param"] == "token_ids"

    within(core, check)


def test_many_prompts_have_what_is_said_of_each(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        params = [DRAWN | {"n": 2}, {"temperature": 0, "max_new_tokens": 3, "ignore_eos": True}]
        body = {"text": ["Hi", "z"], "sampling_params": params, "rid": ["a", "b"]}
        found = await generated(client, **body, return_logprob=[False, True])
        assert [one["meta_info"]["id"] for one in found] == ["a", "a", "b"]
        assert [one["meta_info"]["completion_tokens"] for one in found] == [12, 12, 3]
        assert ["output_token_logprobs" in one["meta_info"] for one in found] == [
            False,
            False,
            True,
        ]
        alone = await generated(client, text="Hi", sampling_params=params[0])
        assert [one["text"] for one in alone] == [one["text"] for one in found[:2]]
        answer = await client.post("/generate", json={**body, "stream": True})
        last = {piece["index"]: piece["text"] for piece in chunks_of(answer.text)}
        assert [last[i] for i in range(3)] == [one["text"] for one in found]

    within(core, check)


def test_a_prompt_is_scored_and_nothing_is_answered(core: Core) -> None:
    ids = core.prompts.tokenizer.encode("Hello")

    async def check(client: httpx.AsyncClient) -> None:
        echo = {"prompt": "Hello", "echo": True, "logprobs": 0, "max_tokens": 0}
        theirs = (await client.post("/v1/completions", json=echo)).json()["choices"][0]
        scores = theirs["logprobs"]["token_logprobs"]
        body = {"text": "Hello", "sampling_params": {"max_new_tokens": 0, "temperature": 0}}
        for start in (0, 2):
            found = await generated(client, **body, return_logprob=True, logprob_start_len=start)
            assert (found["text"], found["output_ids"]) == ("", [])
            told = found["meta_info"]["input_token_logprobs"]
            assert [entry[1] for entry in told] == ids[start:]
            assert [entry[0] for entry in told] == [None, *scores[start + 1 :]]
        assert found["meta_info"]["finish_reason"] == {"type": "length", "length": 0}

    within(core, check)


def test_answers_keep_to_forms_and_say_what_ended_them(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for form in ({"regex": "a{3}|b"}, {"ebnf": 'root ::= "aaa" | "b"'}):
            params = {"temperature": 0, **form}
            found = await generated(client, text="Hi", sampling_params=params)
            assert found["text"] in ("aaa", "b")
            end = found["meta_info"]["finish_reason"]
            assert end == {"type": "stop", "matched": found["output_ids"][-1]}
        schema = json.dumps({"enum": [1, 2]})
        params = {"temperature": 0, "json_schema": schema}
        assert (await generated(client, text="Hi", sampling_params=params))["text"] in ("1", "2")
        whole = (await generated(client, text="Hi", sampling_params=DRAWN))["text"]
        params = DRAWN | {"stop": [whole[3:5]]}
        cut = await generated(client, text="Hi", sampling_params=params)
        assert cut["meta_info"]["finish_reason"] == {"type": "stop", "matched": whole[3:5]}
        kept = await generated(client, text="Hi", sampling_params=params | {"no_stop_trim": True})
        assert kept["text"] == cut["text"] + whole[3:5]

    within(core, check)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"sampling_params": {}}, "text"),
        ({"text": "a", "input_ids": [1]}, "text"),
        ({"text": []}, "text"),
        ({"input_ids": [[]]}, "input_ids"),
        ({"text": "a", "nonsense": 1}, "nonsense"),
        ({"text": "a", "sampling_params": {"nonsense": 1}}, "sampling_params.nonsense"),
        ({"text": ["a", "b"], "return_logprob": [True]}, "return_logprob"),
        ({"text": "a", "return_hidden_states": True}, "return_hidden_states"),
        (
            {"text": "a", "stream": True, "return_logprob": True, "logprob_start_len": 0},
            "logprob_start_len",
        ),
        ({"text": "a", "sampling_params": {"regex": "a", "ebnf": "b"}}, "sampling_params.ebnf"),
        ({"text": "a", "sampling_params": {"n": 1000}}, "sampling_params.n"),
    ],
)
def test_what_cannot_be_had_is_a_400_that_names_it(
    core: Core, body: dict[str, Any], field: str
) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/generate", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field

    within(core, check)


def test_small_paths_of_sglang_and_vllm(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        info = (await client.get("/get_model_info")).json()
        assert info == (await client.get("/model_info")).json()
        assert (info["model_path"], info["is_generation"]) == ("tiny", True)
        steps = core.engine.load.num_steps
        assert (await client.get("/health_generate")).json() == {"status": "ok"}
        assert core.engine.load.num_steps > steps
        assert (await client.get("/ping")).json() == (await client.post("/ping")).json()
        assert (await client.get("/version")).json()["version"]
        assert (await client.get("/load")).json() == {"server_load": 0}
        core.door.draining = True
        assert (await client.get("/ping")).status_code == 503
        assert (await client.get("/health_generate")).status_code == 503
        core.door.draining = False

    within(core, check)
