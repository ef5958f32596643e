"""An image as a caller has it (a file, bytes, a data URL, an array) becomes pixels.

Bytes are hostile: how large an image says it is, is checked before it is decoded. Nothing is
fetched from a network. Needs Pillow (`pip install 'ridgeline[images]'`).
"""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline.errors import RequestError

Pixels = npt.NDArray[np.uint8]

MAX_BYTES = 64 << 20
MAX_PIXELS = 64 << 20
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def pixels_of(
    source: object,
    size_for: Callable[[int, int, str], tuple[int, int]],
    where: str,
    *,
    bicubic: bool = False,
) -> Pixels:
    """`source` stretched to [lines, columns, 3]: a path, bytes of an image file, a `data:` URL, an
    array uint8 [lines, columns, 3], or Pillow's own. size_for: its width and height and `where` ->
    those that it is stretched to. RequestError names `where`.
    """
    pillow = _pillow(where)
    image = _opened(pillow, source, where)
    size = size_for(image.width, image.height, where)
    how = pillow.Resampling.BICUBIC if bicubic else pillow.Resampling.BILINEAR
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return np.asarray(image.convert("RGB").resize(size, how), np.uint8)
    except (OSError, ValueError, SyntaxError, MemoryError, Warning, EOFError) as error:
        raise RequestError(where, f"cannot be decoded: {_short(error)}") from None


def data_of(url: str, where: str) -> bytes:
    """The bytes of a `data:` URL; others are refused: a server that fetches what it is told to can
    be turned on its neighbours.
    """
    head, comma, body = url.partition(",")
    if not head.startswith("data:") or not comma:
        raise RequestError(where, "must be a data: URL with the image in base64; none is fetched")
    if not head.endswith(";base64"):
        raise RequestError(where, "must have its data in base64")
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise RequestError(where, f"has more than {MAX_BYTES >> 20} MiB")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(where, "is not base64") from None


def _pillow(where: str) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise RequestError(
            where, "needs Pillow to be read: pip install 'ridgeline[images]'"
        ) from None
    return Image


def _opened(pillow: Any, source: object, where: str) -> Any:
    if isinstance(source, pillow.Image):
        return source
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise RequestError(where, "must be uint8 [lines, columns, 3]")
        return pillow.fromarray(source)
    if isinstance(source, str) and source.startswith(("data:", "http:", "https:")):
        source = data_of(source, where)
    if isinstance(source, str | Path):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise RequestError(where, f"cannot be read: {error}") from None
    if not isinstance(source, bytes):
        raise RequestError(where, f"is a {type(source).__name__}, not an image")
    if len(source) > MAX_BYTES:
        raise RequestError(where, f"has more than {MAX_BYTES >> 20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = pillow.open(io.BytesIO(source), formats=FORMATS)
    except pillow.DecompressionBombError:
        raise RequestError(where, f"has more than {MAX_PIXELS} pixels") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise RequestError(where, f"is none of {', '.join(FORMATS)}: {_short(error)}") from None
    if image.width * image.height > MAX_PIXELS:
        raise RequestError(where, f"has more than {MAX_PIXELS} pixels")
    return image


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
