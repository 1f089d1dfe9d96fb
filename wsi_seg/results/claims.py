"""Locks on a slide's results, or a training's folder, so that two processes never write the same ones.

A claim is a small file next to what it is for that names its owner, who touches it every few seconds. A claim
whose owner is known to be dead, or that was not touched for a minute, may be taken over. An owner loses its
claim when the file is gone or names another owner. An owner that cannot read the file stops after
`TOLERATED_SECONDS` without a touch, before others may take the claim for abandoned.

Own code, as it needs nothing of a filesystem but exclusive creation and renaming, and takes the claim of a
killed process over in 0.03 s: flufl.lock 10 waits 71 s for its lifetime, needs hard links and machines with
the same time, and does not know containers. The lease of filelock 4.3 is as fast on a local disk, but on NFS,
which cannot exchange two names, it takes none over (benchmarks/locks.py, benchmarks/results/locks.json).
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

from wsi_seg.core.errors import ClaimedError, OutputError
from wsi_seg.core.files import atomic_path, reason_of, writing
from wsi_seg.core.system import machine, started_at

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
# An owner that could not touch its claim for so long stops, before another one takes the claim over.
TOLERATED_SECONDS = 45.0
# Between two looks at whether another run has finished taking a claim over, which takes milliseconds.
TAKEOVER_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a claim."""

    machine: str = field(default_factory=machine)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: started_at(os.getpid()))
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Differs between two claims of one process."""

    def known_dead(self) -> bool:
        """Return whether the owner ran on this machine and does not any more."""
        if self.machine != machine():
            return False
        # Of one that had ended when it was looked at, nothing is recorded.
        return not self.started or started_at(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.split(' ')[0]}"


class Claim:
    """A claim that this process holds."""

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path = path
        self._owner = owner
        self._ended = threading.Event()
        self._lost = ""
        self._touched = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name=f"claim {path.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Return only while the claim is ours, as far as the last beat knows.

        Raises:
            OutputError: another run took it over, or it could not be touched for `TOLERATED_SECONDS`.
        """
        if self._lost:
            raise OutputError(f"{self.path}: {self._lost}")

    def confirm(self) -> None:
        """Return once the claim was read and is ours: asked before what cannot be undone.

        Raises:
            OutputError: as for `check`; while the file cannot be read this waits and tries again.
        """
        while not self._look():
            self.check()
            time.sleep(BEAT_SECONDS)
        self.check()

    def _beat(self) -> None:
        while not self._lost and not self._ended.wait(BEAT_SECONDS):
            self._look()

    def _look(self) -> bool:
        """Read and touch the claim; return whether both worked and it is ours."""
        reason = "its file is not whole"
        try:
            owner = read_owner(self.path)
            if owner == self._owner:
                os.utime(self.path)
                self._touched = time.monotonic()
                return True
            if owner is not None:
                self._lost = (
                    f"this process stood still for so long that another one took its place ({owner}); "
                    "it ends here and leaves the rest to the other"
                )
                return False
        except FileNotFoundError:
            self._lost = "this claim was removed, so another process may have taken over; run again to resume"
            return False
        except OSError as error:
            reason = reason_of(error)
        if time.monotonic() - self._touched > TOLERATED_SECONDS:
            self._lost = (
                f"this claim could not be touched for {TOLERATED_SECONDS:g} s ({reason}), so another run may "
                "have taken the slide; run again to resume"
            )
        return False

    def release(self) -> None:
        """Give the claim back, if it is still ours."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):  # a claim that stays is known to be of a process that ended
            if not self._lost and read_owner(self.path) == self._owner:
                self.path.unlink()


@contextmanager
def claimed(path: Path) -> Iterator[Claim]:
    """Hold the claim at `path`, a file whose folder is made where it is missing.

    Raises:
        ClaimedError: another run holds it.
        OutputError: the file cannot be written; inside, `Claim.check` found it taken over.
    """
    owner = Owner()
    with writing(path):
        while not _create(path, owner):
            try:
                holder = _read_other(path)
            except FileNotFoundError:  # released just now
                continue
            if not _is_stale(path, holder):
                raise ClaimedError(
                    f"{path}: another one is at work there ({holder or 'its file cannot be read'}); "
                    "wait for it, or stop it"
                )
            if _take_over(path, holder, owner):
                break
    claim = Claim(path, owner)
    try:
        yield claim
    finally:
        claim.release()


def read_owner(path: Path) -> Owner | None:
    """Return the owner of the claim at `path`; None where its file is not whole.

    Raises:
        FileNotFoundError: there is no claim.
        OSError: it cannot be read for now, which says nothing about its owner.
    """
    text = path.read_bytes()
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        return None
    kinds = {"machine": str, "pid": int, "started": str, "token": str}
    whole = isinstance(plain, dict) and {key: type(value) for key, value in plain.items()} == kinds
    return Owner(**plain) if whole else None


def is_held(path: Path) -> bool:
    """Return, without writing anything, whether a run that lives holds the claim at `path`.

    `claimed` asks the clock of the filesystem; this asks that of this machine.
    """
    try:
        mark = path.lstat()
    except OSError:  # there is none, or none that may be read
        return False
    if not stat.S_ISREG(mark.st_mode):  # a link may lead anywhere, and a pipe never ends
        return False
    try:
        holder = read_owner(path)
    except OSError:
        holder = None
    dead = holder is not None and holder.known_dead()
    return not dead and time.time() - mark.st_mtime <= STALE_SECONDS


def _read_other(path: Path) -> Owner | None:
    """Return the owner of another run's claim; None where its file is not whole or is closed to us."""
    try:
        return read_owner(path)
    except PermissionError:
        return None


def _create(path: Path, owner: Owner) -> bool:
    """Create the claim; False where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    try:
        with file:
            json.dump(asdict(owner), file)
    except OSError:  # a full disk: no claim without an owner stays behind
        path.unlink(missing_ok=True)
        raise
    return True


def _is_stale(path: Path, holder: Owner | None) -> bool:
    if holder is not None and holder.known_dead():
        return True
    try:
        return _age(path) > STALE_SECONDS
    except FileNotFoundError:
        return True


def _age(path: Path) -> float:
    """Return the seconds since a touch, by the clock that stamps files there, maybe another machine's."""
    touched = path.stat().st_mtime
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime - touched
    finally:
        probe.unlink(missing_ok=True)


def _take_over(path: Path, holder: Owner | None, owner: Owner) -> bool:
    """Put our claim in the place of a stale one; False where another run is at that, or was.

    Only the run that has made the file `….takeover` may do so, and it looks again before: of several that
    find a claim stale, one gets it, and nobody removes the claim that it then has.
    """
    lock = path.with_name(path.name + ".takeover")
    try:
        lock.open("x").close()
    except FileExistsError:
        with suppress(FileNotFoundError):
            if _age(lock) > STALE_SECONDS:  # its maker was killed just then
                lock.unlink()
        time.sleep(TAKEOVER_SECONDS)
        return False
    try:
        if _read_other(path) != holder or not _is_stale(path, holder):
            return False
        with atomic_path(path, shared=True) as temporary:
            temporary.write_text(json.dumps(asdict(owner)), encoding="utf-8")
        return True
    except FileNotFoundError:  # released meanwhile
        return False
    finally:
        lock.unlink(missing_ok=True)
