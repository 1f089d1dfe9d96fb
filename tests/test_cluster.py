"""Worker processes: the same bytes, bounded flight, and deaths that cost nothing but a little time."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.slow_writer import Peaks, SlowWriter
from tests.made.slides import SlideSpec, make_slide
from tests.processes import die, die_once, die_once_then_log, double, environment, process_id
from wsi_seg.cli import app
from wsi_seg.core.errors import ClusterError, Interrupted, MissingExtraError, UsageError
from wsi_seg.core.geometry import Size
from wsi_seg.core.threads import cancellable
from wsi_seg.execution.cluster import Cluster
from wsi_seg.execution.graph import TaskSet, Workers
from wsi_seg.execution.in_flight import InFlightLimiter
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.execution.workers import open_workers
from wsi_seg.pipeline.models import load_model
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings, make_settings
from wsi_seg.planning.plan import PlanSettings

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def cluster() -> Any:
    with open_workers(WorkerSettings(processes=2, threads=1)) as workers:
        assert isinstance(workers, Cluster)
        yield workers


def execute(workers: Workers, function: Any, tasks: Iterable[Any], **how: Any) -> list[Any]:
    results: list[Any] = []
    keyed = [(f"{function.__name__}-{number}-{time.time()}", task) for number, task in enumerate(tasks)]
    workers.execute(TaskSet(function, keyed, results.append, **how))
    return results


def test_every_task_is_done_once_and_flight_is_bounded(cluster: Cluster) -> None:
    assert sorted(execute(cluster, double, list(range(120)))) == [2 * n for n in range(120)]
    assert 2 <= cluster.flight.tasks <= cluster.flight.limit == 4


def test_a_place_goes_to_the_lowest_rank_that_wants_one() -> None:
    """First what goes first, of whichever slide; else the earlier slide."""
    limiter, earlier, later, last = InFlightLimiter(), *(queue.SimpleQueue[Any]() for _ in range(3))
    limiter.set_limit(1)
    assert limiter.acquire(later, (True, 2), wait=False)
    assert not limiter.acquire(last, (False, 3), wait=False)
    assert not limiter.acquire(earlier, (True, 1), wait=False)
    assert not limiter.acquire(later, (True, 2), wait=False)
    limiter.release()
    assert last.get_nowait() is None and earlier.empty() and later.empty()
    assert not limiter.acquire(later, (True, 2), wait=False)
    assert limiter.acquire(last, (False, 3), wait=False)
    limiter.leave(last, 1)
    assert earlier.get_nowait() is None
    assert not limiter.acquire(later, (True, 2), wait=False) and limiter.acquire(
        earlier, (True, 1), wait=True
    )
    assert limiter.peak == 1


def test_the_tail_of_a_slide_is_not_kept_waiting_by_the_blocks_of_the_next(cluster: Cluster) -> None:
    """Nor is the next one kept waiting while places are free."""
    ended: list[str] = []
    begun = threading.Event()

    def note(name: str) -> None:
        ended.append(name)
        begun.set()

    def slide(name: str, blocks: int, tail: int) -> None:
        tasks = [(f"{name}-{n}-{time.time()}", 0.02) for n in range(blocks + tail)]
        first = [key for key, _ in tasks[:blocks]]
        after = {key: first for key, _ in tasks[blocks:]}
        cluster.execute(TaskSet(time.sleep, tasks, lambda _: note(name), after))

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(slide, "one", 6, 10)
        begun.wait()
        two = pool.submit(slide, "two", 60, 0)
        one.result()
        two.result()
    assert sorted(ended) == ["one"] * 16 + ["two"] * 60
    assert ended[: ended.index("two") + 1].count("one") < 16  # while the last blocks of the first ran
    assert len(ended) - ended[::-1].index("one") < 40


def test_what_waits_for_a_task_whose_process_dies_runs_after_it(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes before what waits for nothing, whoever asks for that."""
    priorities: dict[str, int] = {}
    submit = cluster._client.submit

    def noting(*task: Any, key: str, priority: int, **how: Any) -> Any:
        priorities[key] = priority
        return submit(*task, key=key, priority=priority, **how)

    monkeypatch.setattr(cluster._client, "submit", noting)
    paths = [str(tmp_path / f"mark-{n}") for n in range(3)]  # which are their keys, too
    for path in paths[1:]:
        Path(path).touch()
    results: list[str] = []
    after = {paths[1]: paths[:1], paths[2]: [*paths[:2], "of a task that is done"]}
    cluster.execute(TaskSet(die_once_then_log, [(p, p) for p in paths], results.append, after))
    assert results == ["done"] * 3 and (tmp_path / "log").read_text().split() == paths
    assert [priorities[path] for path in paths] == [0, 1, 1]


def test_nothing_piles_up_behind_a_slow_writer(cluster: Cluster, tiny_model: Path, tmp_path: Path) -> None:
    """60 blocks that a stand-in for the network has done long before they are written."""
    slide = make_slide(tmp_path / "made.svs", SlideSpec(size=Size(10 * 256, 6 * 256), mpp=0.5))
    stand_in = PredictorRecipe("tests.made.predictors:shares")
    model = replace(load_model(str(tiny_model), "cpu", "float32"), predictor=stand_in)
    settings = RunSettings(tissue="none", plan=PlanSettings(block=256, tile=256, overlap=0))
    peaks, slow = Peaks(), SlowWriter(cluster, seconds=0.1)
    start = time.monotonic()
    summary = segment_slide(slide, tmp_path, model, settings, peaks, workers=slow).summary
    assert time.monotonic() - start > 60 * 0.1 / 2  # the writer was slow indeed
    assert len(peaks.after) == summary["blocks"] == 60
    assert 2 <= summary["tasks_in_flight"]["peak"] <= summary["tasks_in_flight"]["limit"] == 4
    assert peaks.after[-1] <= 1.1 * peaks.after[19]
    assert summary["peak_worker_memory_mib"] == round(peaks.after[-1] / 2**20)


def test_several_callers_share_the_workers(cluster: Cluster) -> None:
    results: dict[int, list[int]] = {}

    def caller(number: int) -> None:
        results[number] = execute(cluster, double, [number] * 50)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [2 * number] * 50 for number in range(4)}
    assert cluster.flight.tasks <= 4


def test_each_process_gets_its_share_of_the_cores(cluster: Cluster) -> None:
    (threads,) = execute(cluster, environment, ["OMP_NUM_THREADS"])
    assert threads == os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // 2)))


def test_the_tasks_of_a_lost_worker_are_done_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    tasks = [str(tmp_path / "died")] * 6
    assert execute(cluster, die_once, tasks) == ["done"] * 6


def test_a_task_that_kills_its_worker_is_given_up_after_three(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tried = tmp_path / "tried"
    assert execute(cluster, die, [str(tried)], on_killed=lambda path: f"gave up {path}") == [
        f"gave up {tried}"
    ]
    assert len(tried.read_text()) == 3
    assert re.search(r"Worker process \d+ was killed by signal SIGKILL", caplog.text)
    with pytest.raises(ClusterError, match="each of 3 workers that tried it died"):
        execute(cluster, die, [str(tried)])
    assert execute(cluster, double, [1]) == [2]  # and the workers are there again


def test_a_dashboard_is_named_where_there_is_one(cluster: Cluster) -> None:
    if importlib.util.find_spec("bokeh") is not None:
        assert cluster.dashboard is not None
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/status", cluster.dashboard)
        with urlopen(cluster.dashboard) as page:
            assert "<title>Dask" in page.read().decode()


def test_no_dashboard_is_named_without_bokeh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that fails to import; the scheduler then answers, but without a page."""
    (tmp_path / "bokeh.py").write_text("raise ImportError\n")
    monkeypatch.syspath_prepend(tmp_path)
    with open_workers(WorkerSettings(processes=1, threads=1, gpus=(0,))) as workers:
        assert workers.dashboard is None


def test_what_a_task_raises_is_raised(cluster: Cluster) -> None:
    with pytest.raises(ZeroDivisionError):
        cluster.execute(TaskSet((1).__truediv__, [("zero", 0)], print))


def test_stop_ends_what_executes() -> None:
    with open_workers(WorkerSettings(processes=2, threads=1)) as workers:
        cancel = threading.Event()
        threading.Timer(1.0, cancel.set).start()
        with pytest.raises(Interrupted), cancellable(cancel):
            execute(workers, process_id, [0.3] * 100)
        execute(workers, process_id, [0.0] * 2)  # others are not stopped
        timer = threading.Timer(1.0, workers.stop)
        timer.start()
        with pytest.raises(Interrupted):
            execute(workers, process_id, [0.3] * 100)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (WorkerSettings("tcp://127.0.0.1:1"), "no Dask scheduler answers at tcp://127.0.0.1:1"),
        (WorkerSettings("treads"), "unknown scheduler 'treads'"),
        (WorkerSettings("synchronous", processes=2), "leave out --workers"),
        (WorkerSettings("tcp://127.0.0.1:1", gpus=(0,)), "--gpus is for this machine"),
        (WorkerSettings("threads", cluster=Path("c.yaml")), r"c\.yaml"),
    ],
)
def test_workers_that_cannot_be_had_are_refused(
    settings: WorkerSettings, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_seg.execution.cluster.CONNECT_SECONDS", 1.0)
    with pytest.raises(UsageError, match=words):
        open_workers(settings)


def test_gpus_are_shared_evenly() -> None:
    where = make_settings({"gpus": "0,1"}).for_workers((0, 1)).workers
    assert (where.processes, where.threads) == (2, 4)
    assert make_settings({"gpus": "all", "workers": 6}).for_workers((0, 1, 2)).workers.processes == 6
    with pytest.raises(UsageError, match=r"workers 3 and 2 GPUs: .* a multiple of 2"):
        make_settings({"gpus": [0, 1], "workers": 3}).for_workers((0, 1))


def test_gpus_are_checked_against_those_that_are_visible(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line on a machine whose scheduler gave two GPUs to this process."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    command = ["run", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--model", str(tiny_model)]

    def said(gpus: str) -> str:
        result = CliRunner().invoke(app, [*command, "--gpus", gpus])
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
        return result.stderr

    assert "gpus 2,3: this machine has 0,1, numbered as in CUDA_VISIBLE_DEVICES=2,3" in said("2,3")
    assert "named twice" in said("1,1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "no CUDA device is available on this machine (CUDA_VISIBLE_DEVICES='')" in said("0")
    assert not (tmp_path / "out").exists()


def test_slurm_jobs_do_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an `sbatch` that runs the job's script on this machine."""
    pytest.importorskip("dask_jobqueue")
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    lines = (
        "#!/bin/sh",
        f'cp "$1" {scripts}/$$.sh',
        f"setsid sh {scripts}/$$.sh >{tmp_path}/job.log 2>&1 &",
        "echo Submitted batch job $!",
        "",
    )
    (tools / "sbatch").write_text("\n".join(lines))
    # As SLURM does: all processes of the job are asked to end, and killed a little later.
    (tools / "scancel").write_text("#!/bin/sh\nkill -- -$1\n(sleep 2; kill -9 -- -$1) >/dev/null 2>&1 &\n")
    for tool in tools.iterdir():
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(CONFIGS.parent))
    own = tmp_path / "own.yaml"
    own.write_text(f"extends: {CONFIGS / 'slurm.yaml'}\ncores: 1\nmemory: 1GB\nlocal_directory: {tmp_path}\n")
    with open_workers(WorkerSettings("slurm", processes=1, cluster=own)) as workers:
        assert sorted(execute(workers, double, list(range(20)))) == [2 * n for n in range(20)]
    (script,) = scripts.iterdir()
    text = script.read_text()
    assert "--preload wsi_seg.execution.worker_processes" in text
    assert "#SBATCH -p gpu" in text and "#SBATCH --gres=gpu:1" in text and "#SBATCH -t 08:00:00" in text
    own.write_text("coores: 1\n")
    with pytest.raises(UsageError, match=r"own\.yaml"):
        open_workers(WorkerSettings("slurm", cluster=own))


def test_slurm_without_its_package_names_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-seg\[slurm\]'"):
        open_workers(WorkerSettings("slurm"))


@pytest.mark.long
def test_two_processes_give_the_same_bytes_as_threads(quick_model: Path, tmp_path: Path) -> None:
    """Also of two slides that are the same but for their names: each is done."""
    scans = tmp_path / "scans"
    scans.mkdir()
    slide = make_slide(scans / "made.svs", SlideSpec(size=Size(1400, 1400), mpp=0.25, tissue=0.6, seed=3))
    (scans / "other.svs").hardlink_to(slide)
    arguments = (
        "--model",
        quick_model,
        "--precision",
        "float32",
        "--set",
        "block=256",
        "--set",
        "overlap=32",
    )
    result = call("run", slide, "-o", tmp_path / "here", *arguments)
    assert result.exit_code == 0, result.output
    result = call("run", scans, "-o", tmp_path / "two", *arguments, "--workers", 2, "--json")
    assert result.exit_code == 0, result.output
    assert [row["status"] for row in json.loads(result.stdout)] == ["done", "done"]
    named = re.findall(r"^Dask dashboard of the workers: http://.*/status$", result.stderr, re.MULTILINE)
    assert len(named) == (importlib.util.find_spec("bokeh") is not None)
    here, two = (tmp_path / name / "made" for name in ("here", "two"))
    other = tmp_path / "two" / "other"
    files = sorted(path.relative_to(here) for path in (here / "maps.zarr").rglob("*") if path.is_file())
    for folder in (two, other):
        assert files == sorted(
            path.relative_to(folder) for path in (folder / "maps.zarr").rglob("*") if path.is_file()
        )
    for file in (*files, Path("polygons.geojson"), Path("overview.png")):
        assert (here / file).read_bytes() == (two / file).read_bytes(), file
    for file in files:
        if file.name != "zarr.json":  # which holds the slide's name
            assert (here / file).read_bytes() == (other / file).read_bytes(), file
    summary = json.loads((two / "summary.json").read_text())
    assert summary["blocks"] > 4 and summary["tissue_area_mm2"] > 0
    assert summary["peak_worker_memory_mib"] > 50
    # No process stays behind.
    time.sleep(1)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "two") not in listed
