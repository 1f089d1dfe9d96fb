"""The results folder of one slide: what lies where, how it is built aside, and how a run is taken up again.

OUT/<slide>/              whole results, renamed into place at the end
    maps.zarr  polygons.geojson  overview.png  report.html  thumbnail.jpg  summary.json  manifest.json
    (polygons.geojson.gz instead where it is large, see `exporters.geojson.COMPRESS_ABOVE`)
OUT/.<slide>.partial/     the same while it is being made, and after an interruption
    plan.json             what is being done; a run with another plan does not mix with it
    blocks.jsonl          one line for each finished block
OUT/.<slide>.claim        who is at it, see `claims`

The name of a slide may hold folders, as in a/b/slide: its results then lie in OUT/a/b.

What a kill leaves behind, between any two writes, is one of: nothing; a partial folder without plan.json,
which starts anew; one with it, which goes on; one with manifest.json, the last file to be written, which only
has to be renamed (`settle`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.errors import OutputError
from wsi_seg.jobs import BlockRecord
from wsi_seg.plan import SegmentationPlan
from wsi_seg.slide import default_name

MAPS = "maps.zarr"
POLYGONS = "polygons.geojson"
OVERVIEW = "overview.png"
THUMBNAIL = "thumbnail.jpg"
REPORT = "report.html"
SUMMARY = "summary.json"
MANIFEST = "manifest.json"
PLAN = "plan.json"
JOURNAL = "blocks.jsonl"

# Bytes of the longest file name that filesystems in use take, and those that may be added to a slide's name
# (as in `.NAME.claim.` with the 32 digits of a UUID).
LONGEST_NAME = 255
NAME_AFFIXES = 48


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals (full disk, no permission) into one clear line."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or path}: cannot write results ({error.strerror or error})", error.errno
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


def missing_files(manifest: Path) -> list[str]:
    """Return the files that a manifest lists and its folder lacks, one line each."""
    try:
        record = read_json(manifest)
    except OutputError as error:
        return [str(error)]
    listed = record.get("files", []) if isinstance(record, dict) else []
    return [
        f"{manifest}: lists {name}, which is missing"
        for name in listed
        if not (manifest.parent / name).exists()
    ]


def results_name(slide: str | Path) -> str:
    """Name results after the slide file, or after the folder of a DICOM series, whose files are numbered."""
    return Path(slide).absolute().name if Path(slide).is_dir() else default_name(str(slide))


def short_name(name: str) -> str:
    """Return the name under which temporary files and logs of results of this name lie next to each other.

    It is the name itself, or of a very long one its beginning and a hash: filesystems take 255 bytes, some of
    which go before and after the name.
    """
    if len(os.fsencode(name)) <= LONGEST_NAME - NAME_AFFIXES:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    room = LONGEST_NAME - NAME_AFFIXES - len(digest) - 1
    return f"{os.fsencode(name)[:room].decode(sys.getfilesystemencoding(), 'ignore')}-{digest}"


def check_name(name: str) -> None:
    """Check that folders can have the name of results; OutputError where it is too long."""
    longest = max((len(os.fsencode(part)) for part in Path(name).parts), default=0)
    if longest > LONGEST_NAME:
        raise OutputError(
            f"{name}: a name of {longest} bytes, where a folder has at most {LONGEST_NAME}; "
            "give a shorter one in the column name of a table"
        )


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
        return self._next_to("partial")

    @property
    def claim(self) -> Path:
        return self._next_to("claim")

    @property
    def _old(self) -> Path:
        return self._next_to("old")

    def _next_to(self, ending: str) -> Path:
        return self.final.with_name(f".{short_name(self.final.name)}.{ending}")

    def finished_request(self) -> str | None:
        """Return the request that the whole results here answer, see `run.request_key`; None without any."""
        path = self.final / MANIFEST
        if not path.is_file():
            return None
        request = read_json(path).get("request")
        return None if request is None else str(request)

    def tidy(self) -> None:
        """Leave no empty folder behind where results were only built."""

    def settle(self) -> None:
        """Bring to its end what a kill at the very end of an earlier run has left."""
        with writing_to(self.final):
            if (self.partial / MANIFEST).is_file():
                self.finish()
            if self._old.exists():
                shutil.rmtree(self._old)

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
            Records of the blocks that were tried already; those that are not `written` are to be tried again.

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
            if self.partial.exists():  # killed before it had a plan
                shutil.rmtree(self.partial)
            self.partial.mkdir(parents=True)
        write_json(self.partial / PLAN, {"run_key": key, **plan.to_json()})
        return []

    def record(self, record: BlockRecord) -> None:
        """Append one finished block to the journal; the block's shards are on disk by then."""
        line = json.dumps({k: v for k, v in dataclasses.asdict(record).items() if k != "log"})
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
            counts = {int(code): count for code, count in plain.pop("counts").items()}
            record = BlockRecord(**{**plain, "counts": counts, "log": ()})
            records[record.ix, record.iy] = record
        return list(records.values())

    def files(self) -> list[str]:
        """Return the names of all that the whole results will hold, `MANIFEST` included."""
        names = {path.name for path in self.partial.iterdir() if path.suffix != ".tmp"}
        return sorted((names | {MANIFEST}) - {PLAN, JOURNAL})

    def finish(self) -> None:
        """Rename the partial folder into place; whole results of before are replaced only then."""
        with writing_to(self.final):
            for name in (PLAN, JOURNAL):
                (self.partial / name).unlink(missing_ok=True)
            if self.final.exists():
                if self._old.exists():
                    shutil.rmtree(self._old)
                self.final.rename(self._old)
            self.partial.rename(self.final)
            if self._old.exists():
                shutil.rmtree(self._old)

    def discard_if_nothing_done(self) -> None:
        """Remove the partial folder when it holds no finished block that a next run could keep."""
        if self.partial.exists() and not (self.partial / JOURNAL).exists():
            self._remove(self.partial)

    def _remove(self, folder: Path) -> None:
        with writing_to(folder):
            shutil.rmtree(folder)
