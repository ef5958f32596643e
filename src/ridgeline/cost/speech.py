"""The least that a machine needs for transcripts: encoder runs, and a step for each token.

A bound and no prediction: a window's prompt is as many steps as it has tokens looked at (two), and
tries that were thrown away are not counted by who counts tokens of transcripts only.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.cost.device import Device
from ridgeline.cost.step_times import least_seconds
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.work import Precision
from ridgeline.step import StepShape


def least_speech_seconds(
    graph: Graph,
    precision: Precision,
    device: Device,
    num_encoded: int,
    num_attempts: int,
    num_tokens: int,
) -> float:
    """num_encoded: encoder runs. num_attempts: prompts computed, in two steps each. num_tokens:
    drawn one a step, in rows of half the context in the mean.
    """
    assert graph.encoder is not None
    encode = least_seconds(graph.encoder, precision, device)
    decode = least_seconds(replace(graph, encoder=None), precision, device)
    positions = graph.encoder.max_context
    window = encode(StepShape((positions,), (0,), 0))
    step = decode(StepShape.decode(1, graph.max_context // 8))
    return num_encoded * window + (2 * num_attempts + num_tokens) * step
