"""Logs: one file of JSON lines for each slide, with what its blocks logged wherever they were done."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import reason_of

ROOT = "wsi_seg"
# Of one block; a slide may have thousands.
MOST_LINES = 50


def as_line(record: logging.LogRecord) -> dict[str, Any]:
    """Return a log record as plain data: time (UTC), level, logger, message, and any traceback."""
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    if record.exc_info:
        line["traceback"] = logging.Formatter().formatException(record.exc_info)
    return line


class _OfThisThread(logging.Handler):
    """Takes what the thread that made it logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread == self._thread and super().filter(record) is not False


class _Keeping(_OfThisThread):
    def __init__(self, lines: list[dict[str, Any]]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) < MOST_LINES:
            self._lines.append({**as_line(record), "worker": socket.gethostname(), "pid": record.process})


@contextmanager
def captured() -> Iterator[list[dict[str, Any]]]:
    """Collect what this thread logs, as `as_line` with the worker's host and process id."""
    lines: list[dict[str, Any]] = []
    with _attached(_Keeping(lines)):
        yield lines


class SlideLog(_OfThisThread):
    """The log file of one slide: what the thread that runs it logs, and what is handed to it.

    Lines are kept back until `begin`: a slide that is skipped, or of which no block can be done, gets none.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file: TextIO | None = None
        self._waiting: list[dict[str, Any]] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as one line."""
        self.write(as_line(record))

    def begin(self) -> None:
        """Write what was kept back, and now each line as it comes; OutputError where that is refused."""
        waiting, self._waiting = self._waiting or [], None
        for line in waiting:
            self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        """Write one line; OutputError where that is refused."""
        if self._waiting is not None:
            self._waiting.append(line)
            return
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Half a character of a file's name is written as JSON has it, `\udcff`.
                self._file = self.path.open("a", encoding="utf-8", errors="backslashreplace")
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot write the log ({reason_of(error)})", error.errno
            ) from error
        except UnicodeEncodeError as error:
            raise OutputError(
                f"{self.path}: cannot write the log (its name has a character that {error.encoding}, the "
                "encoding of the locale, lacks)"
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            # What could not be written was refused before, and said so.
            with suppress(OSError):
                self._file.close()
        super().close()


@contextmanager
def slide_log(path: Path) -> Iterator[SlideLog]:
    """Keep a log of what this thread does, at `path`."""
    log = SlideLog(path)
    try:
        with _attached(log):
            yield log
    finally:
        log.close()


@contextmanager
def _attached(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger(ROOT)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
