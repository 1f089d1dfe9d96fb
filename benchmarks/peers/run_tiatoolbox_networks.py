"""TIAToolbox's own networks with made weights: their outputs for tiles, and their labels of slides.

    python run_tiatoolbox_networks.py JOB.json

The job names a folder that holds `tiles.npy`, uint8 (N, H, W, 3), and gets for each network NAME.pth, its
state dict, and NAME.npy, what `infer_batch` returns for these tiles after `preproc`. Where the job names a
slide for it, NAME-labels.npy are the labels of `SemanticSegmentor`, without a mask and without overlap.

TIAToolbox compresses GrandQC's tiles by OpenCV, which takes their channels for B, G, R; GrandQC itself does
it by Pillow, in the order R, G, B. Networks that the job lists under `rgb` get tiles in this order, and
NAME-unchanged.npy and NAME-unchanged-labels.npy are what TIAToolbox returns by itself.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import zarr
from made_weights import made_weights
from numpy.typing import NDArray
from tiatoolbox.models.architecture import PRETRAINED_INFO
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(name: str, head: str, gain: float) -> Any:
    """Return a network of the list of pretrained ones with made weights."""
    architecture = PRETRAINED_INFO[name]["architecture"]
    module, _, kind = architecture["class"].rpartition(".")
    network = getattr(import_module(f"tiatoolbox.models.architecture.{module}"), kind)(
        **architecture["kwargs"]
    )
    network.load_state_dict(made_weights(network.state_dict(), head, gain))
    return network.eval()


def outputs(network: Any, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what `infer_batch` returns, (N, h, w, C)."""
    batch = torch.from_numpy(np.stack([network.preproc_func(tile) for tile in tiles]))
    found: NDArray[np.float32] = type(network).infer_batch(network, batch, device="cpu")
    return found


def in_rgb(tile: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return a tile as GrandQC's own program prepares it."""
    swapped = [channel[::-1] for channel in (np.array(IMAGENET_MEAN), np.array(IMAGENET_STD))]
    compressed = cv2.imdecode(
        cv2.imencode(".jpg", tile[..., ::-1], [int(cv2.IMWRITE_JPEG_QUALITY), 80])[1], cv2.IMREAD_COLOR
    )
    return np.ascontiguousarray(((compressed / 255.0 - swapped[0]) / swapped[1])[..., ::-1])


def slide_labels(network: Any, name: str, slide: Path, out: Path) -> NDArray[np.uint8]:
    """Return the labels of a slide, (H, W)."""
    given = PRETRAINED_INFO[name]["ioconfig"]["kwargs"]
    config = IOSegmentorConfig(
        **{
            **given,
            "stride_shape": given["patch_output_shape"],
            "save_resolution": given["output_resolutions"][0],
        }
    )
    segmentor = SemanticSegmentor(model=network, device="cpu", verbose=False, batch_size=2)
    written = segmentor.run(
        [slide], patch_mode=False, ioconfig=config, save_dir=out / f"{name}-run", output_type="zarr",
        auto_get_mask=False, overwrite=True,
    )  # fmt: skip
    store = zarr.open_array(str(written[slide]), path="predictions", mode="r")
    return np.asarray(store[:]).astype(np.uint8)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = Path(job["out"])
    tiles = np.load(out / "tiles.npy")
    shapes: dict[str, dict[str, list[int]]] = {}
    for name, (head, gain) in job["networks"].items():
        network = build(name, head, gain)
        shapes[name] = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
        torch.save(network.state_dict(), out / f"{name}.pth")
        slide = job["slides"].get(name)
        for title in (f"{name}-unchanged", name) if name in job["rgb"] else (name,):
            if name in job["rgb"] and title == name:
                network.preproc_func = in_rgb
            np.save(out / f"{title}.npy", outputs(network, tiles))
            if slide is not None:
                np.save(out / f"{title}-labels.npy", slide_labels(network, name, Path(slide), out))
    report = {"versions": {n: version(n) for n in ("tiatoolbox", "torch", "timm")}, "shapes": shapes}
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
