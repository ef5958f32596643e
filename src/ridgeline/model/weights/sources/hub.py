"""Models from the Hugging Face hub, through huggingface_hub: its endpoint, its credentials, its
HTTP.

Only the listing and the transfer are its own. The files lie in Ridgeline's cache and not in the
hub's, because that one (huggingface_hub 2) drops a partial file when its process ends, and because
it does not compare content with the sums that the hub publishes. Here a partial file resumes with a
Range request in a later process too, and every file is checked: LFS objects by their SHA-256, small
files by their git blob name. Never fetched: pickles and code.

huggingface_hub is imported inside functions: it costs a third of a second, and a cached model does
not need it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from ridgeline.errors import ModelError, RidgelineError
from ridgeline.model.weights.sources.cache import Staged
from ridgeline.model.weights.sources.reference import Reference
from ridgeline.model.weights.sources.select import select_model, stored_name
from ridgeline.model.weights.sources.transfer import (
    PartialFile,
    Progress,
    disk_faults,
    git_blob_sha1_of,
    require_free_space,
    sha256_of,
    wrong_sum,
)
from ridgeline.units import MIB

_BAR = "huggingface_hub.http_get"


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository at one commit; `sha256` for LFS objects, `blob_id` (git SHA-1) for
    all.
    """

    name: str
    size_bytes: int
    sha256: str | None
    blob_id: str | None

    @property
    def local_name(self) -> str:
        return stored_name(self.name)


def fetch_repository(
    reference: Reference, workspace: Path, progress: Progress, endpoint: str | None = None
) -> Staged:
    """Fetch the one model of a repository. `endpoint` None: the hub that huggingface_hub is set to.

    Raises `ModelError` when the hub cannot be reached, refuses, or sends bytes that its own sums
    deny.
    """
    progress("ask the hub", 0, None)
    commit, files = _list_repository(reference, endpoint)
    selection = select_model(files, reference.file, f"the repository {reference.name}")
    chosen = [files[name] for name in selection.files]
    for file in chosen:
        if file.sha256 is None and file.blob_id is None:
            raise ModelError(f"the hub gives no sum for {file.name} of {reference.name}")
    needed_bytes = sum(file.size_bytes for file in chosen)
    here_bytes = sum(path.stat().st_size for path in workspace.rglob("*") if path.is_file())
    require_free_space(workspace, max(0, needed_bytes - here_bytes))
    folder = workspace / "files"
    sums = {}
    for index, file in enumerate(chosen):
        stage = f"download {index + 1}/{len(chosen)}" if len(chosen) > 1 else "download"
        sums[file.local_name] = _fetch_file(
            reference, commit, file, workspace, progress, stage, endpoint
        )
    return Staged(
        folder=folder,
        kind=selection.kind,
        entry=None if selection.entry is None else PurePosixPath(selection.entry).name,
        format="",
        source=f"the hub, {reference.name} at {commit[:12]}",
        licence="",
        sha256=sums,
    )


def _fetch_file(
    reference: Reference,
    commit: str,
    file: HubFile,
    workspace: Path,
    progress: Progress,
    stage: str,
    endpoint: str | None,
) -> str:
    """Bring one file under `workspace/files` and return its SHA-256; takes up what an earlier pull
    left.
    """
    complete = workspace / "files" / file.local_name
    if complete.is_file() and _is_content(complete, file):
        return sha256_of(complete, progress)
    # Named by content, so that a partial file of another commit is never continued.
    partial = workspace / f"{file.local_name}.{(file.sha256 or file.blob_id or '')[:16]}.part"
    if partial.is_file() and partial.stat().st_size > file.size_bytes:
        partial.unlink()
    with PartialFile(partial, progress, stage, file.size_bytes) as sink:
        with _hub_faults(reference, partial):
            _http_get(reference, commit, file, sink, endpoint)
        sink.sync()
        actual = sink.sha256
    what = f"{file.name} of {reference.name}"
    if file.sha256 is not None and actual != file.sha256:
        raise wrong_sum(what, partial, file.sha256, actual)
    if file.sha256 is None and file.blob_id is not None:
        blob_id = git_blob_sha1_of(partial)
        if blob_id != file.blob_id:
            partial.unlink()
            raise ModelError(
                f"{what} has git blob name {blob_id}, not {file.blob_id}: "
                f"it was damaged on the way; it is deleted, pull it again"
            )
    with disk_faults(partial):
        partial.replace(complete)
    return actual


def _is_content(path: Path, file: HubFile) -> bool:
    if path.stat().st_size != file.size_bytes:
        return False
    if file.sha256 is not None:
        return sha256_of(path) == file.sha256
    return git_blob_sha1_of(path) == file.blob_id


def _list_repository(reference: Reference, endpoint: str | None) -> tuple[str, dict[str, HubFile]]:
    """The commit that the revision stands for now, and its files by name."""
    with _hub_faults(reference, None):
        from huggingface_hub import HfApi

        info = HfApi(endpoint=endpoint).model_info(
            reference.name, revision=reference.version, files_metadata=True
        )
    files = {}
    for sibling in info.siblings or ():
        lfs = sibling.lfs
        size_bytes = lfs.size if lfs is not None else sibling.size
        if isinstance(size_bytes, int) and size_bytes >= 0:
            files[sibling.rfilename] = HubFile(
                name=sibling.rfilename,
                size_bytes=size_bytes,
                sha256=_hex_or_none(lfs.sha256 if lfs is not None else None, 64),
                blob_id=_hex_or_none(sibling.blob_id, 40),
            )
    commit = _hex_or_none(info.sha, 40)
    if commit is None or not files:
        raise ModelError(f"the hub lists no files for {reference.name}")
    return commit, files


def _hex_or_none(text: object, length: int) -> str | None:
    """Sums become parts of file names and addresses here: nothing but a sum may."""
    if isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{length}}}", text):
        return text
    return None


def _http_get(
    reference: Reference, commit: str, file: HubFile, sink: PartialFile, endpoint: str | None
) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get

    hub: Any = import_module("huggingface_hub.utils")
    url = hf_hub_url(reference.name, file.name, revision=commit, endpoint=endpoint)
    get: Callable[..., Any] = http_get
    with _hub_settings():
        get(
            url,
            sink,
            resume_size=sink.size_bytes,
            headers=hub.build_hf_headers(),
            expected_size=file.size_bytes,
        )


@contextmanager
def _hub_settings() -> Iterator[None]:
    """Our progress instead of the hub's bar and warnings, and small chunks; put back afterwards."""
    hub: Any = import_module("huggingface_hub.utils")
    constants: Any = import_module("huggingface_hub.constants")
    chunk_bytes = constants.DOWNLOAD_CHUNK_SIZE
    verbosity, bars_disabled = hub.logging.get_verbosity(), hub.are_progress_bars_disabled(_BAR)
    # The calls warn where the user's environment variable decides instead of them: so be it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hub.disable_progress_bars(_BAR)
    hub.logging.set_verbosity_error()
    # Its 10 MB would be lost whenever a connection drops within them: a poor line would never end.
    constants.DOWNLOAD_CHUNK_SIZE = MIB
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = chunk_bytes
        hub.logging.set_verbosity(verbosity)
        if not bars_disabled:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                hub.enable_progress_bars(_BAR)


@contextmanager
def _hub_faults(reference: Reference, partial: Path | None) -> Iterator[None]:
    """One line for what the hub or the way to it did. Its client's exception types differ by
    version; its own do not.
    """
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise ModelError(
            "hf: needs the package huggingface-hub; pip install huggingface-hub"
        ) from error
    name = f"{reference.name}{f'@{reference.version}' if reference.version else ''}"
    try:
        yield
    except RidgelineError:
        raise
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} is gated: accept its terms on the hub, then log in with `hf auth login` or "
            f"set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{reference.name} has no revision {reference.version!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no repository {name}, or it is private: check the name, or log in with "
            f"`hf auth login`"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        raise ModelError(f"the hub answered HTTP {status} for {name}; try again later") from error
    except Exception as error:
        kept = partial is not None and partial.is_file() and partial.stat().st_size > 0
        resumes = "; what came is kept and the pull resumes" if kept else ""
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the hub could not be reached for {name} ({first_line}){resumes}; check the network"
        ) from error
