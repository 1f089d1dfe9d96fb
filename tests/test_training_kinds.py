"""Every kind of data set can be learned: a small network remembers four images of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.made.datasets import MADE, SCHEME
from wsi_seg.core.card import CardClass, ModelCard
from wsi_seg.evaluation.config import TRAIN_CONFIG, read_evaluate_config
from wsi_seg.evaluation.model import EvaluateSettings, evaluate_model
from wsi_seg.pipeline.models import load_model
from wsi_seg.training.config import AugmentationConfig, OptimizerConfig, TrainConfig
from wsi_seg.training.fit import train

STILL = AugmentationConfig(scale=0, stain=0, color=0, blur=0, chroma=0, jpeg=0, blank=0)


@pytest.mark.parametrize("kind", sorted(MADE))
def test_a_small_network_remembers_four_images(kind: str, tmp_path: Path) -> None:
    dataset = MADE[kind](tmp_path / "data")
    config = TrainConfig(
        model=ModelCard(
            name="small",
            encoder="tu-test_resnet",
            architecture_options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
            classes=tuple(CardClass(code=c.code, name=c.name, color=c.color) for c in SCHEME.classes),
            groups=(),
            tile=128,
            overlap=64,
            mpp=SCHEME.mpp,
        ),
        datasets=(dataset,),
        augmentation=STILL,
        crop=64,
        batch=4,
        epochs=1,
        steps_per_epoch=30,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        precision="32-true",
        accelerator="cpu",
    )
    folder = train(config, tmp_path / "model")
    evaluation = evaluate_model(
        load_model(str(folder), "cpu", "float32"),
        read_evaluate_config(folder / TRAIN_CONFIG),
        EvaluateSettings(part="training"),
    )
    (result,) = evaluation.metrics["results"]
    dice = {row["name"]: row["dice"] for row in result["classes"]}
    assert dice["tumor"] > 0.9 and dice["stroma"] > 0.9, dice
