"""Runs that outlive the program that asks for them: each call starts, looks at or stops one, and ends.

Nothing but files connects the calls, so that they may come from a program that was closed meanwhile:

OUT/logs/<slide>.qupath.json   the process of the run, as in a claim
OUT/logs/<slide>.qupath.log    what it printed
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import writing
from wsi_seg.core.system import machine, started_at
from wsi_seg.results.claims import Owner, is_held, read_owner
from wsi_seg.results.files import JOURNAL, LOGS, MANIFEST, PLAN, read_record, short_name, write_json
from wsi_seg.results.folder import ResultsFolder
from wsi_seg.results.progress import planned_blocks, progress_of

State = Literal["none", "running", "stopped", "failed", "done"]
PROGRAM = (sys.executable, "-m", "wsi_seg.cli")
ERROR = "error: "
# Of a log, in bytes: no run of one slide prints more that matters.
MOST_LOG = 2**20
# Of a message, in characters.
MOST_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class RunState:
    """How a run is, or how it ended."""

    state: State
    """`none`: there was none; `stopped`: it can be started again and resumes."""
    tiles_done: int = 0
    tiles_total: int = 0
    """0 until the run has planned its tiles."""
    message: str = ""
    """One line on why it failed or stopped."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class BackgroundRun:
    """The run of one slide whose results go to `out`/`name`."""

    def __init__(self, out: Path, name: str) -> None:
        self.results = ResultsFolder(out, name)
        place = out / LOGS / name
        self._record = place.with_name(f"{short_name(place.name)}.qupath.json")
        self.log = self._record.with_suffix(".log")

    def start(self, words: Sequence[str]) -> None:
        """Start `wsi-seg` with these words in a process of its own, unless the run is on its way.

        Raises:
            OutputError: the folder of logs cannot be written.
        """
        if self._is_running():
            return
        with writing(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("wb") as log:
                process = subprocess.Popen(
                    [*PROGRAM, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # neither a closed terminal nor the end of ssh reaches it
                )
        owner = Owner(pid=process.pid, started=started_at(process.pid))
        write_json(self._record, asdict(owner))

    def stop(self, *, hard: bool = False) -> None:
        """Ask the run to stop, as Ctrl-C does; `hard`: end it. Finished blocks are kept.

        Raises:
            OutputError: it runs, but was not started here.
        """
        owner = self._owner()
        if owner is not None and owner.machine == machine() and not owner.known_dead():
            os.killpg(owner.pid, signal.SIGTERM if hard else signal.SIGINT)
        elif self._is_running():
            raise OutputError(
                f"{self.results.final}: this run was started elsewhere ({self._holder()}); stop it there"
            )

    def state(self) -> RunState:
        """Return how the run is; OutputError where its files are damaged."""
        if self._is_running():
            return self._with_progress("running", "")
        manifest = self.results.final / MANIFEST
        done = manifest.is_file()
        lines = self._lines()
        errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
        if errors and not (done and manifest.stat().st_mtime > self.log.stat().st_mtime):
            stopped = errors[-1].startswith("interrupted")
            return self._with_progress("stopped" if stopped else "failed", errors[-1])
        if done:
            return RunState("done")
        if (self.results.partial / PLAN).is_file():
            return self._with_progress("stopped", "the run was interrupted; start it again to resume it")
        if self._record.exists():
            said = f" after {lines[-1]!r}" if lines else ""
            return RunState("failed", message=f"{self.log}: the run ended without results{said}")
        return RunState("none")

    def _is_running(self) -> bool:
        owner = self._owner()
        here = owner is not None and owner.machine == machine() and not owner.known_dead()
        return here or is_held(self.results.claim)

    def _owner(self) -> Owner | None:
        """Return the process that was started last; None where none was."""
        try:
            return read_owner(self._record)
        except OSError:
            return None

    def _holder(self) -> Owner | None:
        try:
            return read_owner(self.results.claim)
        except OSError:  # it has just ended
            return None

    def _lines(self) -> list[str]:
        """Return what the run has printed, without empty lines."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - MOST_LOG))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return []
        return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]

    def _with_progress(self, state: State, message: str) -> RunState:
        folder = self.results.partial
        plan, journal = folder / PLAN, folder / JOURNAL
        try:
            blocks = planned_blocks(read_record(plan), folder) if plan.is_file() else []
        except OutputError:
            if plan.is_file():
                raise
            blocks = []  # the run has just been finished
        progress = progress_of(blocks, journal if journal.exists() else None)
        return RunState(state, progress.tiles_done, progress.tiles_total, message[:MOST_MESSAGE])
