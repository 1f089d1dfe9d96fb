"""WSInfer: one class for each tile, by `run_inference` on the patches of its own file format.

The network is the job's, with the mean of its logits over a tile on top, as TorchScript: a classifier of
tiles costs as much as the network below it. WSInfer gets the tiles with tissue that all get, in place of its
own tissue detection, which would find others; 32 of them per forward pass and as many loader workers as there
are cores, at most eight, as its command line has it. What it writes is a table with a row for each tile:
there are no labels of pixels to compare.
"""

from __future__ import annotations

import os

import numpy as np
import openslide
import torch
from job import Job, Network, Report, read_job, tissue_tiles
from torch import Tensor, nn
from wsinfer.modellib.models import LocalModelTorchScript
from wsinfer.modellib.run_inference import run_inference
from wsinfer.patchlib import PATCHES_DIR, save_hdf5
from wsinfer_zoo.client import ModelConfiguration, TransformConfigurationItem

BATCH, MOST_WORKERS = 32, 8  # defaults of its command line


class TileClassifier(nn.Module):
    """Pixels 0 … 1 (N, 3, H, W) -> logits (N, C)."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.network = Network(job)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels * 255).mean((2, 3))
        return logits


def main() -> None:
    job = read_job()
    report = Report(job, "wsinfer", "openslide-python", "numpy")
    if job.device == "cpu":
        os.environ["WSINFER_FORCE_CPU"] = "1"
    side, mpp = job.card["tile"], job.card["mpp"]
    names = [one["name"] for one in job.card["classes"]]
    config = ModelConfiguration(
        job.card["architecture"], len(names), names, side, mpp, [TransformConfigurationItem("ToTensor", None)]
    )
    model = job.out / "classifier.pt"
    with torch.inference_mode():
        traced = torch.jit.trace(TileClassifier(job).cpu(), torch.zeros(1, 3, side, side))
    torch.jit.save(traced, model)
    slides, results = job.out / "slides", job.out / "wsinfer"
    slides.mkdir()
    (slides / job.slide.name).symlink_to(job.slide)
    with openslide.OpenSlide(job.slide) as slide:
        tiles = tissue_tiles(job, slide.dimensions)
    report.ready()
    patches = results / PATCHES_DIR / f"{job.slide.stem}.h5"
    patches.parent.mkdir(parents=True)
    save_hdf5(patches, np.array(tiles), side, mpp)
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    failed = run_inference(slides, results, LocalModelTorchScript(config, str(model)), BATCH, workers)
    report.done()
    if any(failed):
        raise SystemExit(f"WSInfer failed at {failed}")
    report.write(None, len(tiles))


if __name__ == "__main__":
    main()
