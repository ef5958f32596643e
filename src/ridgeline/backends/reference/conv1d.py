"""conv1d: a convolution with a row's ends padded by zeros."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.conv1d import Conv1d


def conv1d(op: Conv1d, call: Call) -> tuple[Array]:
    w, b = call.weights
    half = op.taps // 2
    outputs = []
    for _, x in call.by_row(call.inputs[0]):
        line = x.reshape(len(x) * op.frames, w.shape[1])
        padded = np.pad(line, ((half, half), (0, 0)))
        y = b + sum(padded[j : j + len(line)][:: op.stride] @ w[:, :, j].T for j in range(op.taps))
        outputs.append(y.reshape(len(x), -1))
    return (np.concatenate(outputs).astype(call.inputs[0].dtype),)
