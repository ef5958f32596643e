"""MODEL where no weights are needed: a published configuration by name, or what lies on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ridgeline.config import Settings
from ridgeline.errors import ModelError, RidgelineError


def planned_model(model: str, settings: Settings) -> tuple[str, Mapping[str, object]]:
    """What it is called, and its configuration: a path's, a published one's
    (model/configurations.py), or, of `hf:owner/name` that is not among these, its config.json
    alone. ModelError names the nearest there are.
    """
    from ridgeline.model.configurations import find_configuration, nearest_configurations
    from ridgeline.model.opened import open_model, read_config

    path = Path(model).expanduser()
    if path.exists():
        if path.suffix == ".json" or (path / "config.json").is_file():
            return path.resolve().name if path.is_dir() else path.stem, read_config(path)[0]
        opened = open_model(path)
        return opened.name, opened.config
    found = find_configuration(model.removeprefix("hf:"))
    if found is not None:
        return found.short, found.config
    if model.startswith(("hf:", "pypi:")) or _in_catalogue(model):
        return _from_source(model, settings)
    near = ", ".join(nearest_configurations(model))
    raise ModelError(
        f"there is no model {model!r}; nearest: {near}. Or name a config.json, its folder, a GGUF "
        "file, or hf:owner/name"
    )


def _in_catalogue(model: str) -> bool:
    from ridgeline.model.weights.sources.catalogue import CATALOGUE

    return model in CATALOGUE


def _from_source(model: str, settings: Settings) -> tuple[str, Mapping[str, object]]:
    from ridgeline.cli.progress import show_progress
    from ridgeline.model.opened import open_model, read_config
    from ridgeline.model.weights.sources import parse_reference, resolve

    if model.startswith("hf:") and not settings.offline:
        from huggingface_hub import hf_hub_download

        name, _, revision = model.removeprefix("hf:").partition("@")
        try:
            file = hf_hub_download(name, "config.json", revision=revision or None)
        except Exception as error:
            raise ModelError(f"{model}: its config.json cannot be had: {error}") from error
        return name.split("/")[-1], read_config(Path(file))[0]
    try:
        with show_progress(model) as progress:
            path = resolve(parse_reference(model), settings, progress)
    except RidgelineError as error:
        raise ModelError(f"{model}: {error}") from error
    if (path / "config.json").is_file() or path.suffix == ".json":
        return model, read_config(path)[0]
    return model, open_model(path).config
