"""What is kept of each tenant: its own newer documents push its oldest out, and nobody else's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ridgeline.serve.batches.journal import Documents
from ridgeline.serve.responses.conversations import Conversations
from ridgeline.serve.responses.shelf import Shelf
from ridgeline.serve.responses.store import Store


def document(tenant: str, name: str) -> dict[str, Any]:
    return {"id": name, "tenant": tenant, "created_at": 1}


def test_a_tenants_oldest_go_for_its_own_alone(tmp_path: Path) -> None:
    shelf = Shelf(Documents(tmp_path), "k", most=3)
    shelf.write(document("quiet", "q0"))
    for number in range(9):
        shelf.write(document("busy", f"b{number}"))
    assert shelf.read("quiet", "q0")["id"] == "q0"
    assert sorted(path.stem for path in (tmp_path / "k").iterdir()) == ["b6", "b7", "b8", "q0"]
    with pytest.raises(KeyError):
        shelf.read("busy", "q0")
    with pytest.raises(KeyError):
        shelf.remove("busy", "q0")


def test_what_was_written_again_is_not_the_oldest(tmp_path: Path) -> None:
    shelf = Shelf(Documents(tmp_path), "k", most=2)
    for name in ("a", "b", "a", "c"):
        shelf.write(document("t", name))
    assert shelf.read("t", "a")
    with pytest.raises(KeyError):
        shelf.read("t", "b")
    shelf.remove("t", "a")
    shelf.write(document("t", "d"))
    assert shelf.read("t", "c")
    assert shelf.read("t", "d")


def test_what_a_server_before_has_left_counts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Shelf(Documents(tmp_path), "k", most=2).write(document("t", name))
    (tmp_path / "k" / "broken.json").write_text("{")
    Shelf(Documents(tmp_path), "k", most=2).write(document("other", "o"))
    Shelf(Documents(tmp_path), "k", most=2).write(document("t", "c"))
    assert sorted(p.stem for p in (tmp_path / "k").glob("?.json")) == ["b", "c", "o"]


def test_many_threads_leave_as_many_as_may_be_kept(tmp_path: Path) -> None:
    shelf = Shelf(Documents(tmp_path), "k", most=5)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: shelf.write(document(f"t{n % 2}", f"n{n}")), range(60)))
    assert len(list((tmp_path / "k").iterdir())) == 10


def test_responses_and_conversations_are_kept_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shelf.__init__, "__defaults__", (2,))
    documents = Documents(tmp_path)
    store = Store(documents)
    made = iter(range(1000))
    conversations = Conversations(documents, lambda prefix: f"{prefix}{next(made)}")
    store.keep("quiet", {"id": "resp_q", "created_at": 1}, [])
    mine = conversations.create("quiet", [], {})["id"]
    first = conversations.create("busy", [], {})["id"]
    for number in range(4):
        store.keep("busy", {"id": f"resp_{number}", "created_at": 1}, [])
        store.keep_events(f"resp_{number}", ["data: x\n\n"])
        conversations.create("busy", [], {})
    assert store.get("quiet", "resp_q")[1] == []
    assert conversations.get("quiet", mine)["id"] == mine
    with pytest.raises(KeyError):
        store.get("busy", "resp_1")
    with pytest.raises(KeyError):
        conversations.get("busy", first)
    assert not (tmp_path / "responses" / "resp_1.events").exists()
    assert (tmp_path / "responses" / "resp_3.events").exists()
