"""The results folder of one slide: its files, how it is built under another name, and how a run resumes.

OUT/<slide>/              whole results, renamed into place at the end
    maps.zarr  polygons.geojson  overview.png  report.html  thumbnail.jpg  summary.json  manifest.json
    (polygons.geojson.gz instead where it is large, see `exporters.geojson.COMPRESS_ABOVE`)
    exports/              formats that were asked for, see `pipeline.run_exports`
OUT/.<slide>.partial/     the same while it is being made, and after an interruption
    plan.json             what is being done; a run with another plan does not mix with it
    blocks.jsonl          one line for each finished block
    content.json          the slide's files, and their hash once it is known, see `identity`
    contours/             contours in each block, see `regions.block_contours`
    traced/               regions of the groups that are traced, see `pipeline.tracing`
OUT/.<slide>.claim        the owner of both, see `claims`

The name of a slide may hold folders, as in a/b/slide: its results then lie in OUT/a/b. Results never lie
within those of another slide. A folder is replaced or removed only where all in it was written by a run on
the same slide; anything else is refused and stays as it is.

What a kill leaves behind, between any two writes, is one of: nothing; a partial folder without plan.json,
which is begun again; one with it, which is resumed; one with manifest.json, the last file to be written,
which only has to be renamed (`recover`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import reading, writing
from wsi_seg.execution.tasks import BlockRecord
from wsi_seg.planning.plan import SegmentationPlan
from wsi_seg.results import matching
from wsi_seg.results.files import (
    CONTENT,
    CONTOURS,
    EXPORTS,
    JOURNAL,
    LEFT_OUT,
    MANIFEST,
    PLAN,
    SUMMARY,
    TRACED,
    WORKING,
    as_summary,
    check_own,
    earlier_batch_of,
    final_name,
    is_export,
    is_manifest,
    left_out_files,
    listed_files,
    read_json,
    read_record,
    short_name,
    write_json,
)  # fmt: skip
from wsi_seg.results.journal import append_record, read_records
from wsi_seg.results.matching import ExpectedResults, Record, Versions
from wsi_seg.slides.identity import Content
from wsi_seg.slides.slide import default_name


def results_name(slide: str | Path) -> str:
    """Name results after the slide file, or after the folder of a DICOM series, whose files are numbered."""
    return Path(slide).absolute().name if Path(slide).is_dir() else default_name(str(slide))


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """The place of one slide's results."""

    out: Path
    name: str

    @property
    def final(self) -> Path:
        return self.out / self.name

    @property
    def place(self) -> Path | str:
        """The place of the whole results for everybody to see."""
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

    def _next_to(self, state: str) -> Path:
        return self.final.with_name(f".{short_name(self.final.name)}.{state}")

    def _finished(self) -> Record | None:
        """Return the manifest of whole results; None without any."""
        return self._finished_here()

    def _finished_here(self) -> Record | None:
        path = self.final / MANIFEST
        return read_record(path) if path.is_file() else None

    def kept_by_inputs(self, key_with: Callable[[Versions], str | None], versions: Versions) -> str | None:
        """Return a note on whole results of the same inputs, as `kept` does, but without opening the slide.

        `key_with` returns the key of the inputs with the versions of the software that made the results.
        """
        record = self._finished()
        recorded = None if record is None else matching.versions_of(record)
        if record is None or recorded is None or record.get("request") in (None, ""):
            return None
        if record["request"] != key_with(recorded):
            return None
        return matching.versions_note(recorded, versions)

    def check_place(self) -> None:
        """Refuse to build results within those of another slide.

        Raises:
            OutputError: a folder above, up to `out`, holds results.
        """
        for above in PurePosixPath(self.name).parents:
            manifest = self.out / above / MANIFEST
            with writing(manifest):
                if manifest.is_file() and is_manifest(manifest.read_bytes()):
                    raise OutputError(within_results(self.out / above))

    def remove_empty(self) -> None:
        """Leave no empty folder behind where results were only built."""

    def recover(self, expected: ExpectedResults, confirm: Callable[[], None]) -> None:
        """Bring to its end what a kill at the very end of an earlier run has left.

        `confirm` raises where the claim of this run is lost.
        """
        with writing(self.final):
            if (self.partial / MANIFEST).is_file():
                self._put_into_place(confirm)
            self._discard(self._old)

    def kept(self, expected: ExpectedResults) -> str | None:
        """Return a note on the whole results of this run that are there, "" where there is nothing to say.

        Returns:
            None where there are none, or where they are to be replaced.

        Raises:
            OutputError: the folder holds something else, or the results of another run that are not to be
                overwritten, or not all of which is of this slide.
            SlideError: the slide cannot be read, to compare it.
        """
        return self._kept_here(expected)

    def _kept_here(self, expected: ExpectedResults) -> str | None:
        record = self._finished_here()
        if record is None:
            self._check_empty()
            return None
        if not expected.overwrite:
            return matching.note_on_kept(record, expected, self.final)
        matching.check_same_slide(record, expected, self.final)
        check_own(self.final)
        return None

    def _check_empty(self) -> None:
        if self.final.is_symlink() or (self.final.exists() and not _is_empty(self.final)):
            raise OutputError(
                f"{self.final}: exists but holds no results of wsi-seg; choose another output folder"
            )

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Return those of the files, relative to the folder, that whole results do not have and can hold."""
        record = self._finished_here()
        listed, left_out = listed_files(record), left_out_files(record)
        return [
            name
            for name in names
            if name not in left_out and (name not in listed or not (self.final / name).exists())
        ]

    def left_out(self, names: Iterable[str]) -> list[str]:
        """Return why those of the files are left out that cannot hold these results."""
        left_out = left_out_files(self._finished())
        return [left_out[name] for name in names if name in left_out]

    def unfinished(self) -> list[str]:
        """Return the exports that whole results list and do not have, as a kill leaves them."""
        with reading(self.final, OutputError):
            return [
                name
                for name in listed_files(self._finished_here())
                if is_export(name) and not (self.final / name).exists()
            ]

    def add_files(self, names: Sequence[str]) -> None:
        """List files in the manifest of whole results that are about to be written, relative to the folder.

        Raises:
            OutputError: one of them is there and not listed, so it is somebody else's, or would be written
                through a link.
        """
        record = read_record(self.final / MANIFEST)
        listed = listed_files(record)
        for name in names:
            self._check_no_link(name)
            if name not in listed and (self.final / name).exists():
                raise OutputError(
                    f"{self.final / name}: is to be written, but no run has made it; move it elsewhere"
                )
        write_json(self.final / MANIFEST, {**record, "files": sorted({*listed, *names})})

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Record in the manifest that files, by path, are left out, as they cannot hold the results."""
        self._forget_files(reasons, {LEFT_OUT: {**left_out_files(self._finished_here()), **reasons}})

    def remove_unfinished(self, names: Sequence[str]) -> None:
        """Remove what was begun of exports, from `unfinished`, and list them no more.

        Raises:
            OutputError: it cannot be removed, or is behind a link.
        """
        for name in names:
            self._check_no_link(name)
            place = self.final / name
            with writing(place.parent):
                for path in place.parent.iterdir() if place.parent.is_dir() else ():
                    if path != place and final_name(path.name) == place.name:
                        _remove(path)
        self._forget_files(names)

    def _forget_files(self, names: Iterable[str], more: Mapping[str, Any] | None = None) -> None:
        record = read_record(self.final / MANIFEST)
        files = sorted({*listed_files(record)} - {*names})
        write_json(self.final / MANIFEST, {**record, **(more or {}), "files": files})

    def _check_no_link(self, name: str) -> None:
        for above in PurePosixPath(name).parents[:-1]:
            if (self.final / above).is_symlink():
                raise OutputError(
                    f"{self.final / above}: is a link, and nothing is written elsewhere; remove it"
                )

    def read_summary(self) -> dict[str, Any]:
        return as_summary(read_json(self.final / SUMMARY), self.final / SUMMARY)

    def earlier_batch(self) -> int | None:
        """Return the batch size of the finished or unfinished run that is here; None where there is none."""
        if (self.partial / PLAN).is_file():
            return earlier_batch_of(read_record(self.partial / PLAN))
        record = self._finished()
        plan = {} if record is None else record.get("plan")
        return earlier_batch_of(plan) if isinstance(plan, dict) else None

    def begin(self, plan: SegmentationPlan, expected: ExpectedResults) -> list[BlockRecord]:
        """Make the partial folder, or resume that of an earlier, interrupted run.

        Returns:
            Records of the blocks that were tried already; those that are not `written` are to be tried again.

        Raises:
            OutputError: the folder cannot be written, or belongs to a run with another plan.
            SlideError: the slide cannot be read, to compare it.
        """
        unfinished = (self.partial / PLAN).is_file()
        if unfinished and expected.overwrite:
            matching.check_same_slide(read_record(self.partial / PLAN), expected, self.partial)
        elif unfinished:
            before = self._content()
            matching.check_resumable(read_record(self.partial / PLAN), before, expected, self.partial)
            self.record_content(expected, Content.from_json(before).sha256)
            with writing(self.partial):
                return read_records(self.partial / JOURNAL)
        with writing(self.partial):
            self._discard(self.partial)
            self.partial.mkdir(parents=True)
        try:
            self.record_content(expected)
            record = {
                "run_key": expected.key,
                "made_with": dict(expected.versions),
                "content": expected.content(),
            }
            write_json(self.partial / PLAN, {**record, **plan.to_json()})
        except OutputError:
            self.discard_if_nothing_done()
            raise
        return []

    def record_content(self, expected: ExpectedResults, sha256: str | None = None) -> None:
        """Record the slide's files, and their hash where it is known, for a run that resumes."""
        write_json(self.partial / CONTENT, expected.content(sha256))

    def known_hash(self) -> str | None:
        """Return the hash of the slide that the unfinished run has recorded."""
        return Content.from_json(self._content()).sha256

    def _content(self) -> Any:
        return read_json(self.partial / CONTENT) if (self.partial / CONTENT).is_file() else None

    def record(self, record: BlockRecord) -> None:
        """Append one finished block to the journal; the block's shards are on disk by then."""
        with writing(self.partial):
            append_record(self.partial / JOURNAL, record)

    def files(self) -> list[str]:
        """Return all that the whole results will hold, relative to the folder, `MANIFEST` included."""
        names = {path.name for path in self.partial.iterdir() if path.suffix != ".tmp"}
        exports = {path.relative_to(self.partial).as_posix() for path in self.partial.glob(f"{EXPORTS}/*/*")}
        return sorted((names | exports | {MANIFEST}) - {*WORKING, EXPORTS})

    def discard_exports(self) -> None:
        """Remove what an interrupted run has exported: the maps may have changed since."""
        self._remove(EXPORTS)

    def discard_traced(self) -> None:
        """Remove regions that an interrupted run has traced: the maps change."""
        self._remove(TRACED)

    def _remove(self, name: str) -> None:
        folder = self.partial / name
        with writing(folder):
            if folder.exists():
                shutil.rmtree(folder)

    def finish(self, confirm: Callable[[], None]) -> None:
        """Rename the partial folder into place; whole results of before are replaced only then.

        `confirm` raises where the claim of this run is lost.

        Raises:
            OutputError: the claim is lost, or what is in the place is not to be replaced; the partial folder
                stays, to be put there by the next run.
        """
        with writing(self.final):
            self._put_into_place(confirm)

    def _put_into_place(self, confirm: Callable[[], None]) -> None:
        before = self._finished_here()
        if before is None:
            self._check_empty()
        else:
            matching.check_same_record(before, read_record(self.partial / MANIFEST), self.final)
            check_own(self.final)
        self._discard(self._old)
        confirm()
        self.discard_traced()
        self._remove(CONTOURS)
        for name in WORKING:
            (self.partial / name).unlink(missing_ok=True)
        if before is not None:
            self.final.rename(self._old)
        self.partial.rename(self.final)
        self._discard(self._old)

    def discard_if_nothing_done(self) -> None:
        """Remove the partial folder when it holds no finished block that a next run could keep."""
        with writing(self.partial):
            if not (self.partial / JOURNAL).exists() and not (self.partial / MANIFEST).exists():
                self._discard(self.partial)

    def _discard(self, folder: Path) -> None:
        """Remove a folder of ours, if it is there; OutputError where it holds anything else."""
        if folder.is_symlink() or folder.exists():
            check_own(folder)
            shutil.rmtree(folder)


def within_results(place: Path | str) -> str:
    return (
        f"{place}: holds the results of a slide, and no others are put within them; "
        "choose another output folder or name"
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
