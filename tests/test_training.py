"""Training runs: from a configuration to a model folder, and the evaluation of what was held out."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from wsi_seg.card import CardClass, ModelCard, Normalization, read_card
from wsi_seg.errors import DataError, MissingExtraError, ModelError, OutputError, UsageError
from wsi_seg.models.predictor import load_predictor
from wsi_seg.training.config import DatasetConfig, TrainConfig, read_train_config
from wsi_seg.training.datasets import IGNORED, Dataset, Region, not_class
from wsi_seg.training.fit import CONFIG_NAME, train
from wsi_seg.training.holdout import count_region, evaluate_holdout, predict_channels
from wsi_seg.training.task import one_cycle

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
COLORS = {1: (140, 70, 150), 2: (230, 160, 190), 4: (90, 60, 80)}  # tumour, stroma, necrosis as in H&E
KEPT = CardClass(code=1, name="tumor", color=(200, 0, 0))
CLASSES = (
    KEPT,
    CardClass(code=2, name="stroma", color=(150, 200, 150)),
    CardClass(code=4, name="necrosis_or_debris", color=(50, 50, 50)),
)


def write_region(folder: Path, seed: int, partial: bool = False) -> None:
    """Write a made region: noisy patches of the three colours, and a strip of code 0 of any colour."""
    random = np.random.default_rng(seed)
    codes = np.kron(random.choice(list(COLORS), (6, 10)), np.ones((24, 24))).astype(np.uint8)
    image = np.array([COLORS.get(c, (0, 0, 0)) for c in range(5)])[codes]
    image = np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    codes[:10] = 0
    image[:10] = random.integers(0, 256, (10, image.shape[1], 3))
    for part, pixels in (("rgbs", image), ("masks", (codes == 1).astype(np.uint8) if partial else codes)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / part / f"region{seed}.png")


def made_config(data_dir: Path, **changes) -> TrainConfig:
    values = {
        "model": ModelCard(
            name="made", encoder="timm-tf_efficientnet_lite0", classes=CLASSES, groups=(), tile=64
        ),
        "data_dir": data_dir,
        "datasets": (
            DatasetConfig(name="full", folder=Path("full"), mpp=0.5, holdout=0.2),
            DatasetConfig(name="partial", folder=Path("partial"), mpp=0.5, known_class="tumor", weight=0.3),
        ),
        "blank_is_not": "tumor",
        "crop": 64,
        "batch": 4,
        "max_steps": 3,
        "precision": "32-true",
        "accelerator": "cpu",
    }
    return TrainConfig(**(values | changes))


@pytest.fixture(scope="module")
def made_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_region(folder / "full", 1)
    write_region(folder / "full", 2)
    write_region(folder / "partial", 3, partial=True)
    return folder


# --- configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("train_*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_load(path, monkeypatch, tmp_path):
    monkeypatch.setenv("WSI_SEG_DATA", str(tmp_path))
    config = read_train_config(path)
    assert config.data_dir == tmp_path
    assert config.model.notice == "demonstration, not for clinical use"


def test_the_demo_card_tells_the_result_on_a_patient_never_seen(monkeypatch, tmp_path):
    monkeypatch.setenv("WSI_SEG_DATA", str(tmp_path))
    entry = read_train_config(CONFIGS / "train_bcss_demo.yaml").model.metrics["left_out_patient"]
    assert "without this patient" in entry["note"] and "train_bcss_demo_left_out.yaml" in entry["command"]
    assert {"dice", "iou", "mcc"} <= set(entry["tumor"])


def test_the_left_out_configuration_differs_from_the_demo_in_the_patient_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("WSI_SEG_DATA", str(tmp_path))
    demo, left_out = (read_train_config(CONFIGS / f"train_bcss_demo{end}.yaml") for end in ("", "_left_out"))
    (patient,) = (d for d in left_out.datasets if d.holdout == 1)
    assert patient.name == "A1G6" and patient.weight == 0
    same = {"model": demo.model, "datasets": demo.datasets, "max_steps": demo.max_steps}
    assert left_out.model_copy(update=same) == demo
    others = [d for d in demo.datasets if d.name != "A1G6"]
    assert [d for d in left_out.datasets if d.name != "A1G6"] == others
    assert left_out.model.encoder == demo.model.encoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bach": 3}, "unknown key 'bach'; did you mean 'batch'?"),
        ({"blank_is_not": "tumors"}, "class 'tumors' is none of the model's classes"),
        ({"datasets": [{"name": "a", "folder": "a", "mpp": 1, "weight": 0}]}, "no data set is left"),
        ({"data_dir": "$NOT_SET_ANYWHERE/x"}, "environment variable NOT_SET_ANYWHERE is not set"),
        ({"crop": 100}, "crop: "),
    ],
)
def test_wrong_configurations(change, message, tmp_path):
    path = tmp_path / "train.yaml"
    values = {"model": {"name": "m"}, "datasets": [{"name": "a", "folder": "a", "mpp": 0.5}]} | change
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError) as caught:
        read_train_config(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_data_dir_is_relative_to_the_file(tmp_path):
    values = {
        "model": {"name": "m"},
        "datasets": [{"name": "a", "folder": "a", "mpp": 0.5}],
        "data_dir": "../x",
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    assert read_train_config(tmp_path / "train.yaml").data_dir == tmp_path / ".." / "x"


# --- runs ---------------------------------------------------------------------------------------------


def test_a_network_learns_made_tissue(made_data, tmp_path):
    config = made_config(made_data, max_steps=40, learning_rate=3e-3, checkpoint_steps=20)
    out = train(config, tmp_path / "model")
    with (out / "log" / "metrics.csv").open() as file:
        losses = [float(row["cross_entropy"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.2 < np.log(len(CLASSES))  # the loss of an untaught network
    assert losses[-1] < losses[0]
    card = read_card(out)
    held = card.metrics["holdout"]["full"]
    assert f"held-out Dice full: tumor {held['classes']['tumor']['dice']:.2f}" in card.held_out
    assert held["mean_dice"] > 0.85 and set(held["classes"]) == {c.name for c in CLASSES}
    assert "right-most 20%" in held["note"] and "optimistic" in held["note"]
    assert "partial" not in card.metrics["holdout"]
    assert card.metrics["training"]["steps"] == 40
    assert card.model_copy(update={"metrics": {}, "held_out": ""}) == config.model
    assert read_train_config(out / CONFIG_NAME) == config
    assert (out / "checkpoints" / "last.ckpt").is_file()
    tiles = np.full((1, 64, 64, 3), COLORS[2], np.uint8)
    probabilities = load_predictor(str(out), "cpu", "float32")(tiles)
    assert float(probabilities[0, 1].mean()) > 0.7


def test_the_same_seed_gives_the_same_weights(made_data, tmp_path):
    config = made_config(
        made_data, model=made_config(made_data).model.model_copy(update={"metrics": {"a": 1}})
    )
    weights = [(train(config, tmp_path / name) / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    assert read_card(tmp_path / "one").metrics["a"] == 1
    other = train(config.model_copy(update={"seed": 5}), tmp_path / "three")
    assert (other / "model.safetensors").read_bytes() != weights[0]


def test_bad_data_stops_a_run_before_anything_is_written(made_data, tmp_path):
    nowhere = DatasetConfig(name="x", folder=Path("nowhere"), mpp=0.5)
    with pytest.raises(DataError, match="nowhere: no images"):
        train(made_config(made_data, datasets=(nowhere,)), tmp_path / "model")
    with pytest.raises(DataError, match=r"mask code \d is neither"):
        wrong = DatasetConfig(name="x", folder=Path("full"), mpp=0.5, known_class="tumor")
        train(made_config(made_data, datasets=(wrong,)), tmp_path / "model")
    with pytest.raises(ModelError, match=r"encoder\.safetensors"):
        train(made_config(made_data, encoder_weights=Path("encoder.safetensors")), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_place_that_cannot_be_written(made_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/model: cannot write there"):
        train(made_config(made_data), tmp_path / "file" / "model")


def test_training_without_lightning_says_how_to_install_it(made_data, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-seg\[train\]'"):
        train(made_config(made_data), tmp_path / "model")


def test_one_cycle():
    factors = [one_cycle(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == factors[9] == 1
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0) and one_cycle(0, 1) == 1


# --- held-out evaluation ------------------------------------------------------------------------------


class ByRed(nn.Module):
    """Stands in for a network: the channel is the red value divided by 100, pixel by pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(255.0))
        self.channels = channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        channel = (images[:, 0] * self.scale / 100).round().long()
        return nn.functional.one_hot(channel, self.channels).permute(0, 3, 1, 2).float()


PLAIN = Normalization(mean=(0, 0, 0), std=(1, 1, 1))
CARD = ModelCard(name="m", tile=64, classes=CLASSES, groups=(), normalization=PLAIN)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (5, 200), (97, 130), (33, 31)])
def test_tiles_are_put_back_in_place(size):
    channels = np.random.default_rng(0).integers(0, 3, size).astype(np.uint8)
    image = np.repeat(channels[..., None] * 100, 3, axis=2)
    assert np.array_equal(predict_channels(ByRed(3), CARD, image), channels)


def region(predicted: list[int], target: list[int]) -> Region:
    image = np.repeat(np.array([predicted], np.uint8)[..., None] * 100, 3, axis=2)
    return Region("r", image, np.array([target], np.int16))


def test_ignored_pixels_do_not_count(tmp_path):
    config = made_config(tmp_path, model=CARD)
    made = region([0, 0, 1, 2, 2], [0, 1, 1, IGNORED, 2])
    counts = count_region(ByRed(3), made, Dataset("full", None, 1, (), (made,)), config)
    assert counts.matrix[:, :3].tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert counts.names == tuple(c.name for c in CLASSES)


def test_a_mask_of_one_class_is_scored_on_that_class(tmp_path):
    config = made_config(tmp_path, model=CARD)
    other = not_class(0)
    parts = (region([0, 0, 1], [0, other, other]), region([2, 2], [0, other]))
    full = Dataset("full", None, 1, (), ())
    scores = evaluate_holdout(ByRed(3), [full, Dataset("partial", "tumor", 0.3, (), parts)], config)
    assert list(scores) == ["partial"]
    tumor = scores["partial"]["classes"]["tumor"]
    assert (tumor["precision"], tumor["recall"], tumor["pixels"]) == (0.5, 0.5, 2)
    assert scores["partial"]["classes"]["not tumor"]["pixels"] == 3
    assert "know only tumor" in scores["partial"]["note"]
    json.dumps(scores, allow_nan=False)


def test_small_tiles_can_be_evaluated(tmp_path):
    made = region([0, 1, 2], [0, 1, 2])
    card = CARD.model_copy(update={"tile": 32})
    config = made_config(tmp_path, model=card)
    scores = evaluate_holdout(
        ByRed(3), [Dataset("full", None, 1, (), (made,)), Dataset("partial", "tumor", 1, (), ())], config
    )
    assert scores["full"]["accuracy"] == 1
