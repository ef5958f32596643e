"""Models from a hub: huggingface_hub against a server here that answers as a hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from model_sources import settings_for, sha256

from ridgeline.errors import CapacityError, ModelError
from ridgeline.model.weights.sources import parse_reference, pull, resolve
from ridgeline.model.weights.sources.cache import list_cached

COMMIT = "c" * 40
BIG = b"GGUF" + bytes(range(256)) * 40_000


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """Repositories in memory, and the faults that a test asks for; `requests` is what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}
        self.drop_after: int | None = None
        self.ignore_range = False
        self.status = 200
        self.error_code = ""
        self.requests: list[tuple[str, str | None]] = []
        self.endpoint = ""

    def downloads(self) -> list[tuple[str, str | None]]:
        return [(path, asked) for path, asked in self.requests if "/resolve/" in path]

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, data in self.files.items():
            sibling: dict[str, Any] = {
                "rfilename": name,
                "size": len(data),
                "blobId": git_sha1(data),
            }
            if name.endswith((".gguf", ".safetensors", ".bin")):
                sibling["blobId"] = "0" * 40
                lfs = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
                sibling["lfs"] = lfs
            siblings.append(sibling)
        return {"id": "o/n", "modelId": "o/n", "sha": COMMIT, "siblings": siblings, "tags": []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        asked = self.headers.get("Range")
        hub.requests.append((path, asked))
        if hub.status != 200:
            self._answer(
                hub.status, b"{}", {"X-Error-Code": hub.error_code} if hub.error_code else {}
            )
            return
        if path.startswith("/api/models/o/n"):
            self._answer(200, json.dumps(hub.listing()).encode(), {})
            return
        prefix = f"/o/n/resolve/{COMMIT}/"
        name = path.removeprefix(prefix)
        if not path.startswith(prefix) or name not in hub.files:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data, start = hub.sent.get(name, hub.files[name]), 0
        headers = {"ETag": '"x"'}
        if asked and not hub.ignore_range:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if hub.drop_after is not None:
            cut, hub.drop_after = hub.drop_after, None
            self.close_connection = True
            self._answer(206 if start else 200, body[:cut], headers, len(body))
            return
        self._answer(206 if start else 200, body, headers)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import close_session

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield hub
    close_session()
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(hub: Hub, cache_dir: Path, text: str = "hf:o/n") -> Path:
    return resolve(parse_reference(text), settings_for(cache_dir), endpoint=hub.endpoint)


def nothing_is_visible(cache_dir: Path) -> bool:
    return list_cached(cache_dir) == () and not list(cache_dir.glob("models/hf--*"))


def test_the_only_gguf_of_a_repository(tmp_path: Path, hub: Hub) -> None:
    hub.files = {"README.md": b"#", "q/m.gguf": BIG, "evil.py": b"1/0"}
    path = fetch(hub, tmp_path)
    assert path.read_bytes() == BIG
    assert path.name == "m.gguf"
    assert [name for name, _ in hub.downloads()] == [f"/o/n/resolve/{COMMIT}/q/m.gguf"]
    (model,) = list_cached(tmp_path)
    assert model.source == f"the hub, o/n at {COMMIT[:12]}"
    asked = len(hub.requests)
    assert fetch(hub, tmp_path) == path
    assert len(hub.requests) == asked


def test_directory_repository_without_pickles_and_code(tmp_path: Path, hub: Hub) -> None:
    hub.files = {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}",
        "model.safetensors": b"weights" * 1000,
        "pytorch_model.bin": b"pickle",
        "modeling_evil.py": b"1/0",
        "optimizer.pt": b"pickle",
    }
    path = fetch(hub, tmp_path, "hf:o/n@v1")
    names = sorted(file.name for file in path.iterdir())
    assert names == ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]
    assert (path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert len(hub.downloads()) == 3
    assert hub.requests[0][0] == "/api/models/o/n/revision/v1"


def test_file_must_be_named_where_there_are_several(tmp_path: Path, hub: Hub) -> None:
    hub.files = {"m-Q4_0.gguf": BIG, "m-Q8_0.gguf": BIG + b"8"}
    with pytest.raises(ModelError, match=r"2 models; add :FILE with one of m-Q4_0.gguf, m-Q8_0"):
        fetch(hub, tmp_path)
    assert fetch(hub, tmp_path, "hf:o/n:q8_0").name == "m-Q8_0.gguf"
    with pytest.raises(ModelError, match=r"holds no GGUF file 'q2'"):
        fetch(hub, tmp_path, "hf:o/n:q2")


def test_dropped_connection_resumes_with_a_range(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.files = {"m.gguf": BIG}
    hub.drop_after = 3_000_000
    assert fetch(hub, tmp_path).read_bytes() == BIG
    first, second = hub.downloads()
    assert first[1] is None
    # Whole chunks of 1 MiB are kept.
    assert second[1] == f"bytes={2 * 2**20}-"


def test_interrupted_pull_leaves_no_model_and_resumes_in_the_next(tmp_path: Path, hub: Hub) -> None:
    hub.files = {"m.gguf": BIG}
    reference, settings = parse_reference("hf:o/n"), settings_for(tmp_path)
    hub.drop_after = 4_000_000

    def interrupt(stage: str, done_bytes: int, total_bytes: int | None) -> None:
        if done_bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(reference, settings, interrupt, endpoint=hub.endpoint)
    assert nothing_is_visible(tmp_path)
    (partial,) = tmp_path.rglob("*.part")
    kept_bytes = partial.stat().st_size
    assert 0 < kept_bytes < len(BIG)
    hub.drop_after = None
    assert fetch(hub, tmp_path).read_bytes() == BIG
    assert hub.downloads()[-1][1] == f"bytes={kept_bytes}-"
    assert not list(tmp_path.rglob("*.part"))


def test_server_that_ignores_range_is_read_from_the_start(tmp_path: Path, hub: Hub) -> None:
    test_interrupted_pull_leaves_no_model_and_resumes_in_the_next(tmp_path / "a", hub)
    hub.ignore_range = True
    test_interrupted_pull_leaves_no_model_and_resumes_in_the_next(tmp_path / "b", hub)


def test_corrupt_lfs_content_is_deleted_and_both_sums_named(tmp_path: Path, hub: Hub) -> None:
    hub.files = {"m.gguf": BIG}
    bad = BIG[:-1] + b"?"
    hub.sent = {"m.gguf": bad}
    with pytest.raises(
        ModelError, match=rf"m.gguf of o/n has SHA-256 {sha256(bad)}, not {sha256(BIG)}"
    ):
        fetch(hub, tmp_path)
    assert nothing_is_visible(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    hub.sent = {}
    assert fetch(hub, tmp_path).read_bytes() == BIG


def test_corrupt_small_file_is_found_by_its_git_name(tmp_path: Path, hub: Hub) -> None:
    hub.files = {"config.json": b'{"a": 1}', "model.safetensors": b"w" * 100}
    hub.sent = {"config.json": b'{"a": 2}'}
    with pytest.raises(ModelError, match=r"config.json of o/n has git blob name .*pull it again"):
        fetch(hub, tmp_path)
    hub.sent = {}
    path = fetch(hub, tmp_path)
    assert (path / "config.json").read_bytes() == b'{"a": 1}'


def test_whole_files_of_an_interrupted_pull_are_not_fetched_again(tmp_path: Path, hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"w" * 5000}
    hub.sent = {"model.safetensors": b"v" * 5000}
    with pytest.raises(ModelError, match="SHA-256"):
        fetch(hub, tmp_path)
    hub.sent, hub.requests = {}, []
    fetch(hub, tmp_path)
    assert [path.rpartition("/")[2] for path, _ in hub.downloads()] == ["model.safetensors"]


def test_file_that_changed_between_two_pulls_is_not_continued(tmp_path: Path, hub: Hub) -> None:
    hub.files = {"m.gguf": BIG}

    def interrupt(stage: str, done_bytes: int, total_bytes: int | None) -> None:
        if done_bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(parse_reference("hf:o/n"), settings_for(tmp_path), interrupt, endpoint=hub.endpoint)
    hub.files = {"m.gguf": BIG + b"more"}
    assert fetch(hub, tmp_path).read_bytes() == BIG + b"more"


def test_hostile_names_are_not_fetched(tmp_path: Path, hub: Hub) -> None:
    hub.files = {"../../m.gguf": BIG, "/abs.gguf": BIG}
    with pytest.raises(ModelError, match="holds no model"):
        fetch(hub, tmp_path / "cache")
    assert not list(tmp_path.rglob("*.gguf"))


def test_sums_that_are_no_sums_are_not_used(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_sources_hub.sha256", lambda data: "../../" + "a" * 58)
    monkeypatch.setattr("test_sources_hub.git_sha1", lambda data: "no")
    hub.files = {"config.json": b"{}", "model.safetensors": b"w"}
    with pytest.raises(ModelError, match=r"the hub gives no sum for config.json of o/n"):
        fetch(hub, tmp_path)
    assert hub.downloads() == []


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", r"no repository o/n@v1, or it is private"),
        (404, "RevisionNotFound", r"o/n has no revision 'v1'"),
        (403, "GatedRepo", r"o/n@v1 is gated: accept its terms"),
        (418, "", r"the hub answered HTTP 418 for o/n@v1"),
    ],
)
def test_what_the_hub_refuses(tmp_path: Path, hub: Hub, status: int, code: str, said: str) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(ModelError, match=said) as caught:
        fetch(hub, tmp_path, "hf:o/n@v1")
    assert "\n" not in str(caught.value)


def test_no_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ModelError, match=r"the hub could not be reached for o/n .*refused"):
        resolve(parse_reference("hf:o/n"), settings_for(tmp_path), endpoint="http://127.0.0.1:9")
    assert nothing_is_visible(tmp_path)


def test_offline_asks_nobody(tmp_path: Path, hub: Hub) -> None:
    hub.files = {"m.gguf": BIG}
    settings = settings_for(tmp_path, offline=True)
    with pytest.raises(ModelError, match=r"`ridgeline pull hf:o/n` once with a network"):
        resolve(parse_reference("hf:o/n"), settings, endpoint=hub.endpoint)
    assert hub.requests == []
    path = fetch(hub, tmp_path)
    assert resolve(parse_reference("hf:o/n"), settings, endpoint=hub.endpoint) == path


def test_repository_too_large_for_the_disk(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"m.gguf": BIG}
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**7}))
    with pytest.raises(CapacityError, match=r"needs 10.2 MB and .* has 10.0 MB free"):
        fetch(hub, tmp_path)
    assert hub.downloads() == []
