"""How far a run is, from its plan and its journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.core.errors import OutputError
from wsi_seg.execution.tasks import BlockRecord
from wsi_seg.results.files import PLAN
from wsi_seg.results.journal import parse_records, whole_lines

Blocks = list[tuple[int, int, int]]
"""ix, iy and number of tiles of each block of a plan."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is."""

    blocks_done: int
    blocks_total: int
    tiles_done: int
    tiles_total: int
    done: frozenset[tuple[int, int]]
    """(ix, iy) of the blocks that were written, those that were read in part included."""
    failed: frozenset[tuple[int, int]] = frozenset()
    """(ix, iy) of the blocks of which nothing could be read."""

    def to_json(self) -> dict[str, int]:
        return {
            "blocks_done": self.blocks_done,
            "blocks_failed": len(self.failed),
            "blocks_total": self.blocks_total,
            "tiles_done": self.tiles_done,
            "tiles_total": self.tiles_total,
        }


def planned_blocks(plan: Mapping[str, Any], folder: Path) -> Blocks:
    """Return the blocks of a run's plan; OutputError where it is damaged.

    Args:
        plan: the record in `PLAN`.
        folder: where it lies, for the message.
    """
    try:
        return [(int(ix), int(iy), int(tiles)) for ix, iy, tiles in plan["blocks"]]
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{folder / PLAN}: is damaged ({error}); run wsi-seg run again") from error


def progress_of(blocks: Blocks, journal: Path | None) -> RunProgress:
    """Return how far a run is whose plan has these blocks.

    Args:
        blocks: see `planned_blocks`.
        journal: the file that its blocks are recorded in; None while there is none.

    Raises:
        OutputError: the journal is damaged.
    """
    tiles = {(ix, iy): count for ix, iy, count in blocks}
    records = {} if journal is None else _read_journal(journal)
    written = {place: record.written for place, record in records.items()}
    return RunProgress(
        blocks_done=len(written),
        blocks_total=len(blocks),
        tiles_done=sum(tiles.get(place, 0) for place in written),
        tiles_total=sum(tiles.values()),
        done=frozenset(place for place, there in written.items() if there),
        failed=frozenset(place for place, there in written.items() if not there),
    )


def _read_journal(path: Path) -> dict[tuple[int, int], BlockRecord]:
    try:
        content = path.read_bytes()
    except OSError:  # the run has just been finished, and the file removed
        return {}
    return parse_records(whole_lines(content), path)
