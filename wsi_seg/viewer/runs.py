"""Runs that are started from the browser: the command line's own, in a process of its own, one at a time."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ModelError
from wsi_seg.core.folders import dicom_files, walk_folders
from wsi_seg.core.formats import SLIDE_ENDINGS
from wsi_seg.inference.models.registry import list_installed, list_models
from wsi_seg.slides.slide import default_name
from wsi_seg.viewer.responses import Refused

log = logging.getLogger(__name__)

# A folder that is opened for this is meant to hold them.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
DEEPEST = 8
MOST_SLIDES = 10_000
# A stopped run may finish the batch it is at; after so many seconds it is ended.
PATIENCE_SECONDS = 20.0
MOST_OUTPUT = 2**20
MOST_MESSAGE = 500

State = Literal["running", "done", "failed", "stopped"]


@dataclass
class Job:
    """One run."""

    id: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    """Standard output: JSON of the results."""
    messages: IO[bytes]
    """Standard error."""
    final: Path
    """Folder that the results will be in."""
    stopped_at: float | None = None

    @property
    def state(self) -> State:
        code = self.process.poll()
        if code is None:
            return "running"
        if self.results():
            return "done"
        return "failed" if self.stopped_at is None else "stopped"

    def results(self) -> list[dict[str, Any]]:
        """Return what the run has printed of slides that have results."""
        try:
            printed = json.loads(_read(self.output) or b"[]")
        except ValueError:  # it was ended while it printed
            return []
        return [one for one in printed if one.get("folder")]

    def message(self) -> str:
        """Return the error of a run that failed, else what it said last."""
        lines = _read(self.messages).decode("utf-8", "replace").replace("\r", "\n").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        said = errors or [line for line in lines if line.strip()]
        return said[-1].strip()[:MOST_MESSAGE] if said else ""


class Runs:
    """Starts runs on the slides of one folder, and stops them as Ctrl-C does."""

    def __init__(self, out: Path, folder: Path) -> None:
        self._out, self._folder = out.resolve(), folder.resolve()
        self._lock = threading.Lock()
        self._job: Job | None = None

    def slides(self) -> dict[str, Path]:
        """Return the slides in the folder: by their place in it, the file or the folder of a DICOM series."""
        return dict(sorted(islice(_find_slides(self._folder).items(), MOST_SLIDES)))

    def models(self) -> dict[str, ModelCard]:
        """Return the models of tissue classes that are bundled or installed, by name."""
        found = {card.name: card for card in list_models()}
        try:
            found |= {card.name: card for card in list_installed()}
        except ModelError as error:  # bundled ones run all the same
            log.warning("%s", error)
        return {name: card for name, card in found.items() if card.task == "segmentation" and card.groups}

    def start(self, slide: str, model: str, groups: tuple[str, ...], threshold: float) -> Job:
        """Start a run.

        Raises:
            Refused: 400, the slide, model or a group is not among those that may be run; 409, one runs.
        """
        path, card = self.slides().get(slide), self.models().get(model)
        if path is None:
            raise Refused(400, f"no slide {slide[:80]!r} in the folder of --allow-run")
        if card is None:
            raise Refused(400, f"no model {model[:80]!r}")
        known = [group.name for group in card.groups]
        if not groups or not set(groups) <= set(known):
            raise Refused(400, f"groups must be one or more of {', '.join(known)}")
        with self._lock:
            if self._job is not None and self._job.process.poll() is None:
                raise Refused(409, "a run is on its way; wait for it or stop it")
            self._forget()
            self._job = self._launch(path, model, groups, threshold)
            return self._job

    def _launch(self, path: Path, model: str, groups: tuple[str, ...], threshold: float) -> Job:
        command = [
            sys.executable, "-m", "wsi_seg.cli", "run", str(path),
            f"--output={self._out}", f"--model={model}",
            f"--groups={','.join(groups)}", f"--threshold={threshold:g}", "--json",
        ]  # fmt: skip
        output, messages = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - in _forget
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=messages, start_new_session=True
        )
        name = path.name if path.is_dir() else default_name(str(path))
        return Job(secrets.token_hex(8), process, output, messages, self._out / name)

    def under_way(self) -> str | None:
        """Return the id of the run that is on its way, None where there is none."""
        job = self._job
        return job.id if job is not None and job.process.poll() is None else None

    def get(self, identity: str) -> Job:
        """Return the run of an id.

        Raises:
            Refused: 404, there is none, or another was started since.
        """
        job = self._job
        if job is None or job.id != identity:
            raise Refused(404, "no such run")
        if job.stopped_at is not None and time.monotonic() - job.stopped_at > PATIENCE_SECONDS:
            _signal(job, signal.SIGTERM)
        return job

    def stop(self, job: Job) -> None:
        """Ask a run to stop, as Ctrl-C does: finished blocks are kept, and it can be resumed."""
        if job.process.poll() is None and job.stopped_at is None:
            job.stopped_at = time.monotonic()
            _signal(job, signal.SIGINT)

    def close(self) -> None:
        """Stop what runs and wait for it."""
        with self._lock:
            if self._job is not None:
                self.stop(self._job)
                for number in (signal.SIGTERM, signal.SIGKILL):
                    try:
                        self._job.process.wait(PATIENCE_SECONDS)
                        break
                    except subprocess.TimeoutExpired:
                        _signal(self._job, number)
                self._job.process.wait()
                self._forget()

    def _forget(self) -> None:
        if self._job is not None:
            self._job.output.close()
            self._job.messages.close()
            self._job = None


def _signal(job: Job, number: int) -> None:
    """Send a signal to a run and its children, as a terminal does."""
    if job.process.poll() is None:
        os.killpg(job.process.pid, number)


def _read(file: IO[bytes]) -> bytes:
    # At a place, for the position in the file is that of the process that writes.
    return os.pread(file.fileno(), MOST_OUTPUT, max(0, os.fstat(file.fileno()).st_size - MOST_OUTPUT))


def _find_slides(root: Path) -> dict[str, Path]:
    """Return the slides in and under a folder by their place in it; links are followed to files within it."""
    found: dict[str, Path] = {}
    for folder, entries in walk_folders(root, DEEPEST, skip_unreadable=True):
        files = [path for path in entries if not path.is_symlink() or path.resolve().is_relative_to(root)]
        slides = [path for path in files if path.suffix.lower() in (*SLIDE_ENDINGS, *IMAGE_ENDINGS)]
        if folder != root and dicom_files(files)[0]:
            slides.append(folder)
        found |= {path.relative_to(root).as_posix(): path for path in slides}
        if len(found) >= MOST_SLIDES:
            break
    return found
