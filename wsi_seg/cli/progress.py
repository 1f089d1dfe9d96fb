"""Progress bars on a terminal, silence elsewhere: one for slides, and one for the tiles of those that run."""

from __future__ import annotations

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

from wsi_seg.execution.tasks import BlockRecord
from wsi_seg.planning.plan import SegmentationPlan


class _Rate(ProgressColumn):
    """Tiles per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class BatchBars:
    """Bars on stderr, drawn only on a terminal."""

    def __init__(self, slides: int) -> None:
        console = Console(stderr=True)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[stage]}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._slides = self._bars.add_task("slides", total=slides, stage="", visible=slides > 1)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def slide(self, name: str) -> SlideBar:
        """Return the bar of a slide that begins."""
        self._tasks[name] = task = self._bars.add_task(name, total=None, stage="opening")
        return SlideBar(self._bars, task)

    def slide_ended(self, name: str) -> None:
        """Take the bar of a slide away and count it."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        self._bars.advance(self._slides)


class SlideBar:
    """The bar of one slide."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def start(self, plan: SegmentationPlan, tiles_done: int) -> None:
        """Set the number of tiles; those of an earlier, interrupted run count as done."""
        self._bars.update(self._task, total=plan.tiles, completed=tiles_done)

    def block_done(self, record: BlockRecord) -> None:
        """Advance by the tiles of one block."""
        self._bars.advance(self._task, record.tiles)

    def stage(self, name: str) -> None:
        """Show what is being done."""
        self._bars.update(self._task, stage=name)
