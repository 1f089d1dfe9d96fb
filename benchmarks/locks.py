"""How a lock whose owner was killed is taken over: ours, filelock's lease and flufl.lock.

    python benchmarks/locks.py [--rounds 3] [--output FILE]

How long does the next process wait for the lock of a process of this machine that got SIGKILL, on a local
disk and as on NFS, whose client refuses renameat2 with flags (a seccomp filter answers EINVAL as it does)?
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import filelock
import flufl.lock
from machine import begin, versions, write_result

from wsi_seg.core.errors import ClaimedError
from wsi_seg.results import claims

LIFETIME = int(claims.STALE_SECONDS)
PATIENCE = 90


def take_ours(path: Path, stack: ExitStack) -> None:
    while True:
        try:
            stack.enter_context(claims.claimed(path))
            return
        except ClaimedError:
            time.sleep(0.1)


def take_filelock(path: Path, stack: ExitStack) -> None:
    stack.enter_context(filelock.SoftFileLease(path, lease_duration=LIFETIME).acquire(timeout=PATIENCE))


def take_flufl(path: Path, stack: ExitStack) -> None:
    stack.enter_context(flufl.lock.Lock(str(path), lifetime=LIFETIME, default_timeout=PATIENCE))


TAKE: dict[str, Callable[[Path, ExitStack], None]] = {
    "ours": take_ours,
    "filelock": take_filelock,
    "flufl.lock": take_flufl,
}


def refuse_rename_flags() -> None:
    """Answer renameat2 with flags by EINVAL from now on in this process, as Linux's NFS client does."""
    number = {"x86_64": 316, "aarch64": 276}[platform.machine()]
    # Load the call's number; for renameat2 load the flags, its fifth argument; allow, or refuse.
    code = [(0x20, 0, 0, 0), (0x15, 0, 2, number), (0x20, 0, 0, 48), (0x15, 0, 1, 0),
            (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | errno.EINVAL)]  # fmt: skip
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    kept = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(kept)), 16)
    libc = ctypes.CDLL(None, use_errno=True)
    # PR_SET_NO_NEW_PRIVS, without which PR_SET_SECCOMP (in mode 2, a filter) is for root alone.
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(header)):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


def hold(kind: str, path: Path) -> None:
    """Take the lock, say so, and wait to be killed."""
    with ExitStack() as stack:
        TAKE[kind](path, stack)
        print("held", flush=True)
        time.sleep(PATIENCE)


def wait_for(kind: str, path: Path, nfs: bool) -> None:
    """Print after how many seconds the lock is ours, "never" after `PATIENCE`."""
    if nfs:
        refuse_rename_flags()
    start = time.monotonic()
    try:
        with ExitStack() as stack:
            TAKE[kind](path, stack)
            print(time.monotonic() - start)
    except (filelock.Timeout, flufl.lock.TimeOutError):
        print("never")


def after_a_kill(kind: str, nfs: bool) -> float | None:
    """Return the seconds until the next process has the lock of a killed one; None: never."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lock"
        script = [sys.executable, __file__]
        with subprocess.Popen([*script, "--hold", kind, path], stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            holder.kill()
        command = [*script, "--wait", kind, path, *(["--nfs"] if nfs else [])]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return None if said == "never" else float(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hold", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--wait", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--nfs", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.hold:
        hold(given.hold[0], Path(given.hold[1]))
        return
    if given.wait:
        wait_for(given.wait[0], Path(given.wait[1]), given.nfs)
        return
    result = begin(versions=versions("filelock", "flufl.lock"), lifetime_seconds=LIFETIME)
    rows = []
    for kind in TAKE:
        for nfs in (False, True):
            waits = [after_a_kill(kind, nfs) for _ in range(given.rounds)]
            whole = [wait for wait in waits if wait is not None]
            never = len(waits) - len(whole)
            median = statistics.median(whole) if whole else None
            rows.append({"lock": kind, "as_on_nfs": nfs, "median_seconds": median, "never": never})
            said = f"{median:.3f} s" if median is not None else ""
            print(f"{kind:>12} {'as on NFS' if nfs else 'local':>10} {said:>10}", end="")
            print(f"  never within {PATIENCE} s: {never} of {given.rounds}" if never else "", flush=True)
    write_result(given.output, result | {"patience_seconds": PATIENCE, "rounds": given.rounds, "rows": rows})


if __name__ == "__main__":
    main()
