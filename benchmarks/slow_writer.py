"""Workers whose processes take their time to write a block, and what watches the memory behind them.

A module of its own, as these processes import it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from wsi_seg.execution.graph import Flight, TaskSet, Workers
from wsi_seg.execution.tasks import BlockRecord, Done, SlideTask, run_task
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.plan import SegmentationPlan

write_block = Maps.write_block


class SlowWriter(Workers):
    """Other workers' processes, in which writing a block takes some seconds more."""

    def __init__(self, workers: Workers, seconds: float) -> None:
        """Take workers in other processes, which whoever started them ends."""
        self._workers, self._seconds = workers, seconds

    @property
    def flight(self) -> Flight:
        return self._workers.flight

    def execute(self, work: TaskSet[Any, Any]) -> None:
        if work.function is run_task:
            tasks = [(key, (task, self._seconds)) for key, task in work.tasks]
            work = replace(work, function=_write_slowly, tasks=tasks, on_killed=None)
        self._workers.execute(work)

    def stop(self) -> None:
        self._workers.stop()

    def close(self) -> None:
        return None


def _write_slowly(slow: tuple[SlideTask, float]) -> Done:
    task, seconds = slow

    def write(maps: Maps, *args: Any, **arrays: Any) -> None:
        time.sleep(seconds)
        write_block(maps, *args, **arrays)

    Maps.write_block = write  # type: ignore[method-assign]  # in this worker process, for good
    return run_task(task)


class Peaks:
    """Progress that keeps the largest memory of any worker, in bytes, after each block."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def start(self, plan: SegmentationPlan, tiles_done: int) -> None:
        return None

    def block_done(self, record: BlockRecord) -> None:
        self.after.append(max([record.peak_memory, *self.after[-1:]]))

    def stage(self, name: str) -> None:
        return None
