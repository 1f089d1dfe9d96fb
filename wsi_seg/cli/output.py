"""Terminal output of the commands. A closed or full terminal, pipe or file does not end the work."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import typer

from wsi_seg.core.files import reason_of

# Why something could not be printed although somebody may wait for it; of the command that runs.
_lost: list[str] = []


def prepare_output() -> None:
    """Begin a command: what a terminal's encoding lacks is written as escapes and never raises."""
    _lost.clear()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, *, err: bool = False) -> bool:
    """Print a line to stdout, or with `err` to stderr.

    Where that fails, nothing more is printed there. A reader that has gone (`| head`) is nothing to speak of;
    any other failure is said on stderr, and counts as `lost_output`.

    Returns:
        Whether it was printed.
    """
    try:
        typer.echo(text, err=err)
    except OSError as error:
        _write_to_nowhere(sys.stderr if err else sys.stdout)
        if not (isinstance(error, BrokenPipeError) or err):
            _lost.append(f"stdout: cannot be written ({reason_of(error)})")
            say(f"error: {_lost[-1]}", err=True)
        return False
    return True


def lost_output() -> bool:
    """Return whether stdout failed, other than by being closed, since the command began."""
    return bool(_lost)


def _write_to_nowhere(stream: TextIO) -> None:
    """Let a stream end at the null device; it may still hold text, which Python writes when it ends."""
    # OSError: no file is behind the stream.
    with suppress(OSError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
