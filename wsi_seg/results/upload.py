"""Results behind a URL: built in a local folder as any others, then uploaded, the manifest last.

    URL/<slide>/…             whole when, and only when, its manifest.json is there
    STAGING/<hash of URL>/…   the local folder; a slide's results leave it once they are uploaded

An upload that was interrupted goes on when the same command is run again: files that are there with the same
size and MD5 are not sent again, and whatever else is left of an earlier upload is removed before the manifest
is written. Where a store keeps no MD5 of a file, it is sent again.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import writing
from wsi_seg.core.folders import cache_folder
from wsi_seg.core.storage import connect, is_remote
from wsi_seg.core.storage_errors import reported
from wsi_seg.results import matching
from wsi_seg.results.claims import is_held
from wsi_seg.results.files import (
    MANIFEST,
    SUMMARY,
    as_record,
    as_summary,
    check_name,
    foreign_files,
    is_manifest,
    left_out_files,
    listed_files,
)
from wsi_seg.results.folder import ResultsFolder, within_results
from wsi_seg.results.matching import ExpectedResults, Record, Versions

UPLOADS_AT_ONCE = 8


def results_folder(out: str | Path, name: str, staging: str | None = None) -> ResultsFolder:
    """Return where the results of one slide go.

    Those for a URL are built in `staging`, by default in the user's cache folder.

    Raises:
        OutputError: the URL cannot be written to, or the name is too long for a folder.
    """
    check_name(name)
    if not is_remote(out):
        return ResultsFolder(Path(out), name)
    url = str(out).rstrip("/")
    if url.startswith("http"):
        raise OutputError(
            f"{url}: results cannot be written to a web server; use s3://, gs://, az:// or a folder"
        )
    connect(url, OutputError)
    return RemoteResultsFolder(local_folder(url, staging), name, f"{url}/{name}")


def local_folder(out: str | Path, staging: str | None = None) -> Path:
    """Return the local folder of results: `out` itself, or where those for a URL are built."""
    if not is_remote(out):
        return Path(out)
    root = Path(staging) if staging is not None else cache_folder("staging")
    return root / hashlib.sha256(str(out).rstrip("/").encode()).hexdigest()[:16]


def upload_files(folder: Path, names: Sequence[str], url: str) -> None:
    """Put files of a local folder next to the results at a URL; those that are not there are left out.

    Raises:
        OutputError: the URL cannot be written.
    """
    store, root = connect(url.rstrip("/"), OutputError)
    with reported(url, OutputError):
        for name in names:
            if (folder / name).is_file():
                store.put_file(str(folder / name), f"{root}/{name}")


@dataclass(frozen=True)
class RemoteResultsFolder(ResultsFolder):
    """A results folder that is moved to a URL at the end."""

    url: str
    """Of the results of this slide."""

    @property
    def place(self) -> str:
        return self.url

    @cached_property
    def _store(self) -> tuple[Any, str]:
        return connect(self.url, OutputError)

    @cached_property
    def _manifest(self) -> Record | None:
        return self._read_remote(MANIFEST)

    def _finished(self) -> Record | None:
        return self._manifest

    def kept_by_inputs(self, key_with: Callable[[Versions], str | None], versions: Versions) -> str | None:
        """Return a note on whole results at the URL of the same inputs; see `ResultsFolder`."""
        note = super().kept_by_inputs(key_with, versions)
        record = self._finished()
        if note is not None and record is not None:
            self._leave_staging(record)
        return note

    def check_place(self) -> None:
        """Refuse to build results within those of another slide, at the URL or here; see `ResultsFolder`."""
        super().check_place()
        above = self.url
        for _ in PurePosixPath(self.name).parts:
            above = above.rpartition("/")[0]
            if is_manifest(self._fetch(above, MANIFEST) or b""):
                raise OutputError(within_results(above))

    def kept(self, expected: ExpectedResults) -> str | None:
        """Return a note on the whole results of this run that are at the URL; see `ResultsFolder`.

        Raises:
            OutputError: the URL or the local folder holds something else, or the results of another run that
                are not to be overwritten; or it cannot be reached.
            SlideError: the slide cannot be read, to compare it.
        """
        record = self._finished()
        if record is not None and not expected.overwrite:
            note = matching.note_on_kept(record, expected, self.url)
            self._leave_staging(record)  # where a run ended right after its last upload
            return note
        self._refuse_foreign(record)
        if record is not None:
            matching.check_same_slide(record, expected, self.url)
        self._kept_here(expected)
        return None

    def recover(self, expected: ExpectedResults, confirm: Callable[[], None]) -> None:
        """Bring to its end what an earlier run has left, and upload results that are whole here.

        What is at the URL is looked up again, as the owner of the claim before may have changed it.
        """
        super().recover(expected, confirm)
        self._forget()
        if self._finished() is None and not expected.overwrite and self._kept_here(expected) is not None:
            self._upload(confirm)

    def _forget(self) -> None:
        self.__dict__.pop("_manifest", None)

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Return those of the files that the results at the URL do not have.

        Raises:
            OutputError: there are any: they can be added where the results are a local folder.
        """
        record = self._finished()
        known = {*listed_files(record), *left_out_files(record)}
        missing = [name for name in names if name not in known]
        if missing:
            raise OutputError(
                f"{self.url}: these results lack {missing[0]}, and files are added to local results alone; "
                "pass --overwrite to make them again, or use wsi-seg export on a copy"
            )
        return missing

    def unfinished(self) -> list[str]:
        """Return no files: what is at a URL was uploaded whole."""
        return []

    def read_summary(self) -> dict[str, Any]:
        """Return the summary of the results at the URL.

        Raises:
            OutputError: it cannot be read.
        """
        summary = self._read_remote(SUMMARY)
        if summary is None:
            raise OutputError(f"{self.url}/{SUMMARY}: no such file, though the results have a manifest")
        return as_summary(summary, f"{self.url}/{SUMMARY}")

    def finish(self, confirm: Callable[[], None]) -> None:
        """Rename the partial folder into place, upload it, and remove it; see `ResultsFolder`."""
        super().finish(confirm)
        self._upload(confirm)

    def _upload(self, confirm: Callable[[], None]) -> None:
        """Upload the whole local folder: the manifest last, and without one until then.

        Raises:
            OutputError: the claim is lost, the URL holds what was not there before, or it cannot be written;
                what was uploaded is kept for the next attempt.
        """
        before = self._manifest
        self._forget()
        if self._manifest != before:
            raise OutputError(
                f"{self.url}: another run has put results there meanwhile; run again to see whether they are "
                "the same"
            )
        there = self._refuse_foreign(before)
        store, root = self._store
        here = {
            path.relative_to(self.final).as_posix(): path
            for path in sorted(self.final.rglob("*"))
            if path.is_file()
        }
        manifest = here.pop(MANIFEST)
        todo = [name for name, path in here.items() if not _same(path, there.get(name))]
        stale = [name for name in there if name not in here]
        confirm()
        with reported(self.url, OutputError):
            for name in sorted(stale, key=lambda name: name != MANIFEST):
                store.rm_file(f"{root}/{name}")
            # Of a longer list, `put` leaves coroutines behind that complain when one of them fails.
            for start in range(0, len(todo), UPLOADS_AT_ONCE):
                some = todo[start : start + UPLOADS_AT_ONCE]
                store.put([str(here[name]) for name in some], [f"{root}/{name}" for name in some])
            self._check_sizes(here)
            confirm()
            store.put_file(str(manifest), f"{root}/{MANIFEST}")
        self._forget()
        self._discard_staged()

    def _check_sizes(self, here: dict[str, Path]) -> None:
        """Refuse an upload of which a file is missing at the URL or has another size than the local one."""
        there = self._list()
        for name, path in here.items():
            size, sent = there.get(name, {}).get("size", 0), path.stat().st_size
            if name not in there or size != sent:
                raise OutputError(f"{self.url}/{name}: {size} of {sent} bytes are stored; run again")

    def _leave_staging(self, record: Record) -> None:
        """Remove whole results that are here too, once those at the URL are the same."""
        here = self._finished_here()
        if here is not None and here.get("key") == record.get("key") and not is_held(self.claim):
            self._discard_staged()

    def _discard_staged(self) -> None:
        with writing(self.final):
            self._discard(self.final)

    def remove_empty(self) -> None:
        """Remove the local folder, where nothing else is built in it."""
        with suppress(OSError):  # other slides are on their way, or nothing was staged
            self.out.rmdir()

    def _refuse_foreign(self, record: Record | None) -> dict[str, dict[str, Any]]:
        """Return what is at the URL, see `_list`; OutputError where no run has written some of it."""
        there = self._list()
        foreign = foreign_files(there, listed_files(record))
        if foreign:
            raise OutputError(
                f"{self.url}: holds {foreign[0]}, which is no result of wsi-seg; choose another output folder"
            )
        return there

    def _list(self) -> dict[str, dict[str, Any]]:
        """Return what is at the URL: facts by name."""
        store, root = self._store
        with reported(self.url, OutputError):
            store.invalidate_cache()
            try:
                found: dict[str, dict[str, Any]] = store.find(root, detail=True)
            except FileNotFoundError:
                bucket = root.partition("/")[0]
                if store.exists(bucket):
                    return {}
                raise OutputError(f"{self.url}: there is no bucket {bucket}; make it first") from None
        return {path[len(root) :].lstrip("/"): facts for path, facts in found.items()}

    def _read_remote(self, name: str) -> dict[str, Any] | None:
        content, url = self._fetch(self.url, name), f"{self.url}/{name}"
        try:
            return None if content is None else as_record(json.loads(content), url)
        except (ValueError, RecursionError) as error:
            raise OutputError(f"{url}: is damaged ({error}); remove it and run again") from error

    @staticmethod
    def _fetch(folder: str, name: str) -> bytes | None:
        """Return a file in a folder at a URL, as it is now; None where there is none."""
        url = f"{folder}/{name}"
        store, path = connect(url, OutputError)
        try:
            with reported(url, OutputError):
                store.invalidate_cache()
                return bytes(store.cat_file(path))
        except OutputError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise


def _same(path: Path, facts: dict[str, Any] | None) -> bool:
    """Tell whether a stored file is known to have the bytes of a local one."""
    if facts is None or facts.get("size") != path.stat().st_size:
        return False
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).digest()
    return digest in _digests(facts)


def _digests(facts: dict[str, Any]) -> list[bytes]:
    """Return what a store says of a file's content that may be its MD5."""
    found = []
    etag = str(facts.get("ETag", "")).strip('"')
    if len(etag) == 32 and set(etag) <= set("0123456789abcdef"):  # S3, unless sent in parts
        found.append(bytes.fromhex(etag))
    if facts.get("md5Hash"):  # Google
        found.append(base64.b64decode(facts["md5Hash"]))
    azure = facts.get("content_settings") or {}
    if azure.get("content_md5"):
        found.append(bytes(azure["content_md5"]))
    return found
