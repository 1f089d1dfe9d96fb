"""Pages as PDF, printed by the Chromium or Chrome that is installed.

The pages are laid out by grids and flexible boxes, as browsers do it; a library that lays out pages itself
would be a second one to test them with.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

from wsi_seg.core.errors import MissingExtraError, OutputError
from wsi_seg.core.files import reason_of, writing

PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
# Seconds; 5,000 slides of a batch take a minute.
MOST_SECONDS = 300.0
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # /dev/shm is small in containers
    "--disable-background-networking",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pdf-header-footer",
    "--print-to-pdf-no-header",  # its name before Chromium 111
)
PDF = b"%PDF-"


def find_browser() -> str:
    """Return the program of a Chromium or Chrome.

    Raises:
        MissingExtraError: there is none on the search path.
    """
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        raise MissingExtraError(
            f"PDF needs Chromium or Chrome, and PATH has none of {', '.join(PROGRAMS)}; install one (Debian: "
            "apt install chromium), or print report.html from any browser"
        )
    return found


def print_page(path: Path, write: Callable[[Path], object], *, most_seconds: float = MOST_SECONDS) -> Path:
    """Write a page as PDF, whole or not at all.

    Args:
        path: PDF file to write.
        write: writes the page into an HTML file; all it shows is in that file.
        most_seconds: after which the browser is stopped.

    Raises:
        MissingExtraError: no browser is installed.
        OutputError: it did not print the page, or `path` cannot be written.
    """
    browser = find_browser()
    # Next to the file, and named as other temporary files: browsers of some distributions do not see /tmp.
    work = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with writing(path):
        try:
            work.mkdir()
            page, printed = work / "page.html", work / "page.pdf"
            write(page)
            _run(browser, page.absolute(), printed.absolute(), most_seconds)
            printed.replace(path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return path


def _run(browser: str, page: Path, printed: Path, most_seconds: float) -> None:
    command = [browser, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", f"--print-to-pdf={printed}"]
    if os.geteuid() == 0:  # Chromium's sandbox refuses root; the page runs nothing and asks for nothing
        command.append("--no-sandbox")
    log = page.with_name("log")
    with log.open("wb") as messages:
        try:
            process = subprocess.Popen(
                [*command, page.as_uri()],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                start_new_session=True,
            )
        except OSError as error:
            raise OutputError(f"{browser}: cannot be started ({reason_of(error)})") from error
        try:
            code = process.wait(most_seconds)
        except subprocess.TimeoutExpired as error:
            raise OutputError(f"{browser}: printed nothing in {most_seconds:g} s and was stopped") from error
        finally:
            _end(process)
    if code or not _is_pdf(printed):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "without a word")
        raise OutputError(f"{browser}: printed no PDF, exit code {code}: {last}")


def _is_pdf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(PDF)) == PDF


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a browser that still runs, with the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
