"""Files written whole or not at all, and the operating system's refusals as one line.

All contexts here turn an OSError of what is done inside into `<file>: <what is refused> (<reason>)`.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from wsi_seg.core.errors import OutputError, WsiSegError
from wsi_seg.core.formats import GZIP_MAGIC, ZIP_MAGIC

# JSON and XML of outlines become five to twenty times as large when they are unpacked; what becomes more than
# so many times as large, and larger than so many bytes, is made to fill the memory.
MOST_PACKED = 100
SMALL_TEXT = 2**26
UNPACKED_AT_ONCE = 2**20


def reason_of(error: OSError) -> str:
    """Return the operating system's reason in a few words, such as `No space left on device`."""
    return error.strerror or str(error)


@contextmanager
def reading(path: Path | str, kind: type[WsiSegError]) -> Iterator[None]:
    """Report a refusal to read as an error of this kind; it names `path` where the system names no file."""
    try:
        yield
    except OSError as error:
        raise kind(f"{error.filename or path}: cannot be read ({reason_of(error)})") from error


def check_plain(path: Path, kind: type[WsiSegError]) -> None:
    """Refuse what is there and no plain file, as an error of this kind: a pipe or a device has no end."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder the system says so itself
        raise kind(f"{path}: is no plain file; copy what it holds into one")


def read_plain(path: Path, kind: type[WsiSegError]) -> bytes:
    """Read a file of regions or the like that a user names, unpacked where it is gzipped or zipped.

    Raises:
        WsiSegError: as an error of this kind, where it cannot be read, is no plain file, damaged, unpacks
            to far more than any text does, or is a ZIP archive of several files.
    """
    with reading(path, kind):
        check_plain(path, kind)
        data = path.read_bytes()
    if not data.startswith((GZIP_MAGIC, ZIP_MAGIC)):
        return data
    zipped = data.startswith(ZIP_MAGIC)
    most, parts, unpacked = max(SMALL_TEXT, MOST_PACKED * len(data)), list[bytes](), 0
    try:
        with _only_file(data, path, kind) if zipped else gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read(UNPACKED_AT_ONCE):
                unpacked += len(part)
                if unpacked > most:
                    raise kind(f"{path}: its {len(data):,} bytes unpack to more than {most:,}: no drawing")
                parts.append(part)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise kind(f"{path}: damaged {'ZIP' if zipped else 'gzip'} file ({error})") from error
    return b"".join(parts)


def _only_file(data: bytes, path: Path, kind: type[WsiSegError]) -> IO[bytes]:
    """Return the only file of a ZIP archive, opened; nothing is written, so its name does not matter."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    files = [entry for entry in archive.infolist() if not (entry.is_dir() or _is_added(entry.filename))]
    if len(files) != 1:
        raise kind(f"{path}: a ZIP archive of {len(files)} files, not of one; unpack it and name one of them")
    return archive.open(files[0])


def _is_added(name: str) -> bool:
    """Return whether macOS has put a file into an archive."""
    return name.startswith("__MACOSX/") or name.endswith(".DS_Store")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report a refusal to write (full disk, no permission) as an OutputError with its `errno`.

    It names `path` where the operating system names no file.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or path}: cannot be written ({reason_of(error)})", error.errno
        ) from error


@contextmanager
def atomic_path(path: Path, *, shared: bool = False, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path` and rename it at the end: `path` is old or new, never half.

    Where the body raises, the temporary file is removed and `path` stays as it was. What a killed process
    leaves is `<name>.tmp`, which the next writer replaces, or `.<name>.<32 hex digits>.tmp` if shared. The
    mode is that of a new file (the umask holds), not that of the file that is replaced.

    Args:
        path: the file; its folder exists.
        shared: several processes may write the file at a time, so each has a temporary name of its own.
        sync: return only when the content is on the disk.

    Raises:
        OutputError: the file cannot be written, with the `errno`; also for an OSError of the body.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp" if shared else f"{path.name}.tmp")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({reason_of(error)})", error.errno) from error
    finally:
        with suppress(OSError):  # renamed, never made, or what matters has been raised
            temporary.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder name next to `path`, and rename what was made there at the end.

    Where the body raises, all of it is removed. A killed process leaves `.<name>.<32 hex digits>.tmp`.

    Raises:
        OutputError: there is something at `path`, its folder is missing, or it cannot be written.
    """
    if not path.parent.is_dir():  # some libraries would make it
        raise OutputError(f"{path}: cannot be written, as there is no folder {path.parent}")
    if path.exists():
        raise OutputError(f"{path}: already exists; choose another name or remove it")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with writing(path):
        try:
            yield temporary
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
