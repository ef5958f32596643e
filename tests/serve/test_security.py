"""What strangers may try: keys, origins, bodies, numbers, templates, and other tenants' caches."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import tiny_core, within

from gate import gate
from ridgeline.cli.main import main
from ridgeline.errors import RidgelineError
from ridgeline.serve.core import keys
from ridgeline.serve.core.keys import Keys, Tenant, read_keys

FILE = """
[tenants.acme]
keys = ["sk-acme-0001", "sha256:{digest}"]
weight = 3
requests_per_minute = 2

[tenants.other]
keys = ["sk-other-0001"]
max_concurrent = 1
"""
SHORT = {"prompt": "Hi there, you", "max_tokens": 2, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(FILE.format(digest=hashlib.sha256(b"sk-acme-0002").hexdigest()))
    return path


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_key_opens_and_nothing_else_does(key_file: Path) -> None:
    core = tiny_core(keys=read_keys(key_file), policy="fair")

    async def check(client: httpx.AsyncClient) -> None:
        wrong: list[dict[str, str]] = [
            {},
            bearer(""),
            bearer("sk-acme-000"),
            bearer("sk-acme-00011"),
            {"authorization": "Basic sk-acme-0001"},
            bearer(hashlib.sha256(b"sk-acme-0002").hexdigest()),
        ]
        paths = ("/v1/models", "/health/../v1/models", "//v1/models", "/tokenize", "/openapi.json")
        for headers in wrong:
            for path in paths:
                assert (await client.get(path, headers=headers)).status_code == 401, path
        for path in ("/livez", "/readyz", "/health"):
            assert (await client.get(path)).status_code == 200
        for headers in (
            bearer("sk-acme-0001"),
            bearer("sk-acme-0002"),
            {"x-api-key": "sk-other-0001"},
        ):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200

    within(core, check)
    core.close()


def test_every_key_is_compared_whatever_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an answer tells nothing of how much of a key was right, or whose it was."""
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    known = Keys.of([f"key-number-{i}" for i in range(5)])
    for given in ("key-number-0", "key-number-4", "x", "", None, "y" * 1000):
        compared.clear()
        found = known.tenant_of(given)
        assert compared == [(32, 32)] * 5
        assert (found is not None) == (given in ("key-number-0", "key-number-4"))


def test_rates_and_concurrency_are_the_keys_own(key_file: Path) -> None:
    core = tiny_core(keys=read_keys(key_file), policy="fair")

    async def check(client: httpx.AsyncClient) -> None:
        async def ask(key: str) -> httpx.Response:
            return await client.post("/v1/completions", json=SHORT, headers=bearer(key))

        assert [(await ask("sk-acme-0001")).status_code for _ in range(2)] == [200, 200]
        limited = await ask("sk-acme-0002")  # another key of the same tenant
        assert limited.status_code == 429
        assert 1 <= int(limited.headers["retry-after"]) <= 31
        assert limited.json()["error"]["code"] == "rate_limit_exceeded"
        free = gate(core.llm)
        both = [asyncio.create_task(ask("sk-other-0001")) for _ in range(2)]
        (refused,), (other,) = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        assert refused.result().status_code == 429
        free.set()
        assert (await other).status_code == 200
        assert (await ask("sk-other-0001")).status_code == 200

    within(core, check)
    core.close()


def test_tenants_do_not_see_each_others_cache() -> None:
    pairs = [(hashlib.sha256(k.encode()).digest(), Tenant(k)) for k in ("tenant-a", "tenant-b")]
    core = tiny_core(keys=Keys(pairs), policy="fair")
    prompt = "a secret that one of the two has asked about, long enough for blocks " * 3

    async def check(client: httpx.AsyncClient) -> None:
        async def cached(key: str, **more: Any) -> int:
            body = SHORT | {"prompt": prompt} | more
            answer = await client.post("/v1/completions", json=body, headers=bearer(key))
            return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

        assert await cached("tenant-a") == 0
        assert await cached("tenant-b") == 0
        assert await cached("tenant-a") > 0
        assert await cached("tenant-a", cache_salt="mine") == 0
        assert await cached("tenant-a", cache_salt="mine") > 0

    within(core, check)
    core.close()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"prompt": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"prompt": "a", "logit_bias": ' + '{"a":' * 3000 + "1" + "}" * 3000 + "}",
        '{"prompt": "a", "max_tokens": 1e400}',
        '{"prompt": "a", "max_tokens": ' + "9" * 5000 + "}",
        '{"prompt": "a", "temperature": NaN}',
        '{"prompt": "\\ud800"}',
        '{"prompt": "a", "stop": "\\udfff", "max_tokens": 1}',
        '{"prompt": "a"} {"prompt": "b"}',
        "",
        "null",
        "\xff\xfe",
    ],
)
def test_bodies_that_mean_harm_are_400(text: str) -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        for path in ("/v1/completions", "/v1/chat/completions", "/generate", "/tokenize"):
            answer = await client.post(path, content=text.encode("latin-1"))
            assert answer.status_code == 400, (path, answer.text)
            assert answer.json()["error"]["message"]

    within(core, check)
    core.close()


@pytest.mark.parametrize(
    "more",
    [
        {"n": 10**9},
        {"top_p": 1.9e-226},  # found by schemathesis: 0 in float32, of which no token is drawn
        {"best_of": 1024},
        {"max_tokens": 2**40},
        {"logprobs": 10**6},
        {"stop": ["x"] * 10_000},
        {"stop_regex": "(a+)+$" * 1000},
        {"logit_bias": {str(i): 1 for i in range(5000)}},
        {"bad_words": ["x"] * 100_000},
        {"allowed_token_ids": []},
        {"dry_sequence_breakers": ["x" * 10_000]},
        {"cache_salt": "x" * 100_000},
        {"priority": 10**30},
        {"chat_template": "{{ 1 }}"},
        {"chat_template_kwargs": {"messages": []}},
    ],
)
def test_parameter_bombs_are_told_before_anything_runs(more: dict[str, Any]) -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/completions", json=SHORT | more)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"].split(".")[0] == next(iter(more))
        assert core.engine.load.num_steps == 0

    within(core, check)
    core.close()


def test_templates_and_messages_run_no_code() -> None:
    core = tiny_core()
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for i in range(10**9) %}{% endfor %}"

    async def check(client: httpx.AsyncClient) -> None:
        messages = [{"role": "user", "content": evil}]
        answer = await client.post("/apply-template", json={"messages": messages})
        assert answer.json() == {"prompt": f"<user>{evil}<assistant>"}
        body = {"messages": messages, "chat_template_kwargs": {"messages": [], "bos_token": evil}}
        answer = await client.post("/apply-template", json=body)
        assert answer.status_code in (200, 400)
        assert "__subclasses__() }}" in answer.text or answer.status_code == 400

    within(core, check)
    core.close()


def test_a_body_above_the_limit_is_413_however_it_is_sent() -> None:
    core = tiny_core(max_body_bytes=1000)

    async def check(client: httpx.AsyncClient) -> None:
        big = b'{"prompt": "' + b"a" * 2000 + b'"}'

        async def in_pieces() -> Any:
            for start in range(0, len(big), 100):
                yield big[start : start + 100]

        for content in (big, in_pieces()):
            answer = await client.post("/v1/completions", content=content)
            assert answer.status_code == 413
            assert answer.headers["connection"] == "close"
        odd = {"content-length": "-5"}
        assert (await client.post("/v1/completions", content=b"{}", headers=odd)).status_code == 413

    within(core, check)
    core.close()


def test_pages_of_other_sites_may_not_call() -> None:
    core = tiny_core(hosts=("my.name",))

    async def check(client: httpx.AsyncClient) -> None:
        for headers, status in (
            ({"origin": "http://localhost"}, 200),
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "null"}, 403),
            ({"origin": "http://localhost:1234"}, 403),
            ({"host": "rebound.example"}, 403),
            ({"host": "127.0.0.1:8000"}, 200),
            ({"host": "[::1]:8000"}, 200),
            ({"host": "my.name:80"}, 200),
        ):
            answer = await client.get("/v1/models", headers=headers)
            assert answer.status_code == status, headers
            assert not [name for name in answer.headers if name.startswith("access-control")]
        assert (await client.options("/v1/models")).status_code == 405

    within(core, check)
    core.close()


def test_faults_of_ours_tell_nothing_of_the_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    core = tiny_core()

    def breaks(*_args: object) -> None:
        raise KeyError("/secret/path")

    monkeypatch.setattr(core.phrasing, "phrase", breaks)

    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/completions", json=SHORT)
        assert answer.status_code == 500
        assert "secret" not in answer.text

    within(core, check)
    core.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[tenants]",
        "[tenants.a]",
        "[tenants.a]\nkeys = []",
        '[tenants.a]\nkeys = ["short"]',
        '[tenants.a]\nkeys = ["long-enough"]\nwieght = 1',
        '[tenants.a]\nkeys = ["long-enough"]\nweight = -1',
        '[tenants.a]\nkeys = ["sha256:12345678"]',
        '[tenants.a]\nkeys = ["long-enough"]\n[tenants.b]\nkeys = ["long-enough"]',
        "[[[",
    ],
)
def test_a_key_file_that_is_wrong_says_where(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(RidgelineError, match="--api-keys"):
        read_keys(path)


def test_beyond_loopback_only_with_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "smollm2", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "--insecure" in capsys.readouterr().err
