"""Which experts tokens went to, as a heat map: in characters, or drawn with matplotlib.

A line is a layer, a column an expert; the darkest is the one that was chosen most often in its
layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ridgeline.output_files import write_figure

Counts = Mapping[str, npt.NDArray[np.int64]]

SHADES = " .:-=+*#%@"
COLUMNS = 96  # of characters; more experts than that share them


def as_text(counts: Counts, columns: int = COLUMNS) -> str:
    """A line a layer: how often on average, how many were never chosen, and the shades."""
    lines = []
    for name, each in counts.items():
        wide = -(-len(each) // columns)
        padded = np.concatenate([each, np.zeros(-len(each) % wide, each.dtype)])
        sums = padded.reshape(-1, wide).sum(axis=1)
        most = max(int(sums.max()), 1)
        shades = "".join(SHADES[-(-int(n) * (len(SHADES) - 1) // most)] for n in sums)
        idle = int((each == 0).sum())
        lines.append(f"{layer_of(name):>6} {each.sum():>7,} {idle:>5} idle |{shades}|")
    return "\n".join(lines) + "\n"


def layer_of(name: str) -> str:
    """`layers.3.moe.experts` -> `3`."""
    return name.split(".")[1] if name.startswith("layers.") else name


def draw(counts: Counts, path: Path) -> None:
    """The share of each layer's choices that an expert has. Raises OSError where the file cannot be
    written; `bench.plot.check_plot` says before whether anything can be drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    widest = max(len(each) for each in counts.values())
    shares = np.full((len(counts), widest), np.nan)
    for line, each in enumerate(counts.values()):
        shares[line, : len(each)] = each / max(int(each.sum()), 1)
    size = (min(16.0, 2.5 + widest / 12), min(12.0, 1.6 + len(counts) / 5))
    figure, panel = pyplot.subplots(figsize=size, layout="constrained")
    image = panel.imshow(shares, aspect="auto", interpolation="nearest", cmap="magma_r", vmin=0)
    panel.set_xlabel("expert")
    panel.set_ylabel("layer")
    panel.set_yticks(range(len(counts)), [layer_of(name) for name in counts], fontsize=7)
    figure.colorbar(image, label="share of the layer's choices")
    write_figure(figure, path)
    pyplot.close(figure)
