"""wsi_seg's networks of TIAToolbox next to TIAToolbox itself: same weights, tiles and slides.

    python benchmarks/tiatoolbox_networks.py [--slides] [--work FOLDER] [--output FILE] [--golden FILE]

TIAToolbox gets a virtual environment of its own (`peer_environments.py`). Its classes get made weights
(`peers/made_weights.py`) and saves them; wsi_seg converts these files as it converts downloaded ones.
Compared are the probabilities for tiles, and with --slides the labels of a slide at the resolution of each
model, where TIAToolbox's tiles are set not to overlap, as wsi_seg's are not. --golden writes what
tests/test_tiatoolbox.py compares with where TIAToolbox is not installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench_model import default_work
from machine import begin, versions, write_result
from numpy.typing import NDArray
from peer_environments import environment, remove_environment
from PIL import Image

from tests.made.slides import SlideSpec, make_slide
from wsi_seg import load_model, open_slide, segment_slide
from wsi_seg.core.card import read_card
from wsi_seg.core.geometry import Box, Size
from wsi_seg.inference.models.catalog import catalog
from wsi_seg.inference.models.convert import convert_checkpoint
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.inference.models.tiatoolbox import UNETS
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.settings import make_settings
from wsi_seg.slides.sample import sample_slide
from wsi_seg.testing.models import some_tiles

SCRIPT = Path(__file__).resolve().parent / "peers" / "run_tiatoolbox_networks.py"
# The last layer in TIAToolbox's state dict, and a factor on its weights by which classes differ.
NETWORKS = {
    "fcn_resnet50_unet-bcss": ("clf", 8.0),
    "fcn-tissue_mask": ("clf", 4.0),
    "grandqc_tissue_detection": ("segmentation_head", 40.0),
}
# TIAToolbox compresses their tiles with red and blue swapped, see `peers/run_tiatoolbox_networks.py`.
RGB_FIRST = ("grandqc_tissue_detection",)
MOST_DIFFERENCE = 1e-4
LEAST_AGREEMENT = 0.999
SIDE = 256  # of the tiles
SLIDE_SIDE = 1536  # l0 pixels: more than a tile, or wsi_seg would not cut it


def tissue_tiles(side: int, count: int = 2) -> NDArray[np.uint8]:
    """Return tiles of the packaged slide along its diagonal, uint8 (count, side, side, 3)."""
    with open_slide(sample_slide()) as slide:
        starts = np.linspace(0.3, 0.6, count)
        size = slide.info.size
        boxes = [Box.at(int(a * size.width), int(a * size.height), side, side) for a in starts]
        return np.stack([slide.read_level(0, box) for box in boxes])


def made_slides(folder: Path) -> dict[str, Path]:
    """Write a slide of tissue for each network, at the resolution of its model."""
    with open_slide(sample_slide()) as slide:
        picture = slide.read_level(0, Box(0, 0, slide.info.size.width, slide.info.size.height))
    Image.fromarray(picture).save(folder / "texture.png")
    slides = {}
    for name in NETWORKS:
        spec = SlideSpec(
            size=Size(SLIDE_SIDE, SLIDE_SIDE), mpp=catalog()[name].card.mpp, tissue=0.9,
            texture=folder / "texture.png",
        )  # fmt: skip
        slides[name] = make_slide(folder / f"{name}.svs", spec)
    return slides


def run_tiatoolbox(python: Path, folder: Path, slides: dict[str, Path]) -> dict[str, Any]:
    """Run TIAToolbox on what lies in the folder, and return its report."""
    job = {"out": folder, "networks": NETWORKS, "slides": slides, "rgb": RGB_FIRST}
    (folder / "job.json").write_text(json.dumps(job, default=str), encoding="utf-8")
    subprocess.run([python, SCRIPT, folder / "job.json"], check=True, stdout=sys.stderr)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def our_probabilities(model: Path, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return probabilities as TIAToolbox has them, (N, h, w, C): for its U-Nets of the central half."""
    card = read_card(model)
    margin = tiles.shape[1] // 4 if card.architecture in UNETS else 0
    found = load_predictor(str(model), "cpu", "float32")(tiles, margin)
    return found.permute(0, 2, 3, 1).numpy()


def our_labels(model: Path, slide: Path, folder: Path) -> NDArray[np.uint8]:
    """Return the channel of each pixel of a slide, without a tissue mask; tiles do not overlap more than
    TIAToolbox's do.
    """
    card = read_card(model)
    overlap = card.overlap if card.architecture in UNETS else 0
    settings = make_settings({"tissue": "none", "reader": "openslide", "overlap": overlap})
    segment_slide(slide, folder, load_model(str(model), "cpu", "float32"), settings)
    channel = np.zeros(256, np.uint8)
    channel[list(card.codes)] = np.arange(len(card.codes))
    return channel[np.asarray(Maps.open(folder / slide.stem / "maps.zarr").labels[:])]


def compare(name: str, folder: Path, tiles: NDArray[np.uint8], slide: Path | None) -> dict[str, Any]:
    """Compare one network, and return the figures."""
    model = folder / f"model-{name}"
    convert_checkpoint(folder / f"{name}.pth", catalog()[name].card, model)
    theirs = np.load(folder / f"{name}.npy")
    if catalog()[name].card.head == "argmin":  # wsi_seg's are of the class, TIAToolbox's of what it is not
        theirs = (1 - theirs) / (theirs.shape[-1] - 1)
    ours = our_probabilities(model, tiles)
    figures: dict[str, Any] = {
        "largest_difference": float(np.abs(ours - theirs).max()),
        "spread": float(theirs.std(axis=(0, 1, 2)).mean()),  # 0: of outputs that are the same everywhere
    }
    if slide is not None:
        labels, expected = our_labels(model, slide, folder / "out"), np.load(folder / f"{name}-labels.npy")
        if name in RGB_FIRST:
            unchanged = np.load(folder / f"{name}-unchanged-labels.npy")
            figures["agreement_unchanged"] = float((labels == unchanged).mean())
        figures["agreement"] = float((labels == expected).mean())
        figures["label_shares"] = [float((expected == code).mean()) for code in range(theirs.shape[-1])]
    return figures


def golden(folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Return what the test compares with: names and shapes of tensors, and a part of the outputs."""
    networks = {}
    for name, (head, gain) in NETWORKS.items():
        found = np.load(folder / f"{name}.npy")
        step = found.shape[1] // 4
        networks[name] = {
            "head": head,
            "gain": gain,
            "tensors": [
                f"{key} {'x'.join(map(str, shape))}" for key, shape in report["shapes"][name].items()
            ],
            "step": step,
            "outputs": np.round(found[:, ::step, ::step], 7).tolist(),
        }
    return {"made_by": report["versions"], "networks": networks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", action="store_true", help="compare the labels of slides, too")
    parser.add_argument("--remove", action="store_true", help="remove the environment in the end")
    parser.add_argument("--work", type=Path, default=default_work(), help="keeps the environment")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--golden", type=Path, help="write the file of the test, for tiles of noise")
    given = parser.parse_args()
    python = environment("tiatoolbox", given.work)
    with tempfile.TemporaryDirectory(dir=given.work) as place:
        folder = Path(place)
        tiles = some_tiles(1, 64) if given.golden else tissue_tiles(SIDE)
        np.save(folder / "tiles.npy", tiles)
        slides = made_slides(folder) if given.slides else {}
        report = run_tiatoolbox(python, folder, slides)
        result = begin(packages={**versions("wsi-seg", "segmentation-models-pytorch"), **report["versions"]})
        result["networks"] = {name: compare(name, folder, tiles, slides.get(name)) for name in NETWORKS}
        if given.golden:
            given.golden.write_text(json.dumps(golden(folder, report)) + "\n", encoding="utf-8")
    print(json.dumps(result["networks"], indent=1))
    write_result(given.output, result)
    if given.remove:
        remove_environment("tiatoolbox", given.work)
    for name, figures in result["networks"].items():
        if figures["largest_difference"] >= MOST_DIFFERENCE:
            raise SystemExit(f"{name}: probabilities differ by {figures['largest_difference']:.2g}")
        if figures.get("agreement", 1) < LEAST_AGREEMENT:
            raise SystemExit(f"{name}: only {figures['agreement']:.3%} of the labels are the same")


if __name__ == "__main__":
    main()
