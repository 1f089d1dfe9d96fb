"""Batches on a real SLURM of two nodes, on this machine: jobs are lost in every way that it knows."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import pytest
from typer.testing import CliRunner

from scripts.start_slurm import NODES, local_slurm, missing_programs
from tests.made.foreign_models import foreign_card
from tests.made.slides import SlideSpec, make_slide
from wsi_seg.cli import app
from wsi_seg.core.errors import ClusterError, UsageError
from wsi_seg.core.geometry import Size
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.execution.workers import open_workers
from wsi_seg.pipeline import models
from wsi_seg.pipeline.models import Model

pytestmark = [
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"not installed: {', '.join(missing_programs())}; apt-get install slurm-wlm munge",
    ),
    pytest.mark.skipif(os.getuid() != 0, reason="munged and slurmd are started as root"),
    pytest.mark.timeout(600),
]
REPOSITORY = Path(__file__).resolve().parent.parent
SETTINGS = ("block=256", "tile=256", "overlap=0", "tissue=none", "mpp=0.5", "threads=1")
# Seconds until something happens on a machine that is busy with other things.
PATIENCE = 150.0


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SLURM that programs of this process find; the folder of the gate of `predictors.Gated`."""
    pytest.importorskip("dask_jobqueue")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "gate").mkdir()
    with local_slurm(folder / "made") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("WSI_SEG_TEST_GATE", str(folder / "gate"))
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr("wsi_seg.execution.slurm.LOOK_SECONDS", 2.0)
        with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}):
            yield folder / "gate"


@pytest.fixture(scope="module")
def cluster_file(slurm: Path) -> Path:
    path = slurm.parent / "cluster.yaml"
    lines = ("cores: 1", "memory: 1GB", "interface: lo", "nanny: false", "walltime: '00:10:00'")
    folder = slurm.parent
    path.write_text("\n".join([*lines, f"log_directory: {folder}/logs", f"local_directory: {folder}"]))
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in (1, 2):
        spec = SlideSpec(size=Size(512, 512), mpp=0.5, tissue=0.5, seed=number)
        make_slide(folder / f"{number}.svs", spec)
    return folder


@pytest.fixture(autouse=True)
def _model_without_torch(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers need no network, which would take each of them longer to load than all else."""
    card = foreign_card("onnx", name="gated", tile=256)
    card = card.model_copy(update={"classes": card.classes[:2]})
    load = models.load_model

    def load_gated(*arguments: Any, **options: Any) -> Model:
        model = load(*arguments, **options)
        facts = replace(model.facts, card=card, digest="gated")
        return replace(model, facts=facts, predictor=PredictorRecipe("tests.made.predictors:gated"))

    monkeypatch.setattr(models, "load_model", load_gated)


def run(scans: Path, out: Path, tiny_model: Path, *arguments: object) -> Any:
    set_ = [word for setting in SETTINGS for word in ("--set", setting)]
    command = ["run", scans, "-o", out, "--model", tiny_model, "--device", "cpu", *set_, *arguments]
    return CliRunner().invoke(app, [str(word) for word in command])


@pytest.fixture(scope="module")
def quiet(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quiet")


@pytest.fixture
def quiet_results(quiet: Path, scans: Path, tiny_model: Path) -> Path:
    """Results of the same slides in this process; made once."""
    if not list(quiet.iterdir()):
        result = run(scans, quiet, tiny_model)
        assert result.exit_code == 0, result.output
    return quiet


def assert_same(one: Path, other: Path) -> None:
    """Assert that the files of all slides hold the same bytes."""
    compared = ("maps.zarr", "polygons.geojson", "overview.png")
    for slide in ("1", "2"):
        found = (path.relative_to(one) for path in sorted((one / slide).rglob("*")) if path.is_file())
        files = [file for file in found if file.parts[1] in compared]
        assert len(files) > 10
        for file in files:
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def asked(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def jobs(state: str = "PENDING,CONFIGURING,RUNNING,COMPLETING") -> set[str]:
    return set(asked("squeue", "--noheader", "--format=%i", f"--states={state}").split())


def wait_for(what: str, happened: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < deadline, f"{what}: {asked('squeue')}"
        time.sleep(0.5)  # a look takes SLURM and this machine some 50 ms
    return found


class Batch:
    """A run of the command line in a thread, whose blocks wait at the gate."""

    def __init__(self, gate: Path, *arguments: Any) -> None:
        self.gate = gate
        (gate / "closed").touch()
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=arguments, daemon=True)
        self._thread.start()

    def _run(self, *arguments: Any) -> None:
        self.result = run(*arguments)

    def wait_for_work(self, what: str, *, without: set[str] | None = None) -> set[str]:
        """Wait until two jobs, which are none of those that were lost, have reached a block."""

        def at_work() -> set[str]:
            running = jobs("RUNNING") - (without or set())
            return {job for job in running if (self.gate / f"at-{job}").exists()}

        return set(wait_for(what, lambda: len(found := at_work()) == 2 and found))

    def end(self) -> Any:
        (self.gate / "closed").unlink(missing_ok=True)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), asked("squeue")
        return self.result


def test_a_batch_gives_the_same_bytes_as_here(
    slurm: Path, cluster_file: Path, scans: Path, tiny_model: Path, quiet_results: Path, tmp_path: Path
) -> None:
    arguments = ("--scheduler", "slurm", "--cluster", cluster_file)
    result = run(scans, tmp_path / "out", tiny_model, *arguments)
    assert result.exit_code == 0, result.output
    assert_same(quiet_results, tmp_path / "out")
    wait_for("the jobs end with the run", lambda: not jobs())


def test_lost_jobs_are_asked_for_again(
    slurm: Path,
    cluster_file: Path,
    scans: Path,
    tiny_model: Path,
    quiet_results: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One batch: a time limit, a cancelled and a requeued job, drained nodes, and all jobs cancelled."""
    arguments = (scans, tmp_path / "out", tiny_model, "--scheduler", "slurm", "--cluster", cluster_file)
    batch = Batch(slurm, *arguments, "--workers", 2)
    try:
        first, second = sorted(batch.wait_for_work("two jobs start"))
        # SLURM looks at time limits twice a minute, so the rest happens before.
        asked("scontrol", "update", f"jobid={first}", "EndTime=now+3seconds")
        asked("scancel", second)
        third = batch.wait_for_work("another job in the place of the cancelled one", without={second})
        third -= {first}
        asked("scontrol", "requeue", *third)
        batch.wait_for_work("another in the place of the one that was requeued", without={second, *third})
        wait_for("the time limit", lambda: "JobState=TIMEOUT" in asked("scontrol", "show", "job", first))
        lost = {first, second, *third}
        last = batch.wait_for_work("another in the place of the one whose time was over", without=lost)
        asked("scontrol", "update", f"nodename={','.join(NODES)}", "state=drain", "reason=test")
        asked("scancel", *last)
        wait_for("jobs in the place of those", lambda: len(jobs("PENDING") - lost) == 2)
        wait_for("that is said", lambda: "the jobs wait in the queue of SLURM" in caplog.text)
        asked("scontrol", "update", f"nodename={','.join(NODES)}", "state=resume")
        batch.wait_for_work("the nodes are back", without=lost | last)
    finally:
        result = batch.end()
    assert result.exit_code == 0, result.output
    assert_same(quiet_results, tmp_path / "out")
    wait_for("the jobs end with the run", lambda: not jobs())


def test_the_script_of_the_documentation_runs_each_share_once(slurm: Path, tmp_path: Path) -> None:
    """With a stand-in for wsi-seg that notes its arguments."""
    page = (REPOSITORY / "docs" / "many-slides.md").read_text("utf-8")
    script = page.partition('title="needs SLURM: array.sh"\n')[2].partition("```")[0]
    stand_in = tmp_path / "wsi-seg"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/share-$SLURM_ARRAY_TASK_ID\n')
    stand_in.chmod(0o755)
    (tmp_path / "array.sh").write_text(script)
    path, smaller = f"PATH={tmp_path}:{os.environ['PATH']}", ("--time=1", "--cpus-per-task=1", "--mem=1G")
    asked("env", "-C", str(tmp_path), path, "sbatch", *smaller, "array.sh")
    wait_for("eight shares", lambda: not jobs() and len(list(tmp_path.glob("share-*"))) == 8)
    said = [(tmp_path / f"share-{number}").read_text() for number in range(1, 9)]
    assert said == [f"run slides.csv -o results --array {number}/8\n" for number in range(1, 9)]


def test_what_sbatch_says_is_said(slurm: Path, tmp_path: Path) -> None:
    """In one line, and at once."""
    own = tmp_path / "own.yaml"
    own.write_text("cores: 1\nmemory: 1GB\ninterface: lo\nqueue: nowhere\n")
    with pytest.raises(UsageError, match=r"^SLURM takes no jobs: sbatch: error: [^\n]*partition[^\n]*$"):
        open_workers(WorkerSettings("slurm", cluster=own))
    assert not jobs()


def test_jobs_that_end_before_they_connect_end_the_run(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing of the run is left."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.yaml"
    own.write_text("cores: 1\nmemory: 1GB\ninterface: lo\njob_script_prologue: [exit 1]\n")
    with pytest.raises(
        ClusterError, match=r"SLURM jobs end before their workers connect, the last ones \d+;"
    ):
        open_workers(WorkerSettings("slurm", cluster=own))
    assert list(tmp_path.glob("slurm-*.out"))
    wait_for("the jobs end with the run", lambda: not jobs())
