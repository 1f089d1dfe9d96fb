"""How far a training is, from the log in its folder, and whether one is on its way. Free of torch."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from wsi_seg.results.claims import is_held
from wsi_seg.results.files import short_name
from wsi_seg.results.journal import whole_lines

LOG = "log"
METRICS = "metrics.csv"
# So often at least the log is written during a training.
LEAST_WRITES = 200


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Content of a log; None where it does not say (yet)."""

    step: int
    """Steps that are done."""
    loss: float | None = None
    """Of the last of them."""
    validation_loss: float | None = None
    """Of the last whole epoch, on the part that stops the training."""
    validation_dice: float | None = None


def read_progress(folder: Path) -> TrainingProgress:
    """Return how far the training in a folder is; a line that is being written does not count.

    Args:
        folder: `--output` of the training.
    """
    try:
        content = (folder / LOG / METRICS).read_bytes()
    except OSError:  # nothing is logged yet
        return TrainingProgress(0)
    last: dict[str, float] = {}
    for row in csv.DictReader(whole_lines(content).decode("utf-8", "replace").splitlines()):
        for name in ("step", "loss", "validation_loss", "validation_dice"):
            if (value := _number(row.get(name))) is not None:
                last[name] = value
    step = int(last.pop("step", -1)) + 1  # the log counts from 0
    return TrainingProgress(step, last.get("loss"), last.get("validation_loss"), last.get("validation_dice"))


def claim_of(folder: Path) -> Path:
    """Return the lock next to a folder, which the training in it holds; see `results.claims`."""
    whole = folder.absolute()
    return whole.with_name(f".{short_name(whole.name)}.claim")


def is_on_its_way(folder: Path) -> bool:
    """Return whether a training, here or on another machine, is at work in a folder."""
    return is_held(claim_of(folder))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
