"""A progress bar on a terminal, silence elsewhere."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from wsi_seg.jobs import BlockRecord
from wsi_seg.plan import SegmentationPlan

logger = logging.getLogger(__name__)


class _Rate(ProgressColumn):
    """Tiles per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} tiles/s" if task.speed else "")


class BarProgress:
    """One bar of tiles for one slide, on stderr, drawn only on a terminal."""

    def __init__(self, name: str) -> None:
        console = Console(stderr=True)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn(name),
            TextColumn("{task.fields[stage]}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bars.add_task(name, total=None, stage="opening")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, plan: SegmentationPlan, tiles_done: int) -> None:
        """Set the number of tiles; those of an earlier, interrupted run count as done."""
        for warning in plan.warnings:
            logger.warning("%s: %s", plan.slide.name, warning)
        if tiles_done:
            logger.info("%s: going on after %d tiles of an earlier run", plan.slide.name, tiles_done)
        self._bars.update(self._task, total=plan.tiles, completed=tiles_done)

    def block_done(self, record: BlockRecord) -> None:
        """Advance by the tiles of one block."""
        if record.error:
            logger.warning("block (%d, %d) failed: %s", record.ix, record.iy, record.error)
        self._bars.advance(self._task, record.tiles)

    def stage(self, name: str) -> None:
        """Show what is being done."""
        logger.info("%s", name)
        self._bars.update(self._task, stage=name)
