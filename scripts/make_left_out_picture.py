"""Make the README's picture: an annotated region that a model never saw, outlined by people and by the model.

    python scripts/make_left_out_picture.py runs/left_out/A0D2-seed0 docs/left_out.jpg

The model folder is one of leave_one_patient_out.py: the test part of its train.yaml is drawn, tumor filled as
the model calls it (a probability of at least 0.5) and outlined in black as annotated. Prints the Dice of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from wsi_seg.core.card import ModelCard
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion
from wsi_seg.evaluation.config import TRAIN_CONFIG, read_evaluate_config
from wsi_seg.evaluation.predict import predict_region
from wsi_seg.inference.models.predictor import load_predictor

WIDTH = 1100
LINE = 3  # pixels of the picture
OPACITY = 0.4


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the border of a mask, `LINE` pixels wide."""
    return binary_dilation(mask, iterations=LINE // 2) & ~binary_erosion(mask, iterations=LINE - LINE // 2)


def largest_region(folder: Path, card: ModelCard) -> AnnotatedRegion:
    """Return the largest test region of a model's training configuration."""
    config = read_evaluate_config(folder / TRAIN_CONFIG)
    scheme = LabelScheme(card.tissue_classes, card.mpp, config.ignored_codes, card.image_labels)
    regions = [r for d in config.datasets for r in d.parts(config.data_dir, scheme).test]
    return max(regions, key=lambda region: region.size.width * region.size.height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--class", dest="class_name", default="tumor")
    arguments = parser.parse_args()
    predictor = load_predictor(str(arguments.model), "cpu")
    card = predictor.card
    channel = [c.name for c in card.classes].index(arguments.class_name)
    region = largest_region(arguments.model, card)
    height, width = region.size.height, region.size.width
    image, target = region.read(Box(0, 0, width, height))
    called = np.zeros((height, width), bool)
    for block in predict_region(region, predictor, card):
        called[block.box.slices] = block.probabilities[channel] >= 0.5
    known, truth = target != IGNORED, target == channel
    both = int((called & truth & known).sum())
    dice = 2 * both / int((called & known).sum() + (truth & known).sum())
    scale = WIDTH / width
    size = (WIDTH, round(height * scale))

    def small(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size)) > 127

    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)).astype(np.float32)
    filled = small(called)
    color = np.array(card.classes[channel].color, np.float32)
    picture[filled] = (1 - OPACITY) * picture[filled] + OPACITY * color
    picture[outline(small(truth))] = 0
    Image.fromarray(picture.astype(np.uint8)).save(arguments.picture, quality=85)
    print(
        f"{region.name}: {arguments.class_name}, Dice {dice:.3f} at {card.mpp:g} µm/px, {width}×{height} px"
    )


if __name__ == "__main__":
    main()
