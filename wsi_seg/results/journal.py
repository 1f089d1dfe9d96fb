"""The journal of a run: a line for each finished block, so that a run resumes after whatever ends it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from wsi_seg.core.errors import OutputError
from wsi_seg.execution.tasks import BlockRecord


def append_record(path: Path, record: BlockRecord) -> None:
    """Append one finished block, whose shards are on disk by then; OSError where that is refused."""
    line = json.dumps({k: v for k, v in dataclasses.asdict(record).items() if k != "log"})
    with path.open("a", encoding="utf-8") as journal:
        journal.write(line + "\n")
        journal.flush()
        os.fsync(journal.fileno())


def read_records(path: Path) -> list[BlockRecord]:
    """Return the last record of each block; none where there is no journal.

    A last line that was cut by a kill is dropped from the file: its block runs again.

    Raises:
        OSError: the journal cannot be read or mended.
        OutputError: it is damaged.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = whole_lines(content)
    if whole != content:
        path.write_bytes(whole)
    return list(parse_records(whole, path).values())


def whole_lines(content: bytes) -> bytes:
    """Return a journal without its last line where that has no end: it is being written, or a kill cut it."""
    return content[: content.rfind(b"\n") + 1]


def parse_records(lines: bytes, path: Path) -> dict[tuple[int, int], BlockRecord]:
    """Return the last record of each block (ix, iy); OutputError where a line is damaged."""
    records = {}
    record_type = TypeAdapter(BlockRecord)
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            record = record_type.validate_json(line)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise OutputError(
                f"{path}: line {number} is damaged ({reason}); remove its folder and run again"
            ) from error
        records[record.ix, record.iy] = record
    return records
