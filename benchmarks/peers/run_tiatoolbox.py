"""TIAToolbox: `SemanticSegmentor` on a slide and its mask, with its defaults.

Eight patches per forward pass, no loader workers, predictions without probabilities, `torch.compile` as its
configuration has it: none of these is set here. The output is its Zarr store, the cheapest that it writes for
a slide. The network is wrapped as its own U-Net is: softmax in `infer_batch`, argmax in `postproc`.

What it keeps in memory and what it moves to disk depends on the memory that is free when it looks, and moving
takes a further copy. Where that takes all memory, `peers.py` runs it again and lets it keep everything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import zarr
from job import Job, Network, Report, read_job
from numpy.typing import NDArray
from tiatoolbox.models.architecture.utils import argmax_last_axis
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC
from torch import Tensor


class Model(ModelABC):  # type: ignore[misc]
    """The benchmarks' network as the toolbox wants it."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.network = Network(job)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    @staticmethod
    def infer_batch(model: Any, batch_data: Tensor, *, device: str) -> NDArray[np.float32]:
        """Return probabilities (N, H, W, C) of patches uint8 (N, H, W, 3)."""
        model.eval()
        with torch.inference_mode():
            images = batch_data.to(device=device, dtype=torch.float32).permute(0, 3, 1, 2)
            probabilities: NDArray[np.float32] = model(images).softmax(1).permute(0, 2, 3, 1).cpu().numpy()
        return probabilities

    @staticmethod
    def postproc(image: Any) -> Any:
        return argmax_last_axis(image=image)


def main() -> None:
    job = read_job()
    report = Report(job, "tiatoolbox", "openslide-python", "numpy", "dask", "zarr")
    side = job.card["tile"]
    resolution = [{"units": "mpp", "resolution": job.card["mpp"]}]
    segmentor = SemanticSegmentor(model=Model(job), device=job.device, verbose=False)
    report.ready()
    written = segmentor.run(
        [job.slide],
        masks=[job.mask],
        patch_mode=False,
        ioconfig=IOSegmentorConfig(
            input_resolutions=resolution,
            output_resolutions=resolution,
            patch_input_shape=(side, side),
            patch_output_shape=(side, side),
            stride_shape=(side, side),
            save_resolution=resolution[0],
        ),
        save_dir=job.out / "tiatoolbox",
        output_type="zarr",
        **job.options,
    )
    report.done()
    store = zarr.open_array(str(written[job.slide]), path="predictions", mode="r")
    report.write(np.asarray(store[:]).astype(np.uint8), len(segmentor.dataloader.dataset))


if __name__ == "__main__":
    main()
