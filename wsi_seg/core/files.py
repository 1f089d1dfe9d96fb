"""Files written whole or not at all, and the operating system's refusals as one line.

All contexts here turn an OSError of what is done inside into `<file>: <what is refused> (<reason>)`.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi_seg.core.errors import OutputError, WsiSegError


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
        OutputError: there is something at `path`, or it cannot be written.
    """
    if path.exists():
        raise OutputError(f"{path}: already exists; choose another name or remove it")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with writing(path):
        try:
            yield temporary
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
