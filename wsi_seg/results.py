"""The results folder of one slide: what lies where, how it is built aside, and how a run is taken up again.

OUT/<slide>/              whole results, renamed into place at the end
    maps.zarr  polygons.geojson  overview.png  summary.json  manifest.json
    (polygons.geojson.gz instead where it is large, see `exporters.geojson.COMPRESS_ABOVE`)
OUT/.<slide>.partial/     the same while it is being made, and after an interruption
    plan.json             what is being done; a run with another plan does not mix with it
    blocks.jsonl          one line for each finished block
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.errors import OutputError
from wsi_seg.jobs import BlockRecord
from wsi_seg.plan import SegmentationPlan

MAPS = "maps.zarr"
POLYGONS = "polygons.geojson"
OVERVIEW = "overview.png"
SUMMARY = "summary.json"
MANIFEST = "manifest.json"
PLAN = "plan.json"
JOURNAL = "blocks.jsonl"


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals (full disk, no permission) into one clear line."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or path}: cannot write results ({error.strerror or error})"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a sibling file and rename it, so that `path` is old or new but never half."""
    aside = path.with_name(path.name + ".tmp")
    with writing_to(path):
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        aside.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file of a results folder.

    Raises:
        OutputError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise OutputError(f"{path}: is damaged ({error}); remove its folder and run again") from error


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """Where the results of one slide go."""

    out: Path
    name: str

    @property
    def final(self) -> Path:
        return self.out / self.name

    @property
    def place(self) -> Path | str:
        """Where the whole results are for everybody to see."""
        return self.final

    @property
    def partial(self) -> Path:
        return self.out / f".{self.name}.partial"

    def holds(self, key: str, overwrite: bool) -> bool:
        """Tell whether whole results of the run with this key are there, to be kept.

        Raises:
            OutputError: the folder holds something else, or the results of another run that are not to be
                overwritten.
        """
        if not self.final.exists():
            return False
        if not (self.final / MANIFEST).is_file():
            raise OutputError(
                f"{self.final}: exists but holds no results of wsi-seg; choose another output folder"
            )
        if overwrite:
            return False
        if read_json(self.final / MANIFEST).get("key") != key:
            raise OutputError(
                f"{self.final}: holds results of another slide, model or settings; "
                "choose another output folder, or pass --overwrite to replace them"
            )
        return True

    def read_summary(self) -> dict[str, Any]:
        return dict(read_json(self.final / SUMMARY))

    def earlier_batch(self) -> int | None:
        """Return the batch size of the finished or unfinished run that is here; None where there is none."""
        for path, where in ((self.partial / PLAN, ()), (self.final / MANIFEST, ("plan",))):
            if path.is_file():
                plain = read_json(path)
                for key in where:
                    plain = plain.get(key, {})
                batch = plain.get("batch")
                return int(batch) if batch is not None else None
        return None

    def begin(self, plan: SegmentationPlan, key: str, overwrite: bool) -> list[BlockRecord]:
        """Make the partial folder, or take up the one of an earlier, interrupted run.

        Returns:
            Records of the blocks that are finished already.

        Raises:
            OutputError: the folder cannot be written, or belongs to a run with another plan.
        """
        if self.partial.exists() and overwrite:
            self._remove(self.partial)
        if (self.partial / PLAN).exists():
            if read_json(self.partial / PLAN).get("run_key") != key:
                raise OutputError(
                    f"{self.partial}: holds an unfinished run with other settings, slide or model; "
                    "finish that one, choose another output folder, or pass --overwrite"
                )
            return self._read_journal()
        with writing_to(self.partial):
            self.partial.mkdir(parents=True, exist_ok=True)
        write_json(self.partial / PLAN, {"run_key": key, **plan.to_json()})
        return []

    def record(self, record: BlockRecord) -> None:
        """Append one finished block to the journal; the block's shards are on disk by then."""
        line = json.dumps(dataclasses.asdict(record))
        with writing_to(self.partial), (self.partial / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(line + "\n")
            journal.flush()
            os.fsync(journal.fileno())

    def _read_journal(self) -> list[BlockRecord]:
        path = self.partial / JOURNAL
        if not path.exists():
            return []
        records = {}
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # the last line was cut by a kill: drop it, its block runs again
            with writing_to(path):
                path.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            plain = json.loads(line)
            plain["counts"] = {int(code): count for code, count in plain["counts"].items()}
            record = BlockRecord(**plain)
            records[record.ix, record.iy] = record
        return [record for record in records.values() if record.error is None]

    def finish(self) -> None:
        """Rename the partial folder into place; whole results of before are replaced only then."""
        with writing_to(self.final):
            for name in (PLAN, JOURNAL):
                (self.partial / name).unlink(missing_ok=True)
            old = self.out / f".{self.name}.old"
            if self.final.exists():
                self.final.rename(old)
            self.partial.rename(self.final)
            if old.exists():
                shutil.rmtree(old)

    def discard_if_nothing_done(self) -> None:
        """Remove the partial folder when it holds no finished block that a next run could keep."""
        if self.partial.exists() and not (self.partial / JOURNAL).exists():
            self._remove(self.partial)

    def _remove(self, folder: Path) -> None:
        with writing_to(folder):
            shutil.rmtree(folder)
