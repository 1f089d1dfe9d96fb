"""Print the tables of docs/results.md from the folders that `wsi-seg train` left.

python scripts/make_results_table.py runs/busi_unet runs/busi_unet_multitask
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from wsi_seg.datasets.patients import UNKNOWN_PATIENTS

SCORES = {
    "dice": "Dice (F1)",
    "precision": "precision",
    "recall": "recall",
    "iou": "IoU",
    "mcc": "MCC",
    "roc_auc": "AUC",
    "dice_mean_over_images": "Dice, mean over images",
    "iou_mean_over_images": "IoU, mean over images",
}


def describe(folder: Path) -> str:
    """Return what a run saw and took, as a line, and its scores, as a table."""
    config = yaml.safe_load((folder / "train.yaml").read_text())
    card = json.loads((folder / "card.json").read_text())
    regions = json.loads((folder / "data.json").read_text())["regions"]
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
    parts = Counter(region["part"] for region in regions)
    patients = {part: {r.get("patient") for r in regions if r["part"] == part} for part in parts}
    if None in set.union(*patients.values()):
        seen = ", ".join(counted(parts[p], f"{p} image") for p in parts) + f" ({UNKNOWN_PATIENTS})"
    else:
        seen = ", ".join(
            f"{counted(parts[p], f'{p} image')} of {counted(len(patients[p]), 'patient')}" for p in parts
        )
    training = card["metrics"]["training"]
    model = metrics["model"]
    lines = [
        f"**{card['name']}**: {seen}; seed {config['seed']}; {training['epochs']} epochs, "
        f"{training['steps']} steps of {training['batch']} crops, {training['seconds']} s; evaluated on the "
        f"{metrics['data']['part']} part, {model['precision']} on {model['device']}."
    ]
    for result in metrics["results"]:
        lines += ["", *table(result)]
    return "\n".join(lines)


def table(result: dict[str, Any]) -> list[str]:
    """Return the Markdown table of one data set: classes with pixels, then the means and accuracies."""
    rows = [row for row in result["classes"] if row["pixels"]]
    overall = result["overall"]
    lines = [
        f"| {result['name']} | share | {' | '.join(SCORES.values())} |",
        "|---|---|" + "---|" * len(SCORES),
        *(f"| {row['name']} | {row['share']:.1%} | {cells(row)} |" for row in rows),
        f"| macro mean | | {cells({s: overall.get(f'macro_{s}') for s in SCORES})} |",
        "",
        f"Pixel accuracy {number(overall['pixel_accuracy'])}; one-against-rest accuracy "
        f"{number(overall['one_against_rest_accuracy'])}.",
    ]
    labels = result["image_labels"]
    if labels:
        scores = ", ".join(f"{k.replace('_', ' ')} {number(v)}" for k, v in labels["overall"].items())
        lines[-1] += f" Labels of {labels['images']} whole images: {scores}."
    return lines


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def cells(scores: dict[str, Any]) -> str:
    return " | ".join(number(scores.get(name)) for name in SCORES)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="folders of finished trainings")
    print("\n\n".join(describe(folder) for folder in parser.parse_args().folders))


if __name__ == "__main__":
    main()
