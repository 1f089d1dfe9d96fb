"""Devices and number formats by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from wsi_seg.cli import app
from wsi_seg.core.errors import UsageError
from wsi_seg.inference.models import devices
from wsi_seg.inference.models.devices import resolve_device, resolve_precision
from wsi_seg.maps.maps import Maps


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == "cpu"
    for name in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match="no CUDA device"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == "cuda:0"
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match="CUDA devices here: 2"):
        resolve_device("cuda:2")
    for name in ("gpu", "", "cuda:", "cuda:x", "cpu:0", "CPU"):
        with pytest.raises(UsageError, match="unknown device"):
            resolve_device(name)


def test_precisions(monkeypatch):
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: True)
    assert resolve_precision("auto", "cpu") == "bf16"
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: False)
    assert resolve_precision("auto", "cpu") == "float32"
    assert resolve_precision("bf16", "cpu") == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert resolve_precision("auto", "cuda:0") == "bf16"
    assert resolve_precision("fp16", "cuda:0") == "fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert resolve_precision("auto", "cuda:0") == "float32"
    with pytest.raises(UsageError, match=r"fp16.*CUDA"):
        resolve_precision("fp16", "cpu")
    with pytest.raises(UsageError, match="unknown precision 'float16'"):
        resolve_precision("float16", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "equal"), [("float32", 0.9999), ("bf16", 0.99)])
def test_a_whole_run_on_a_gpu_gives_the_labels_of_the_cpu(
    precision: str, equal: float, sample_svs: Path, tmp_path: Path
) -> None:
    """With the bundled model; bfloat16, too, is compared with float32 on the CPU."""
    maps = {}
    ways = {
        "cpu": ("--device", "cpu", "--precision", "float32"),
        "gpu": ("--device", "cuda", "--precision", precision),
        "processes": ("--gpus", "0", "--workers", "2", "--precision", precision),
    }
    for name, options in ways.items():
        command = ["run", str(sample_svs), "-o", str(tmp_path / name), *options]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        maps[name] = Maps.open(tmp_path / name / sample_svs.stem / "maps.zarr")
    labels = {name: np.asarray(of.labels[:]) for name, of in maps.items()}
    probabilities = {name: np.asarray(of.probabilities[:]) for name, of in maps.items()}
    analyzed = labels["cpu"] > 0
    assert np.array_equal(analyzed, labels["gpu"] > 0)
    share = (labels["cpu"] == labels["gpu"])[analyzed].mean()
    print(f"{precision}: {share:.4%} of the labels of tissue are those of float32 on the CPU")
    assert share >= equal
    assert np.array_equal(labels["gpu"], labels["processes"])
    assert np.array_equal(probabilities["gpu"], probabilities["processes"])
