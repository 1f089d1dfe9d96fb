"""Devices and number formats by name."""

from __future__ import annotations

import pytest
import torch

from wsi_seg.errors import UsageError
from wsi_seg.models import devices
from wsi_seg.models.devices import resolve_device, resolve_precision


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
