"""Measure whether a model is uncertain where it is wrong.

    python scripts/measure_uncertainty.py runs/left_out/A0D2

Predicts the test part of the configuration in the model's folder and prints, for the normalized entropy that
`wsi-seg run --uncertainty` stores, the area under the ROC curve of wrong against right pixels and the share
of wrong pixels in each fifth of the pixels. Where the annotations know one class only, a pixel is wrong when
that class is called (at a probability of 0.5) and not there, or there and not called.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.evaluation.choice import choose_regions
from wsi_seg.evaluation.config import TRAIN_CONFIG, read_evaluate_config
from wsi_seg.evaluation.metrics import NO_ROW, rank_scores
from wsi_seg.evaluation.predict import predict_region
from wsi_seg.evaluation.rows import Rows
from wsi_seg.execution.tasks import load_predictor
from wsi_seg.inference.stitch import normalized_entropy
from wsi_seg.pipeline.models import load_model

BINS = 1000
FIFTHS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    folder: Path = parser.parse_args().model
    model = load_model(str(folder))
    card = model.facts.card
    data = read_evaluate_config(folder / TRAIN_CONFIG)
    scheme = LabelScheme(card.tissue_classes, card.mpp, data.ignored_codes, card.image_labels)
    predictor = load_predictor(model.predictor)
    assessed = None if card.assessed is None else len(card.assessed)
    for choice in choose_regions(data, scheme, "test"):
        classes = card.tissue_classes
        one = choice.known is not None
        rows = Rows.of_one_class(classes, choice.known) if one else Rows.of_classes(classes)
        entropies, wrongs = [], []
        for region in choice.regions:
            for block in predict_region(region, predictor, card, 1):
                truth = rows.of_targets(block.target)
                predicted = rows.of_channels(block.channels)
                if one:
                    predicted = (rows.of_probabilities(block.probabilities)[0] < 0.5).astype(np.uint8)
                known = truth != NO_ROW
                entropies.append(normalized_entropy(block.probabilities, assessed)[known])
                wrongs.append((truth != predicted)[known])
        entropy, wrong = np.concatenate(entropies), np.concatenate(wrongs)
        steps = np.floor(entropy * BINS)[None] / BINS
        auc = rank_scores((~wrong).astype(np.uint8), np.repeat(steps, 2, axis=0), ("wrong", "right")).roc_auc[
            0
        ]
        limits = np.quantile(entropy, np.linspace(0, 1, FIFTHS + 1))
        fifth = np.clip(np.searchsorted(limits, entropy, side="right") - 1, 0, FIFTHS - 1)
        shares = ", ".join(f"{wrong[fifth == k].mean():.1%}" for k in range(FIFTHS))
        print(
            f"{choice.name}: {wrong.mean():.1%} of {len(wrong):,} pixels are wrong; AUC of entropy {auc:.3f}"
        )
        print(f"  wrong in each fifth of the pixels, from the surest to the least sure: {shares}")


if __name__ == "__main__":
    main()
