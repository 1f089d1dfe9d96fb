"""Worker processes on GPUs, with stand-ins for these: what each sees, how many share one, and failures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.made.slides import SlideSpec, make_slide
from tests.processes import seen_here
from tests.test_chaos import differing, stored_bytes
from wsi_seg.cli import app
from wsi_seg.core.errors import ClusterError, DeviceError, DeviceMemoryError
from wsi_seg.core.geometry import Size
from wsi_seg.core.gpus import cores_near
from wsi_seg.core.system import own_cores
from wsi_seg.execution import tasks
from wsi_seg.execution.graph import TaskSet
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.tasks import BlockRecord, PredictorRecipe
from wsi_seg.execution.worker_processes import take_gpu
from wsi_seg.execution.workers import _environments, open_workers
from wsi_seg.inference.failures import device_errors
from wsi_seg.inference.models import devices
from wsi_seg.inference.models.calibrate import Calibration, Timing
from wsi_seg.inference.settings import ModelSettings
from wsi_seg.pipeline.gpu_workers import share_gpus
from wsi_seg.pipeline.models import Model, cuda_devices, load_model
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings, make_settings
from wsi_seg.planning.plan import PlanSettings, SegmentationPlan

GIB = 2**30
ECC = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported."
LOST = "CUDA error: the device has fallen off the bus"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with two GPUs of 80 GiB, as PyTorch and a made tree of Linux's show them; return the tree."""
    bus = tmp_path / "sys" / "bus" / "pci" / "devices"
    cores = sorted(own_cores())
    for number, near in enumerate((cores[:1], cores[-1:])):
        (bus / f"0000:{0x3B + number:x}:00.0").mkdir(parents=True)
        (bus / f"0000:{0x3B + number:x}:00.0" / "local_cpulist").write_text(f"{near[0]}\n")

    def properties(device: str | int) -> SimpleNamespace:
        number = int(str(device).removeprefix("cuda:"))
        return SimpleNamespace(
            total_memory=80 * GIB, pci_domain_id=0, pci_bus_id=0x3B + number, pci_device_id=0
        )

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", properties)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA Made")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(devices, "cores_near", lambda pci, own: cores_near(pci, own, tmp_path / "sys"))
    return tmp_path / "sys"


@pytest.mark.usefixtures("two_gpus")
def test_processes_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = sorted(own_cores())
    near = [str(cores[0]), str(cores[-1])]

    def given(settings: WorkerSettings) -> list[tuple[str, str]]:
        return [(one["CUDA_VISIBLE_DEVICES"], one["WSI_SEG_CORES"]) for one in _environments(settings)]

    assert given(WorkerSettings(processes=4, gpus=(0, 1))) == [*zip("01", near, strict=True)] * 2
    assert given(WorkerSettings(gpus="all")) == [*zip("01", near, strict=True)]
    assert given(WorkerSettings(gpus=(1,))) == [("1", near[1])]
    # Of a node with four GPUs, all of which this job sees, though two of them are not its own.
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1")
    assert given(WorkerSettings(gpus="all")) == [*zip("01", near, strict=True)]
    assert _environments(WorkerSettings(gpus="all"))[0]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    # Parts of a GPU, of which CUDA counts one here: where the other is, it does not say.
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5fe9,MIG-0b1c")
    everywhere = ",".join(map(str, cores))
    assert given(WorkerSettings(gpus="all")) == [("MIG-5fe9", near[0]), ("MIG-0b1c", everywhere)]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("mask", "count"), [("1,-1,2", 1), ("0,9", 1), ("2,3", 2), ("MIG-1,MIG-2", 2)])
def test_entries_that_cuda_does_not_take_are_said(
    mask: str, count: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1 if mask.startswith("MIG") else count)
    assert len(cuda_devices()) == count
    entries = len(mask.split(","))
    said = [f"CUDA_VISIBLE_DEVICES='{mask}': CUDA takes {count} of {entries} entries"]
    assert caplog.messages == (said if count < entries else [])


@pytest.mark.usefixtures("two_gpus")
def test_a_process_sees_one_entry_of_each_mask_and_stays_on_cores_near_its_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937,GPU-d72c8a12")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "4,5")
    found: list[Any] = []
    with open_workers(WorkerSettings(threads=1, gpus="all")) as workers:
        workers.execute(TaskSet(seen_here, [(f"seen-{n}", n) for n in range(8)], found.append))
    cores = sorted(own_cores())
    assert {seen[1:] for seen in found} == {
        ("GPU-8932f937", "4", frozenset(cores[:1])),
        ("GPU-d72c8a12", "5", frozenset(cores[-1:])),
    }
    assert len({process for process, *_ in found}) == 2


@pytest.mark.parametrize(
    ("name", "mask", "own"),
    [
        ("SLURMCluster-0-0", "GPU-8932f937,GPU-d72c8a12", "GPU-8932f937"),
        ("SLURMCluster-12-3", "4,5", "5"),
        ("SLURMCluster-1", "4,5", "4,5"),  # the only one of its job
        ("SLURMCluster-0-1", "4", "4"),
        ("SLURMCluster-0-1", None, None),
        ("1", "4,5", "4,5"),
    ],
)
def test_workers_of_a_slurm_job_take_its_gpus_in_turn(
    name: str, mask: str | None, own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask or "")
    if mask is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    take_gpu(name)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == own


def calibrating(asked: list[list[str]], model: Path, milliseconds: float) -> Callable[..., Any]:
    """Return a stand-in for `subprocess.run` that times on the CPU what is to be timed on a GPU."""

    def run(command: list[str], **_: Any) -> Any:
        asked.append(command)
        words = command[command.index("calibrate") :]
        tile, batch = (int(words[words.index(name) + 1]) for name in ("--tile", "--batch"))
        words[words.index("--batch") + 1] = "1"
        done = CliRunner().invoke(app, [*words, "--device", "cpu", "--precision", "float32"])
        assert done.exit_code == 0, done.output
        facts = load_model(str(model), "cuda:0").facts
        kept = Calibration(facts.digest, facts.device, facts.precision)
        kept.add([Timing(tile, batch, 1, milliseconds / 1000)])
        return subprocess.CompletedProcess(command, 0, done.stdout, "")

    return run


@pytest.mark.usefixtures("two_gpus")
def test_a_network_is_timed_once_and_says_how_many_processes_keep_gpus_busy(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_seg.pipeline.gpu_workers.usable_cores", lambda: 16)
    monkeypatch.setattr("wsi_seg.pipeline.gpu_workers.usable_memory", lambda: 126 * GIB)
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", calibrating(asked, tiny_model, 0.02))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    command = ["run", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "-m", str(tiny_model)]
    options = ["--mpp", "0.5", "--tissue", "none", "--dry-run", "--gpus"]
    for gpus, said in (
        ("all", "workers: 8; "),
        ("0", "workers: 8; "),
        ("all", "4 for each GPU, as there are 16 cores"),
    ):
        done = CliRunner().invoke(app, [*command, *options, gpus])
        assert done.exit_code == 0, done.output
        assert said in done.stderr
    assert len(asked) == 1
    done = CliRunner().invoke(app, [*command, *options, "all", "--workers", "2"])
    assert done.exit_code == 0 and "workers:" not in done.stderr

    model = load_model(str(tiny_model), "cuda:0")
    tta = replace(model, facts=replace(model.facts, tta=True))
    asked_for = {ModelSettings(str(tiny_model)): model}
    augmented = {**asked_for, ModelSettings(str(tiny_model), tta=True): tta}
    settings = make_settings({"gpus": "all", "model": str(tiny_model)})
    assert share_gpus(settings, asked_for, (0, 1)).processes == 8
    # The slowest network decides, and eight views of each tile are as slow as eight tiles.
    assert share_gpus(settings, augmented, (0, 1)).processes == 6
    assert share_gpus(make_settings({"gpus": "all", "max_memory": "7GB"}), asked_for, (0,)).processes == 2


@pytest.mark.usefixtures("two_gpus")
def test_a_network_that_cannot_be_timed_gets_one_process_on_each_gpu(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "noise\nerror: cuda:0: not enough memory\n")
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command) or failed)
    models = {ModelSettings("named"): load_model(str(tiny_model), "cuda:0")}
    found = share_gpus(make_settings({"gpus": "all"}), models, (0, 1))
    assert found.processes == 2
    assert [command[command.index("calibrate") + 1] for command in asked] == ["named"]
    assert found.reason == "1 for each GPU, as the network could not be timed: cuda:0: not enough memory"


@pytest.mark.parametrize(
    ("raised", "error", "words"),
    [
        (ECC, DeviceError, r"of .*: CUDA error: uncorrectable ECC error encountered; run the same command"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", DeviceError, "CUDNN_STATUS"),
        ("No CUDA GPUs are available", DeviceError, "No CUDA GPUs"),
        ("HIP out of memory. Tried to allocate 2 GiB.", DeviceMemoryError, "fewer --workers on each GPU"),
        ("mat1 and mat2 shapes cannot be multiplied on cuda:0", RuntimeError, "^mat1"),
    ],
)
def test_errors_of_a_device_are_told_from_those_of_a_program(
    raised: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as found, device_errors():
        raise RuntimeError(raised)
    assert type(found.value) is error
    assert "\n" not in str(found.value)


def breaking(model: Path) -> Model:
    """Return a model whose predictor stands in for a GPU that can be made to fail."""
    recipe = PredictorRecipe("tests.made.predictors:breaking")
    return replace(load_model(str(model), "cpu", "float32"), predictor=recipe)


class Watch:
    """Breaks the GPU of a process once some blocks are done, by `tests.made.predictors:breaking`."""

    def __init__(self, faults: Path, text: str) -> None:
        self._faults, self._text, self.tiles_before, self.blocks = faults, text, 0, 0

    def start(self, plan: SegmentationPlan, tiles_done: int) -> None:
        self.tiles_before = tiles_done

    def block_done(self, record: BlockRecord) -> None:
        self.blocks += 1
        if self.blocks == 3:
            (self._faults / "fault").write_text(self._text)

    def stage(self, name: str) -> None:
        return None


def test_blocks_of_a_gpu_that_fails_go_to_others_until_none_is_left(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = tmp_path / "faults"
    faults.mkdir()
    monkeypatch.setenv("WSI_SEG_TEST_FAULTS", str(faults))
    slide = make_slide(tmp_path / "made.svs", SlideSpec(size=Size(4 * 256, 3 * 256), mpp=0.5, tissue=0.9))
    model = breaking(tiny_model)
    settings = RunSettings(tissue="none", plan=PlanSettings(block=256, tile=256, overlap=0))

    def run(name: str, progress: Any = None, workers: Any = None) -> dict[str, bytes]:
        result = segment_slide(slide, tmp_path / name, model, settings, progress, workers=workers)
        return stored_bytes(Path(result.folder))

    quiet = run("quiet")
    with open_workers(WorkerSettings(processes=2, threads=1)) as workers:
        assert not differing(run("one", Watch(faults, ECC), workers), quiet)
        ended = [line for line in caplog.messages if "its worker ends" in line]
        assert len(ended) == 1 and "uncorrectable ECC error encountered: its worker ends" in ended[0]
        with pytest.raises(ClusterError) as error:
            run("two", Watch(faults, LOST), workers)
    assert "fallen off the bus; no other worker is left; run the same command again to resume" in str(
        error.value
    )
    resumed = Watch(faults, LOST)
    resumed.blocks = 3  # nothing breaks any more
    assert not differing(run("two", resumed), quiet)
    assert resumed.tiles_before >= 3


def test_a_gpu_of_this_process_that_fails_is_one_line(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSI_SEG_TEST_FAULTS", str(tmp_path))
    (tmp_path / "fault").write_text(ECC)
    Image.new("RGB", (256, 256)).save(tmp_path / "a.png")
    monkeypatch.setattr(tasks, "_predictors", {})
    settings = make_settings({"tissue": "none", "mpp": 0.5})
    with pytest.raises(DeviceError, match="ECC error encountered; run the same command again to resume"):
        segment_slide(tmp_path / "a.png", tmp_path / "out", breaking(tiny_model), settings)
