"""Weights that a GGUF has as lists in its metadata, a number for each layer: made tensors, so that
they are bound as all others are.

The keys are those of gguf-py's constants. A list that is too long makes tensors that no graph
uses, one that is too short lacks them: either is refused by name where weights are bound.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ridgeline.errors import ModelError
from ridgeline.model.weights.contents import Contents, Segment, TensorInfo

# Metadata's key -> the tensor's name, with the number of its layer.
LISTED: dict[str, str] = {
    "xielu.alpha_p": "blk.{i}.xielu.alpha_p",
    "xielu.alpha_n": "blk.{i}.xielu.alpha_n",
}
MAX_LISTED = 1 << 12


def with_listed(contents: Contents, where: str) -> Contents:
    """The same with a tensor F32 [1] for each number of the lists that are there."""
    tensors, segments = dict(contents.tensors), dict(contents.segments)
    for key, name in LISTED.items():
        values = contents.metadata.get(key)
        if values is None or not segments:
            continue
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind != "f":
            raise ModelError(f"{where}: metadata {key!r}: a list of numbers is needed")
        if values.size > MAX_LISTED:
            raise ModelError(f"{where}: metadata {key!r} lists {values.size} layers")
        mapping = next(iter(segments.values())).mapping
        for i, value in enumerate(values.astype(np.float32)):
            called = name.format(i=i)
            if called in tensors:
                raise ModelError(f"{where}: metadata {key!r}: tensor {called!r} is there besides")
            tensors[called] = TensorInfo(called, (1,), "F32")
            data = np.frombuffer(value.tobytes(), np.uint8)
            segments[called] = Segment(data, mapping, 0)  # no pages of its own
    return replace(contents, tensors=tensors, segments=segments)
