"""Claims: who is at work on a slide's results, so that two runs never write the same ones.

A claim is a small file beside the results that names its owner. While the owner lives it touches the file
every few seconds. A claim whose owner is known to be dead, or that was not touched for a minute, may be taken
over. It needs nothing of a filesystem but creating a file exclusively and renaming, so it also holds
between machines that share one.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wsi_seg.errors import ClaimedError, OutputError
from wsi_seg.process import machine, started_at

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
# Between two looks at whether another run has finished taking a claim over, which takes milliseconds.
TAKEOVER_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a claim."""

    machine: str = field(default_factory=machine)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: started_at(os.getpid()))
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells two claims of one process apart."""

    @property
    def host(self) -> str:
        return self.machine.split(" ")[0]

    def known_dead(self) -> bool:
        """Return whether the owner ran on this machine and does not any more."""
        return self.machine == machine() and started_at(self.pid) != self.started


class Claim:
    """A claim that this process holds."""

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path = path
        self._owner = owner
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim {path.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Go on only while the claim is ours.

        Raises:
            OutputError: another run took it over, as this one did not show that it lives for a minute.
        """
        if self._lost.is_set():
            raise OutputError(
                f"{self.path}: this run stood still for so long that another one took its place; "
                "it ends here and leaves the slide to the other"
            )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            if read_owner(self.path) != self._owner:
                self._lost.set()
                return
            # A filesystem that is away for a moment costs a beat, not the run.
            with suppress(OSError):
                os.utime(self.path)

    def release(self) -> None:
        """Give the claim back, if it is still ours."""
        self._ended.set()
        self._thread.join()
        if not self._lost.is_set() and read_owner(self.path) == self._owner:
            self.path.unlink(missing_ok=True)


@contextmanager
def claimed(path: Path) -> Iterator[Claim]:
    """Hold the claim at `path`, a file whose folder is made where it is missing.

    Raises:
        ClaimedError: another run holds it.
        OutputError: the file cannot be written; inside, `Claim.check` found it taken over.
    """
    owner = Owner()
    try:
        while not _create(path, owner):
            holder = read_owner(path)
            if not path.exists():
                continue
            if not _is_stale(path, holder):
                raise ClaimedError(
                    f"{path}: another run is at work on this slide ({_describe(holder)}); "
                    "wait for it, or stop it"
                )
            if _take_over(path, holder, owner):
                break
    except OSError as error:
        raise OutputError(f"{error.filename or path}: cannot write results ({error.strerror})") from error
    claim = Claim(path, owner)
    try:
        yield claim
    finally:
        claim.release()


def read_owner(path: Path) -> Owner | None:
    """Return who holds the claim at `path`; None where there is none, or its file is not whole."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_held(path: Path) -> bool:
    """Tell without writing anything whether a run that lives holds the claim at `path`.

    Who takes a claim asks the clock of the filesystem; this asks that of this machine.
    """
    try:
        mark = path.lstat()
    except OSError:  # there is none, or none that may be read
        return False
    if not stat.S_ISREG(mark.st_mode):  # a link may lead anywhere, and a pipe never ends
        return False
    holder = read_owner(path)
    dead = holder is not None and holder.known_dead()
    return not dead and time.time() - mark.st_mtime <= STALE_SECONDS


def _create(path: Path, owner: Owner) -> bool:
    """Create the claim; False where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    with file:
        json.dump(asdict(owner), file)
    return True


def _is_stale(path: Path, holder: Owner | None) -> bool:
    if holder is not None and holder.known_dead():
        return True
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return True
    return _now_there(path) - touched > STALE_SECONDS


def _now_there(path: Path) -> float:
    """Return the time by the clock that stamps files in the folder, which may be another machine's."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _take_over(path: Path, holder: Owner | None, owner: Owner) -> bool:
    """Put our claim in the place of a stale one; False where another run is at that, or was.

    Only who has made the file `….takeover` may do so, and it looks again before: of several that find a claim
    stale, one gets it, and nobody removes the claim that it then has.
    """
    lock = path.with_name(path.name + ".takeover")
    try:
        lock.open("x").close()
    except FileExistsError:
        with suppress(FileNotFoundError):
            if _now_there(path) - lock.stat().st_mtime > STALE_SECONDS:  # its maker was killed just then
                lock.unlink()
        time.sleep(TAKEOVER_SECONDS)
        return False
    aside = path.with_name(f"{path.name}.{owner.token}")
    try:
        if not path.exists() or read_owner(path) != holder or not _is_stale(path, holder):
            return False
        aside.write_text(json.dumps(asdict(owner)), encoding="utf-8")
        aside.replace(path)
        return True
    finally:
        aside.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def _describe(holder: Owner | None) -> str:
    return f"process {holder.pid} on {holder.host}" if holder else "its file cannot be read"
