"""The curves of a training, from the table that it logged."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wsi_seg.core.errors import ModelError
from wsi_seg.evaluation.plots import STYLE, finish_axes, to_png

# Where training leaves its table in the model's folder.
LOG = "log/metrics.csv"
NOT_CURVES = ("epoch", "step")
VALIDATION = "validation_"

Curves = dict[str, dict[int, float]]
"""Mean value in each epoch, by column."""


def read_curves(path: Path) -> Curves:
    """Return the mean of every column over each epoch, of a CSV with a column `epoch`; cells may be empty.

    Raises:
        ModelError: the table cannot be read.
    """
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if text and name not in NOT_CURVES:
                        values[name][int(row["epoch"])].append(float(text))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: the log of the training cannot be read ({error})") from error
    return {
        name: {epoch: math.fsum(column) / len(column) for epoch, column in sorted(epochs.items())}
        for name, epochs in sorted(values.items())
    }


def draw_training(curves: Curves) -> bytes:
    """Return a PNG: losses on the left, scores of the validation part on the right where there are any."""
    scores = {n: c for n, c in curves.items() if n.startswith(VALIDATION) and not n.endswith("loss")}
    losses = {n: c for n, c in curves.items() if n not in scores}
    panels = [part for part in (losses, scores) if part]
    figure = Figure(figsize=(5.4 * len(panels), 3.6), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if part is scores:
            _panel(axes, part, "scores", 1.0)
        else:
            _panel(axes, part, "loss, and its weighted terms", None)
    return to_png(figure)


def _panel(axes: Axes, curves: Curves, title: str, highest: float | None) -> None:
    for name, curve in curves.items():
        validation = name.startswith(VALIDATION)
        what = name.removeprefix(VALIDATION)
        term = "" if validation or what == "loss" else " term"
        label = f"{what}{term}, {'validation' if validation else 'training'}"
        epochs = [epoch + 1 for epoch in curve]
        axes.plot(
            epochs,
            list(curve.values()),
            label=label.replace("_", " "),
            linewidth=1.8 if name in ("loss", "validation_loss") or validation else 1.0,
            linestyle="--" if validation and name.endswith("loss") else "-",
            marker="o",
            markersize=3,
        )
    axes.set_xlabel("epoch", **STYLE)
    axes.set_ylim(bottom=0, top=highest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False)
    finish_axes(axes, title)
