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
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wsi_seg.errors import OutputError
from wsi_seg.remote import connect, is_remote
from wsi_seg.remote_errors import reported
from wsi_seg.results import (
    MANIFEST,
    MAPS,
    OVERVIEW,
    POLYGONS,
    REPORT,
    SUMMARY,
    THUMBNAIL,
    ResultsFolder,
    check_name,
    writing_to,
)

RESULTS = (MAPS, POLYGONS, f"{POLYGONS}.gz", OVERVIEW, THUMBNAIL, REPORT, SUMMARY, MANIFEST)
UPLOADS_AT_ONCE = 8
MIB = 2**20


def results_folder(out: str | Path, name: str, staging: str | None = None) -> ResultsFolder:
    """Return where the results of one slide go.

    Args:
        out: local folder, or URL.
        name: of the slide.
        staging: local folder where results for a URL are built; by default in the user's cache folder.

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
    root = Path(staging) if staging is not None else default_staging()
    return root / hashlib.sha256(str(out).rstrip("/").encode()).hexdigest()[:16]


def upload_files(folder: Path, names: Sequence[str], url: str) -> None:
    """Put files of a local folder beside the results at a URL; those that are not there are left out.

    Raises:
        OutputError: the URL cannot be written.
    """
    store, root = connect(url.rstrip("/"), OutputError)
    with reported(url, OutputError):
        for name in names:
            if (folder / name).is_file():
                store.put_file(str(folder / name), f"{root}/{name}")


def default_staging() -> Path:
    """Return `wsi_seg/staging` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "wsi_seg" / "staging"


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
    def _manifest(self) -> dict[str, Any] | None:
        return self._read_remote(MANIFEST)

    def holds(self, key: str, overwrite: bool) -> bool:
        """Tell whether whole results of the run with this key are there, to be kept.

        Results of this key that are whole here but not all uploaded are uploaded first.

        Raises:
            OutputError: the URL or the local folder holds something else, or the results of another run that
                are not to be overwritten; or it cannot be reached.
        """
        if overwrite or self._manifest is None:
            self._refuse_foreign()
        if overwrite:
            return super().holds(key, overwrite)
        if self._manifest is None:
            whole = super().holds(key, overwrite)
            if whole:
                self._upload()
            return whole
        if self._manifest.get("key") != key:
            raise OutputError(
                f"{self.url}: holds results of another slide, model or settings; "
                "choose another output folder, or pass --overwrite to replace them"
            )
        self._leave_staging()  # where a run ended right after its last upload
        return True

    def finished_request(self) -> str | None:
        """Return the request that the whole results at the URL answer; None without any."""
        return None if self._manifest is None else self._manifest.get("request")

    def read_summary(self) -> dict[str, Any]:
        """Return the summary of the results at the URL.

        Raises:
            OutputError: it cannot be read.
        """
        summary = self._read_remote(SUMMARY)
        if summary is None:
            raise OutputError(f"{self.url}/{SUMMARY}: no such file, though the results have a manifest")
        return summary

    def earlier_batch(self) -> int | None:
        """Return the batch size of the finished or unfinished run that is there; None where there is none."""
        if self._manifest is not None:
            batch = self._manifest.get("plan", {}).get("batch")
            return int(batch) if batch is not None else None
        return super().earlier_batch()

    def finish(self) -> None:
        """Rename the partial folder into place, upload it, and remove it."""
        super().finish()
        self._upload()

    def _upload(self) -> None:
        """Upload the whole local folder: the manifest last, and without one until then.

        Raises:
            OutputError: the URL cannot be written; what was uploaded is kept for the next attempt.
        """
        self._refuse_foreign()
        store, root = self._store
        there = self._list()
        here = {
            path.relative_to(self.final).as_posix(): path
            for path in sorted(self.final.rglob("*"))
            if path.is_file()
        }
        manifest = here.pop(MANIFEST)
        todo = {name: path for name, path in here.items() if not _same(path, there.get(name))}
        stale = [name for name in there if name not in here]
        with reported(self.url, OutputError):
            for name in sorted(stale, key=lambda name: name != MANIFEST):
                store.rm_file(f"{root}/{name}")
            # One by one: `put` of a list leaves coroutines behind that complain when one of them fails.
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                list(pool.map(store.put_file, map(str, todo.values()), (f"{root}/{name}" for name in todo)))
            self._check_arrived(here)
            store.put_file(str(manifest), f"{root}/{MANIFEST}")
        self._leave_staging()

    def _leave_staging(self) -> None:
        if self.final.exists():
            with writing_to(self.final):
                shutil.rmtree(self.final)

    def tidy(self) -> None:
        """Remove the local folder, where nothing else is built in it."""
        with suppress(OSError):  # other slides are on their way, or nothing was staged
            self.out.rmdir()

    def _check_arrived(self, here: dict[str, Path]) -> None:
        there = self._list()
        for name, path in here.items():
            size = there.get(name, {}).get("size")
            if size != path.stat().st_size:
                raise OutputError(
                    f"{self.url}/{name}: {path.stat().st_size} bytes were sent, {size} are there; run again"
                )

    def _refuse_foreign(self) -> None:
        foreign = sorted(name for name in self._list() if name.partition("/")[0] not in RESULTS)
        if foreign:
            raise OutputError(
                f"{self.url}: holds {foreign[0]}, which is no result of wsi-seg; choose another output folder"
            )

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
        store, root = self._store
        url = f"{self.url}/{name}"
        try:
            with reported(url, OutputError):
                return dict(json.loads(store.cat_file(f"{root}/{name}")))
        except OutputError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        except ValueError as error:
            raise OutputError(f"{url}: is damaged ({error}); remove it and run again") from error


def _same(path: Path, facts: dict[str, Any] | None) -> bool:
    """Tell whether a stored file is known to have the bytes of a local one."""
    if facts is None or facts.get("size") != path.stat().st_size:
        return False
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(MIB):
            digest.update(piece)
    return digest.digest() in _digests(facts)


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
