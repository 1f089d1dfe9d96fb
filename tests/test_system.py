"""Facts about processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from wsi_seg.core.system import peak_memory_bytes, started_at

ASK = "import sys; from wsi_seg.core.system import started_at; print(started_at(int(sys.argv[1])), end='')"


@pytest.mark.skipif(not psutil.LINUX, reason="the oracle is /proc")
@pytest.mark.parametrize("pid", [1, os.getpid()], ids=["first", "own"])
def test_the_start_of_a_process_is_that_of_the_kernel_whoever_asks(pid: int) -> None:
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    asked = subprocess.run([sys.executable, "-c", ASK, str(pid)], capture_output=True, text=True, check=True)
    assert started_at(pid) == asked.stdout == f"{ticks / os.sysconf('SC_CLK_TCK'):.2f}"


def test_a_process_that_ended_has_no_start() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert started_at(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert started_at(child.pid) == ""  # a zombie: it ended, and nobody has asked how
    child.wait()
    assert started_at(child.pid) == ""


def test_peak_memory_counts_what_was_touched_and_freed() -> None:
    before = peak_memory_bytes()
    assert len(b"x" * (before + 2**26)) > before
    assert peak_memory_bytes() > before + 2**25
