"""Claims: one owner at a time, taken over from the dead, never from the living."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from wsi_seg.core.errors import ClaimedError, OutputError
from wsi_seg.core.system import started_at
from wsi_seg.results import claims
from wsi_seg.results.claims import Owner, claimed, is_held, read_owner

HOLD = """
import sys, time
from pathlib import Path
from wsi_seg.core.system import started_at
from wsi_seg.results.claims import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


def holding(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_claim_is_refused_to_others_and_released(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.claim"
    with claimed(path):
        with pytest.raises(ClaimedError, match=rf"process {os.getpid()} on "), claimed(path):
            pass
        assert path.exists()
    assert list(path.parent.iterdir()) == []


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    process = holding(path)
    try:
        with pytest.raises(ClaimedError, match=f"process {process.pid}"), claimed(path):
            pass
    finally:
        process.kill()
        process.wait()
    with claimed(path):
        owner = read_owner(path)
        assert owner is not None and owner.pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_got_does_not_keep_a_claim(tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    path.write_text(json.dumps(asdict(Owner(started="1"))))
    with claimed(path):
        pass


def test_a_process_that_had_ended_when_it_was_looked_at_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    owner = Owner(pid=child.pid, started=started_at(child.pid))
    assert owner.known_dead() and not Owner().known_dead()
    child.wait()
    assert owner.known_dead()


def test_a_claim_from_another_machine_is_kept_while_it_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    path.write_text(json.dumps(asdict(Owner(machine="far boot pid", pid=1))))
    with pytest.raises(ClaimedError, match="process 1 on far"), claimed(path):
        pass
    long_ago = time.time() - claims.STALE_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    with claimed(path):
        pass


def test_a_claim_that_is_not_whole_counts_until_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    for text in ("", "{}", '{"machine": 1}', "[]"):
        path.write_text(text)
        with pytest.raises(ClaimedError, match="cannot be read"), claimed(path):
            pass
    os.utime(path, (1, 1))
    with claimed(path):
        pass


def test_who_only_looks_sees_whether_a_claim_is_held(tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    assert not is_held(path)
    process = holding(path)
    try:
        assert is_held(path)
    finally:
        process.kill()
        process.wait()
    assert path.exists() and not is_held(path)
    path.write_text(json.dumps(asdict(Owner(machine="far boot pid", pid=1))))
    assert is_held(path)
    long_ago = time.time() - claims.STALE_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    assert not is_held(path)
    assert [one.name for one in tmp_path.iterdir()] == ["x.claim"]


def test_what_is_no_file_is_not_opened_to_see_who_holds_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for a writer
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        assert not is_held(tmp_path / name)


def test_the_owner_touches_its_claim_and_notices_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    path = tmp_path / "x.claim"
    with claimed(path) as claim:
        os.utime(path, (1, 1))
        wait_until(lambda: path.stat().st_mtime > 1)
        claim.check()
        path.write_text(json.dumps(asdict(Owner(machine="far", pid=1))))
        wait_until(lambda: claim._lost)
        with pytest.raises(OutputError, match=r"another one took its place \(process 1 on far\)"):
            claim.confirm()
    assert read_owner(path) == Owner(**json.loads(path.read_text()))  # the other's is left alone


def test_a_filesystem_that_is_away_for_a_moment_costs_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    looks, away = [], threading.Event()

    def read(path: Path) -> Owner | None:
        looks.append(path)
        if away.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_owner(path)

    monkeypatch.setattr(claims, "read_owner", read)
    path = tmp_path / "x.claim"
    with claimed(path) as claim:
        away.set()
        wait_until(lambda: len(looks) > 3)
        claim.check()
        threading.Timer(0.05, away.clear).start()
        claim.confirm()  # waits until it can be read
        own = path.read_bytes()
        path.write_bytes(own[:9])  # not whole: says nothing about its owner
        seen = len(looks)
        wait_until(lambda: len(looks) > seen + 2)
        claim.check()
        path.write_bytes(own)
        claim.confirm()
        away.set()
        monkeypatch.setattr(claims, "TOLERATED_SECONDS", 0.05)
        with pytest.raises(
            OutputError, match=r"could not be touched for 0\.05 s \(Input/output error\).*resume"
        ):
            claim.confirm()
    assert claims.BEAT_SECONDS < claims.TOLERATED_SECONDS < claims.STALE_SECONDS
    assert read_owner(path) is not None  # nobody knows whose it is: it stays until it is old


def test_a_claim_that_was_removed_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    with claimed(path) as claim:
        path.unlink()
        with pytest.raises(OutputError, match="was removed"):
            claim.confirm()


def test_of_many_that_try_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    path.write_text(json.dumps(asdict(Owner(started="1"))))  # stale, so that all try to take it over
    together, release = threading.Barrier(8), threading.Event()
    got: list[int] = []

    def attempt(number: int) -> None:
        together.wait()
        try:
            with claimed(path):
                got.append(number)
                release.wait(10)
        except ClaimedError:
            pass

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    release.set()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_who_comes_late_leaves_the_claim_that_replaced_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    stale = Owner(started="1")
    path.write_text(json.dumps(asdict(stale)))
    first, late = Owner(), Owner()
    lock = tmp_path / "x.claim.takeover"
    lock.touch()
    assert not claims._take_over(path, stale, first)  # somebody is at it
    os.utime(lock, (1, 1))
    assert not claims._take_over(path, stale, first)  # who was killed at it: gone for the next attempt
    assert claims._take_over(path, stale, first)
    assert not claims._take_over(path, stale, late)
    assert read_owner(path) == first
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"), claimed(tmp_path / "file" / "x.claim"):
        pass


def wait_until(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)
