"""A run that is watched and stopped."""

from __future__ import annotations

from wsi_seg.execution.tasks import BlockRecord
from wsi_seg.planning.plan import SegmentationPlan


class StopAfter:
    """Ctrl-C once so many blocks are done; -1: never."""

    def __init__(self, blocks: int = -1) -> None:
        self.left = blocks
        self.tiles_done: int | None = None
        """Tiles that were done before the run began; None until it begins to compute."""

    @property
    def started(self) -> bool:
        return self.tiles_done is not None

    def start(self, plan: SegmentationPlan, tiles_done: int) -> None:
        self.tiles_done = tiles_done

    def block_done(self, record: BlockRecord) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop()

    def stop(self) -> None:
        raise KeyboardInterrupt

    def stage(self, name: str) -> None:
        return None
