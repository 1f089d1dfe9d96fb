"""Figures of an evaluation, drawn with matplotlib and returned as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from wsi_seg.core.classes import RGB
from wsi_seg.evaluation.metrics import Counts
from wsi_seg.evaluation.section import Example, Section
from wsi_seg.evaluation.tally import Tally

DPI = 130
INK = "#1c1c20"
GRAY = "#6a6a72"
# Inches.
CELL = 0.44
LABELS = 2.1
PICTURE = 2.5
# Shares below this are not written into a cell.
LEAST_WRITTEN = 0.005
# Curves of paler colors than this would not be seen on white.
PALEST = 0.62

STYLE: dict[str, Any] = {"fontsize": 8, "color": INK}


Cells = tuple[list[int], list[int]]
"""Rows and columns of a matrix that are drawn."""


def draw_confusion(sections: Sequence[Section]) -> bytes:
    """Return confusion matrices, a row of panels for each section; each row of a matrix adds up to 100 %."""
    panels = [_panels(section) for section in sections]
    widths = [max((_inches(p[1]) for p in column), default=0.0) for column in _columns(panels)]
    heights = [max(_inches(p[0]) for p in row) - 0.3 for row in panels]
    figure = Figure(figsize=(sum(widths), sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(panels), len(widths), width_ratios=widths, height_ratios=heights)
    for y, (section, row) in enumerate(zip(sections, panels, strict=True)):
        for x, (rows, columns) in enumerate(row):
            axes = figure.add_subplot(grid[y, x])
            what = "groups of classes" if x else section.name
            _confusion_panel(axes, section.tallies[x].counts, rows, columns, what)
    return to_png(figure)


def _panels(section: Section) -> list[Cells]:
    """Return rows and columns of each matrix; groups are left out where they are the same as the classes."""
    panels = [_present(tally.counts) for tally in section.tallies]
    return panels[:1] if len(panels[-1][0]) == len(panels[0][0]) else panels


def _columns(panels: list[list[Cells]]) -> list[list[Cells]]:
    return [[row[x] for row in panels if x < len(row)] for x in range(max(map(len, panels)))]


def _inches(indices: list[int]) -> float:
    return LABELS + CELL * max(2, len(indices))


def _present(counts: Counts) -> Cells:
    """Return the rows with truth, and the columns: those rows first, then what else was predicted."""
    rows = np.flatnonzero(counts.support).tolist()
    predicted = np.flatnonzero(counts.matrix.sum(axis=0)).tolist()
    return rows, [*rows, *(column for column in predicted if column not in rows)]


def _confusion_panel(axes: Axes, counts: Counts, rows: list[int], columns: list[int], title: str) -> None:
    names = [_spaced(name) for name in (*counts.names, "none of these")]
    shares = counts.matrix[rows] / counts.support[rows, None]
    shares = shares[:, columns]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for y, x in zip(*np.nonzero(shares >= LEAST_WRITTEN), strict=True):
        color = "white" if shares[y, x] > 0.55 else INK
        axes.text(x, y, f"{100 * shares[y, x]:.0f}", ha="center", va="center", fontsize=8, color=color)
    below = [names[column] for column in columns]
    axes.set_xticks(range(len(columns)), below, rotation=45, ha="right", rotation_mode="anchor", **STYLE)
    labels = [f"{names[r]}  ({_short(counts.support[r])})" for r in rows]
    axes.set_yticks(range(len(rows)), labels, **STYLE)
    axes.set_xlabel("predicted", **STYLE)
    axes.set_ylabel("truth (pixels)", **STYLE)
    axes.set_title(f"{title}\n% of each row", fontsize=9, color=INK, loc="left")
    _frame_plainly(axes)


def draw_curves(sections: Sequence[Section]) -> bytes:
    """Return ROC and precision-recall curves, a row of two panels for each section."""
    figure = Figure(figsize=(10.4, 4.1 * len(sections)), layout="constrained")
    axes = figure.subplots(len(sections), 2, squeeze=False)
    for section, (left, right) in zip(sections, axes, strict=True):
        _roc_panel(left, section, section.tallies[0])
        _precision_recall_panel(right, section, section.tallies[0])
    return to_png(figure)


def _roc_panel(axes: Axes, section: Section, tally: Tally) -> None:
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":")
    for k, auc in enumerate(tally.scores.roc_auc):
        if not math.isnan(auc):
            _curve(axes, section, k, *tally.scores.roc_curve(k), auc)
    _finish_curve(axes, f"{section.name}: ROC, one class against the rest", "area")
    axes.set_xlabel("1 - specificity", **STYLE)
    axes.set_ylabel("recall (sensitivity)", **STYLE)


def _precision_recall_panel(axes: Axes, section: Section, tally: Tally) -> None:
    for k, average in enumerate(tally.scores.average_precision):
        if not math.isnan(average) and tally.counts.support[k] < tally.counts.total:
            precision, recall = tally.scores.precision_recall_curve(k)
            _curve(axes, section, k, recall, precision, average)
    _finish_curve(axes, f"{section.name}: precision and recall", "average precision")
    axes.set_xlabel("recall", **STYLE)
    axes.set_ylabel("precision", **STYLE)


def _curve(
    axes: Axes, section: Section, k: int, x: NDArray[np.float64], y: NDArray[np.float64], value: float
) -> None:
    rows = section.rows[0]
    name = _spaced(rows.names[k])
    axes.plot(x, y, color=_line_color(rows.colors[k]), linewidth=1.6, label=f"{name}  {value:.3f}")


def _finish_curve(axes: Axes, title: str, legend: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            title=legend,
            title_fontsize=8,
            fontsize=7.5,
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1, 1),
        )
    else:
        axes.text(0.5, 0.5, "no class has both its own and other pixels", ha="center", **STYLE)
    finish_axes(axes, title)


def _line_color(color: RGB) -> tuple[float, float, float]:
    """Return a color dark enough for a line on white (relative luminance, ITU-R BT.709)."""
    red, green, blue = (value / 255 for value in color)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    factor = min(1.0, PALEST / luminance) if luminance else 1.0
    return red * factor, green * factor, blue * factor


def draw_examples(examples: Sequence[Example]) -> bytes:
    """Return image, truth and prediction side by side, a row for each example, with a legend."""
    heights = [PICTURE * e.target.shape[0] / e.target.shape[1] for e in examples]
    heights = [min(height, 2 * PICTURE) + 0.28 for height in heights]
    legend = _legend(examples)
    lines = -(-len(legend) // 4)
    figure = Figure(figsize=(3 * PICTURE + 0.4, sum(heights) + 0.35 + 0.22 * lines), layout="constrained")
    axes = figure.subplots(len(examples), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for example, (image, truth, predicted) in zip(examples, axes, strict=True):
        _show(image, example.image)
        _show(truth, example.truth_colors())
        _show(predicted, example.predicted_colors())
        image.set_title(_shortened(example.name), fontsize=7, color=GRAY, loc="left", pad=3)
        truth.set_title("truth (white: unknown)", fontsize=7, color=GRAY, loc="left", pad=3)
        predicted.set_title("prediction", fontsize=7, color=GRAY, loc="left", pad=3)
    figure.legend(
        handles=legend,
        loc="outside lower left",
        ncols=4,
        frameon=False,
        fontsize=8,
        handlelength=1.1,
        handleheight=1.1,
    )
    return to_png(figure)


def _legend(examples: Sequence[Example]) -> list[Patch]:
    colors: dict[str, RGB] = {}
    for example in examples:
        for row in sorted(example.shown_rows()):
            colors.setdefault(example.rows.names[row], example.rows.colors[row])
    return [
        Patch(facecolor=(r / 255, g / 255, b / 255), edgecolor=GRAY, linewidth=0.5, label=_spaced(name))
        for name, (r, g, b) in colors.items()
    ]


def _show(axes: Axes, picture: NDArray[np.uint8] | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(color="#d4d4da", linewidth=0.8)
    if picture is None:
        axes.text(0.5, 0.5, "the slide is not at hand", ha="center", va="center", fontsize=8, color=GRAY)
    else:
        axes.imshow(picture, interpolation="nearest")


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _shortened(name: str, most: int = 38) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def _short(pixels: float) -> str:
    """Return a count with two or three digits, such as 1.2 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if pixels >= size:
            return f"{pixels / size:.3g} {unit}"
    return f"{pixels:.0f}"


def finish_axes(axes: Axes, title: str) -> None:
    """Draw title, grid and thin gray axes of a panel of curves."""
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.grid(color="#e6e6ea", linewidth=0.6)
    axes.tick_params(labelsize=8, colors=INK)
    _frame_plainly(axes)


def _frame_plainly(axes: Axes) -> None:
    for side in axes.spines.values():
        side.set(color="#c8c8d0", linewidth=0.8)
    axes.tick_params(length=2, color="#c8c8d0")


def to_png(figure: Figure) -> bytes:
    """Return the figure as PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()
