"""Base of every peer's script: its input, the network, and the times it reports.

These scripts run inside the environments of `peer_environments.py`, where wsi_seg is not installed. A job
comes as JSON from `peers.py`, and `labels.npy` and `report.json` go into the folder it names.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Job:
    slide: Path
    model: Path
    """Folder with `card.json` and `model.safetensors`."""
    mask: Path
    """Tissue at low power, as an RGB image, black where there is none."""
    out: Path
    device: str
    options: dict[str, Any]
    """Settings of the peer itself."""

    @cached_property
    def card(self) -> dict[str, Any]:
        card: dict[str, Any] = json.loads((self.model / "card.json").read_text(encoding="utf-8"))
        return card


def read_job() -> Job:
    """Read the job that the command line names."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return Job(
        *(Path(given[name]) for name in ("slide", "model", "mask", "out")), given["device"], given["options"]
    )


class Network(nn.Module):
    """The network of a job: pixels 0 … 255 of any type (N, 3, H, W) -> logits (N, C, H, W), in float32."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        card = job.card
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(card["normalization"][name])[:, None, None])
        self.network: nn.Module = smp.create_model(
            card["architecture"],
            encoder_name=card["encoder"],
            encoder_weights=None,
            classes=len(card["classes"]),
            **card["architecture_options"],
        )
        state = self.network.state_dict()
        weights = load_file(job.model / "model.safetensors")
        self.network.load_state_dict({name: t.to(state[name].dtype) for name, t in weights.items()})
        self.to(job.device).eval()

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network((pixels.float() / 255 - self.mean) / self.std)
        return logits


def tissue_tiles(job: Job, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (x, y) of the tiles with tissue, row by row, for a slide of `size` (width, height) pixels."""
    mask = np.asarray(Image.open(job.mask).convert("L")) > 0
    side = job.card["tile"]
    rows, columns = (
        [cell_range(start, side, whole, cells) for start in range(0, whole, side)]
        for whole, cells in zip(size[::-1], mask.shape, strict=True)
    )
    return [
        (x * side, y * side)
        for y, row in enumerate(rows)
        for x, column in enumerate(columns)
        if mask[row, column].any()
    ]


def cell_range(start: int, side: int, whole: int, cells: int) -> slice:
    """Return the mask's cells that a tile meets on one axis."""
    return slice(start * cells // whole, -(-min(start + side, whole) * cells // whole))


class Report:
    """The times of one run: `ready` when the network is loaded, `done` when the labels are there."""

    def __init__(self, job: Job, *packages: str) -> None:
        self._job = job
        self._facts: dict[str, Any] = {
            "versions": {name: version(name) for name in ("torch", *packages)},
            "threads": torch.get_num_threads(),
        }

    def ready(self) -> None:
        self._facts["ready"] = time.time()

    def done(self) -> None:
        self._facts["done"] = time.time()

    def write(self, labels: NDArray[np.uint8] | None, tiles: int) -> None:
        """Write channel numbers uint8 (H, W) of the whole slide, for comparison; its time does not count.

        Labels are 255 where the peer has none; None: it labels no pixels.
        """
        if labels is not None:
            np.save(self._job.out / "labels.npy", labels)
        text = json.dumps({**self._facts, "tiles": tiles})
        (self._job.out / "report.json").write_text(text, encoding="utf-8")
