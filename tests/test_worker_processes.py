"""Worker processes of this machine: how they start, fail to, are started again, and end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.errors import ClusterError
from wsi_seg.core.geometry import Size
from wsi_seg.execution.graph import TaskSet
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.workers import open_workers

REPOSITORY = Path(__file__).resolve().parent.parent
TWO = WorkerSettings(processes=2, threads=1)

# Scripts as people write them: all at the top level, nothing guarded.
SEGMENTING = """
import sys
from tests.made.landmarks import darkness_model
from wsi_seg import RunSettings, segment_slide
from wsi_seg.execution.settings import WorkerSettings

print("begun")
settings = RunSettings(tissue="none", workers=WorkerSettings(processes=2, threads=1))
result = segment_slide(sys.argv[1], sys.argv[2], darkness_model(), settings)
print(result.status, result.summary["tasks_in_flight"]["limit"])
"""
WAITING = """
import os, sys, time
from wsi_seg.execution.graph import TaskSet
from wsi_seg.execution.workers import open_workers
from wsi_seg.execution.settings import WorkerSettings

def wait(seconds):
    time.sleep(seconds)

with open_workers(WorkerSettings(processes=2, threads=1)) as workers:
    print("ready", flush=True)
    workers.execute(TaskSet(wait, [(f"wait-{n}", 600) for n in range(2)], print))
"""
# Run by each interpreter as it starts, from a folder on PYTHONPATH.
FAILS = """
import os, sys

if os.environ["WSI_SEG_TEST_ARGUMENT"] in sys.orig_argv:
    print("MemoryError: no room", file=sys.stderr)
    os._exit(7)
"""
DIES_ONCE = """
import os, signal, sys
from pathlib import Path

died = Path(os.environ["WSI_SEG_TEST_DIED"])
if os.environ["WSI_SEG_TEST_ARGUMENT"] in sys.orig_argv and not died.exists():
    died.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def process_id(_: int) -> int:
    os.write(1, bytes(100_000))  # what a task prints blocks nothing
    return os.getpid()


def worker_processes(driver: psutil.Process) -> list[psutil.Process]:
    """Return the worker processes of a driver, which the process of their scheduler has started."""
    return [child for child in driver.children(recursive=True) if "--multiprocessing-fork" in child.cmdline()]


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text)
    return path


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.mark.parametrize("argument", ["-P", "--multiprocessing-fork"], ids=["scheduler", "worker"])
def test_workers_that_cannot_start_are_one_error_at_once(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILS)
    monkeypatch.setenv("WSI_SEG_TEST_ARGUMENT", argument)
    monkeypatch.setattr("wsi_seg.execution.worker_processes.START_ATTEMPTS", 2)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClusterError, match=r"2 worker processes did not start \(.*no room\); try fewer"):
        open_workers(TWO)
    assert not worker_processes(psutil.Process())


@pytest.mark.parametrize("argument", ["-P", "--multiprocessing-fork"], ids=["scheduler", "worker"])
def test_a_process_that_dies_as_it_starts_is_started_again(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIES_ONCE)
    died = tmp_path / "died"
    monkeypatch.setenv("WSI_SEG_TEST_DIED", str(died))
    monkeypatch.setenv("WSI_SEG_TEST_ARGUMENT", argument)
    monkeypatch.syspath_prepend(tmp_path)
    found: list[int] = []
    with open_workers(WorkerSettings(processes=2, threads=1)) as workers:
        assert died.exists()
        running = {worker.pid for worker in worker_processes(psutil.Process())}
        tasks = [(f"id-{number}", number) for number in range(20)]
        workers.execute(TaskSet(process_id, tasks, found.append))
    assert len(running) == 2 and len(found) == 20 and set(found) <= running


@pytest.mark.usefixtures("importable")
def test_workers_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, str(script(tmp_path, WAITING))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "ready\n"
        workers = worker_processes(psutil.Process(driver.pid))
        driver.kill()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_a_scheduler_that_dies_ends_the_run_with_one_error() -> None:
    with open_workers(TWO) as workers:
        running = worker_processes(psutil.Process())
        (scheduler,) = {worker.parent() for worker in running}
        assert scheduler is not None
        threading.Timer(1.0, scheduler.kill).start()
        with pytest.raises(ClusterError, match="run the same command again to resume"):
            workers.execute(TaskSet(time.sleep, [(f"sleep-{n}", 600) for n in range(2)], print))
        _, alive = psutil.wait_procs(running, timeout=20)
        assert not alive


@pytest.mark.usefixtures("importable")
def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    slide = make_slide(tmp_path / "made.svs", SlideSpec(size=Size(256, 256), mpp=0.5, tissue=1.0))
    command = [sys.executable, script(tmp_path, SEGMENTING), slide, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "begun\ndone 4\n"), done.stderr
