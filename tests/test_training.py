"""Training runs: from a configuration to a model folder, whole or interrupted."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from wsi_seg.cli import app
from wsi_seg.core.card import CardClass, CardGroup, ModelCard, read_card
from wsi_seg.core.errors import (
    ClaimedError,
    DataError,
    MissingExtraError,
    ModelError,
    OutputError,
    UsageError,
)
from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.datasets.masks import MaskedImages
from wsi_seg.datasets.outlined_images import OutlinedImages
from wsi_seg.datasets.split import Split
from wsi_seg.evaluation.calibration import TEMPERATURES
from wsi_seg.inference.models.network import read_weights, save_network
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.training.assessed import trained_pixels
from wsi_seg.training.config import LossConfig, OptimizerConfig, TrainConfig, read_train_config, resolved
from wsi_seg.training.data import load_data
from wsi_seg.training.fit import start_network, train
from wsi_seg.training.folder import CHECKPOINTS, CONFIG, DATA, LAST
from wsi_seg.training.progress import claim_of
from wsi_seg.training.task import SegmentationTask, rate_factor

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
COLORS = {1: (140, 70, 150), 2: (230, 160, 190), 4: (90, 60, 80)}  # tumor, stroma, necrosis as in H&E
CLASSES = (
    CardClass(code=1, name="tumor", color=(200, 0, 0)),
    CardClass(code=2, name="stroma", color=(150, 200, 150)),
    CardClass(code=4, name="necrosis_or_debris", color=(50, 50, 50)),
)
SMALL = {
    "encoder": "tu-test_resnet",
    "architecture_options": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
}


def write_region(folder: Path, seed: int, partial: bool = False, shape: tuple[int, int] = (6, 10)) -> None:
    """Write a made region: noisy patches of the three colors, and a strip of code 0 of any color."""
    random = np.random.default_rng(seed)
    codes = np.kron(random.choice(list(COLORS), shape), np.ones((24, 24))).astype(np.uint8)
    image = np.array([COLORS.get(c, (0, 0, 0)) for c in range(5)])[codes]
    image = np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    codes[:10] = 0
    image[:10] = random.integers(0, 256, (10, image.shape[1], 3))
    for part, pixels in (("rgbs", image), ("masks", (codes == 1).astype(np.uint8) if partial else codes)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / part / f"region{seed}.png")


def made_config(data_dir: Path, **changes) -> TrainConfig:
    values = {
        "model": ModelCard(name="made", classes=CLASSES, groups=(), tile=64, **SMALL),
        "data_dir": data_dir,
        "datasets": (
            BcssRegions(name="full", folder=Path("full"), mpp=0.5, split=Split(by="columns", validation=0.2)),
            BcssRegions(name="partial", folder=Path("partial"), mpp=0.5, known_class="tumor", weight=0.3),
        ),
        "blank_excludes": "tumor",
        "crop": 32,
        "batch": 2,
        "epochs": 3,
        "steps_per_epoch": 2,
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


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# --- configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bach": 3}, "unknown key 'bach'; did you mean 'batch'?"),
        ({"optimizer": {"learning_rat": 3}}, "did you mean 'learning_rate'?"),
        ({"blank_excludes": "tumors"}, "class 'tumors' is none of the model's classes"),
        ({"loss": {"class_weights": {"tumors": 2}}}, "class 'tumors' is none of the model's classes"),
        ({"datasets": [{"kind": "bcss", "name": "a", "folder": "a", "weight": 0}]}, "no data set is left"),
        ({"datasets": [{"kind": "bcs", "name": "a", "folder": "a"}]}, "'bcss', 'masks'"),
        ({"datasets": [{"kind": "bcss", "name": "a", "folder": "a", "mp": 1}]}, "did you mean 'mpp'?"),
        ({"data_dir": "$NOT_SET_ANYWHERE/x"}, "environment variable NOT_SET_ANYWHERE is not set"),
        ({"crop": 100}, "crop: "),
        ({"steps_per_epoch": None}, "give steps_per_epoch"),
        ({"unfreeze_epoch": 2}, "needs freeze_encoder"),
        ({"freeze_encoder": True, "unfreeze_epoch": 2, "devices": 2}, "one device only"),
        ({"average_epochs": 5, "ema_decay": 0.9}, "give one of them"),
        ({"average_epochs": 5, "epochs": 4}, "average_epochs is 5, but there are 4 epochs"),
    ],
)
def test_wrong_configurations(change, message, tmp_path):
    path = tmp_path / "train.yaml"
    values = {
        "model": {"name": "m"},
        "datasets": [{"kind": "bcss", "name": "a", "folder": "a"}],
        "steps_per_epoch": 1,
    }
    path.write_text(yaml.safe_dump(values | change))
    with pytest.raises(UsageError) as caught:
        read_train_config(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_former_names_of_keys_still_hold(tmp_path):
    path = tmp_path / "train.yaml"
    values = {
        "model": {"name": "m"},
        "datasets": [{"kind": "bcss", "name": "a", "folder": "a"}],
        "steps_per_epoch": 1,
        "freeze_encoder": True,
    }
    former = {"untaught_classes": True, "blank_is_not": "tumor", "thaw_epoch": 2}
    path.write_text(yaml.safe_dump(values | former))
    config = read_train_config(path)
    assert (config.allow_missing_classes, config.blank_excludes, config.unfreeze_epoch) == (True, "tumor", 2)
    assert not former.keys() & resolved(config).keys()
    path.write_text(yaml.safe_dump(values | former | {"unfreeze_epoch": 3}))
    with pytest.raises(UsageError, match="unknown key 'thaw_epoch'"):
        read_train_config(path)


def test_data_dir_is_relative_to_the_file(tmp_path):
    values = {
        "model": {"name": "m"},
        "datasets": [{"kind": "bcss", "name": "a", "folder": "a"}],
        "sampling": "regions",
        "data_dir": "../x",
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    assert read_train_config(tmp_path / "train.yaml").data_dir == tmp_path.parent / "x"


# --- whole runs ---------------------------------------------------------------------------------------


def test_a_network_learns_made_tissue(made_data, tmp_path):
    config = made_config(
        made_data, epochs=5, steps_per_epoch=15, batch=4, optimizer=OptimizerConfig(learning_rate=5e-3)
    )
    out = train(config, tmp_path / "model")
    rows = table_of(out)
    losses = [float(row["cross_entropy"]) for row in rows if row["cross_entropy"]]
    dice = [float(row["validation_dice"]) for row in rows if row["validation_dice"]]
    assert len(losses) == 75 and len(dice) == 5
    assert losses[-1] < 0.3 < np.log(len(CLASSES))  # the loss of an untaught network
    assert dice[-1] > 0.85
    card = read_card(out)
    assert card.metrics["training"]["steps"] == 75
    assert card.traced == ("tumor",)
    assert card.trained_pixels == trained_pixels(load_data(config), config)
    assert sum(card.trained_pixels.values()) > 1000 and card.assessed is None
    assert card.temperature in TEMPERATURES and card.temperature != 1
    given = config.model
    assert given == card.model_copy(
        update={"metrics": {}, "traced": None, "trained_pixels": None, "temperature": 1.0, "domain": None}
    )
    assert read_train_config(out / CONFIG) == config
    assert not (out / CHECKPOINTS).exists()
    tiles = np.full((1, 64, 64, 3), COLORS[2], np.uint8)
    probabilities = load_predictor(str(out), "cpu", "float32")(tiles)
    assert float(probabilities[0, 1].mean()) > 0.7


def test_a_run_can_be_repeated_from_its_folder(made_data, tmp_path, monkeypatch, recwarn):
    config = made_config(made_data, epochs=1)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "srun").touch(0o755)  # as on the login node of a cluster, where nobody asked for it
    one = train(config, tmp_path / "one")
    two = train(read_train_config(one / CONFIG), tmp_path / "two")
    assert not [warning for warning in recwarn if "srun" in str(warning.message)]
    assert weights_of(one) == weights_of(two)
    assert weights_of(train(config.model_copy(update={"seed": 5}), tmp_path / "three")) != weights_of(one)
    listing = json.loads((one / DATA).read_text())
    used = {(r["dataset"], r["part"], r["region"]) for r in listing["regions"]}
    assert used == {
        *((("full", part, f"region{i}")) for part in ("training", "validation") for i in (1, 2)),
        ("partial", "training", "region3"),
    }
    assert set(listing["files_sha256"]) == {f for r in listing["regions"] for f in r["files"]}
    assert {"torch", "lightning", "wsi-seg"} <= set(
        json.loads((one / "environment.json").read_text())["packages"]
    )


def test_two_trainings_do_not_share_a_folder(made_data, tmp_path):
    out, config = tmp_path / "model", made_config(made_data, epochs=2)
    refused: list[str] = []

    def meanwhile(line: str) -> None:
        """After the first epoch another training begins, and then takes the place of this one."""
        if not line.startswith("epoch 1"):
            return
        before = {path: path.stat().st_mtime for path in out.rglob("*") if path.is_file()}
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(ClaimedError) as caught:
                train(config, out, **how)
            refused.append(str(caught.value))
        assert {path: path.stat().st_mtime for path in out.rglob("*") if path.is_file()} == before
        claim = claim_of(out)
        claim.write_text(json.dumps(json.loads(claim.read_text()) | {"pid": 1, "machine": "far"}))

    with pytest.raises(OutputError, match=r"another one took its place \(process 1 on far\)"):
        train(config, out, report=meanwhile)
    assert len(refused) == 3 and all(f"process {os.getpid()}" in line for line in refused)
    assert not (out / "card.json").exists()


def test_the_best_epoch_is_kept_and_training_stops_early(tmp_path):
    # The columns held out for validation are labeled the other way round: what is learned makes them worse.
    write_region(tmp_path / "data" / "full", 1)
    path = tmp_path / "data" / "full" / "masks" / "region1.png"
    codes = np.array(Image.open(path))
    held_out = codes[:, codes.shape[1] * 4 // 5 :]
    held_out[:] = np.array([0, 2, 4, 0, 1], np.uint8)[held_out]
    Image.fromarray(codes).save(path)
    full = BcssRegions(name="full", folder=Path("full"), mpp=0.5, split=Split(by="columns", validation=0.2))
    config = made_config(
        tmp_path / "data",
        datasets=(full,),
        epochs=40,
        patience=2,
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, schedule="constant"),
    )
    out = train(config, tmp_path / "best")
    losses = [float(row["validation_loss"]) for row in table_of(out) if row["validation_loss"]]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 40
    short = config.model_copy(update={"epochs": best + 1, "patience": None, "keep": "last"})
    assert weights_of(train(short, tmp_path / "short")) == weights_of(out)


def test_the_mean_of_the_last_epochs_is_kept(made_data, tmp_path):
    constant = OptimizerConfig(schedule="constant")
    values = {"optimizer": constant, "keep": "last", "temperature": 1.0}

    def trained(epochs: int, **changes) -> dict[str, torch.Tensor]:
        out = train(
            made_config(made_data, epochs=epochs, **values, **changes), tmp_path / f"{epochs}{len(changes)}"
        )
        return read_weights(out / "model.safetensors")

    two, three, mean = trained(2), trained(3), trained(3, average_epochs=2)
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-7}
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            expected = (two[name].float() + three[name].float()) / 2
            largest = float(expected.abs().max())
            assert torch.allclose(tensor.float(), expected, rtol=0, atol=rounding[tensor.dtype] * largest), (
                name
            )
    name = "encoder.model.bn1.running_mean"
    assert (two[name] - three[name]).abs().max() > 1e-3  # the test would see the one instead of the mean


def test_a_frozen_encoder_stays_as_it_was_until_it_is_unfrozen(made_data, tmp_path):
    config = made_config(made_data, freeze_encoder=True, epochs=2, keep="last")
    torch.manual_seed(config.seed)
    save_network(start_network(config), config.model, tmp_path / "before")

    def encoder(folder: Path) -> dict[str, torch.Tensor]:
        weights = read_weights(folder / "model.safetensors")
        return {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}

    before = encoder(tmp_path / "before")
    frozen = encoder(train(config, tmp_path / "frozen"))
    assert all(torch.equal(frozen[name], tensor) for name, tensor in before.items())
    unfrozen = encoder(train(config.model_copy(update={"unfreeze_epoch": 1}), tmp_path / "unfrozen"))
    for name in ("encoder.model.conv1.0.weight", "encoder.model.bn1.running_mean"):
        assert not torch.equal(unfrozen[name], before[name])


def test_the_encoder_can_start_from_a_file_and_learn_more_slowly(made_data, tmp_path):
    from safetensors.torch import save_file

    card = ModelCard(name="made", classes=CLASSES, groups=(), tile=64, encoder="resnet18")
    config = made_config(made_data, model=card)
    weights = {
        name: torch.full_like(tensor, 0.25)
        for name, tensor in start_network(config).get_submodule("encoder").state_dict().items()
    }
    save_file(weights, made_data / "encoder.safetensors")
    network = start_network(config.model_copy(update={"encoder_weights": "encoder.safetensors"}))
    assert bool((network.get_submodule("encoder").conv1.weight == 0.25).all())
    optimizer = OptimizerConfig(encoder_factor=0.1, schedule="constant")
    groups = (
        SegmentationTask(network, config.model_copy(update={"optimizer": optimizer}), None, 4)
        .configure_optimizers()["optimizer"]
        .param_groups
    )
    assert [g["lr"] for g in groups] == pytest.approx([1e-3, 1e-4])
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))


def test_classes_of_images_are_learned_beside_masks(tmp_path):
    random = np.random.default_rng(0)
    for label, value in (("benign", 90), ("malignant", 170)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(4):
            mask = np.zeros((48, 48), np.uint8)
            y, x = random.integers(4, 20, 2)
            mask[y : y + 20, x : x + 20] = 255
            image = np.where(mask > 0, value, 20) + random.normal(0, 5, mask.shape)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
                tmp_path / "data" / label / f"{label} ({i}).png"
            )
            Image.fromarray(mask).save(tmp_path / "data" / label / f"{label} ({i})_mask.png")
    classes = (
        CardClass(code=1, name="lesion", color=(200, 0, 0)),
        CardClass(code=2, name="background", color=(0, 0, 0)),
    )
    card = ModelCard(
        name="both", classes=classes, groups=(CardGroup(name="lesion", codes=(1,), color=(200, 0, 0)),),
        tile=32, mpp=1.0, image_labels=("benign", "malignant"), **SMALL,
    )  # fmt: skip
    dataset = MaskedImages(
        name="made", folder=Path("data"), resize=32, mask_class="lesion", background_class="background",
        split=Split(validation=0.25),
    )  # fmt: skip
    config = made_config(
        tmp_path, model=card, datasets=(dataset,), blank_excludes=None, sampling="regions", steps_per_epoch=8,
        epochs=8, batch=4, loss=LossConfig(focal=1.0, cross_entropy=0), keep="last",
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )  # fmt: skip
    out = train(config, tmp_path / "model")
    last = [row for row in table_of(out) if row["validation_label_accuracy"]][-1]
    assert float(last["validation_label_accuracy"]) == 1 and float(last["validation_dice"]) > 0.8
    predictor = load_predictor(str(out), "cpu", "float32")
    tiles = np.full((2, 32, 32, 3), 20, np.uint8)
    tiles[0, 8:24, 8:24], tiles[1, 8:24, 8:24] = 90, 170
    assert predictor.classify(tiles).argmax(1).tolist() == [0, 1]
    assert predictor(tiles).shape == (2, 2, 32, 32)


@pytest.mark.long
def test_several_processes_train_one_model(made_data, tmp_path):
    """Two CPU processes of one batch each see what one process with a batch of both sees."""
    config = made_config(made_data, epochs=1, devices=2)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "wsi_seg.cli", "train", str(tmp_path / "train.yaml")]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "model"), "--no-evaluate"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert read_card(tmp_path / "model").metrics["training"]["devices"] == 2
    assert load_predictor(str(tmp_path / "model"), "cpu", "float32")


# --- interrupted runs ---------------------------------------------------------------------------------


class Killed(RuntimeError):
    """Stands in for a kill inside this process."""


@pytest.fixture(scope="module", params=[{"ema_decay": 0.9}, {"average_epochs": 2}], ids=["ema", "mean"])
def whole(request, made_data, tmp_path_factory) -> Path:
    """The folder of a run of four epochs that nothing interrupted."""
    config = made_config(made_data, epochs=4, patience=3, loss=LossConfig(consistency=1), **request.param)
    return train(config, tmp_path_factory.mktemp("whole") / "model")


@pytest.mark.parametrize("epoch", [pytest.param(1, marks=pytest.mark.long), 3])
def test_an_interrupted_run_ends_with_the_same_weights(epoch, whole, tmp_path, monkeypatch):
    config = read_train_config(whole / CONFIG)
    start = SegmentationTask.on_train_epoch_start

    def killed(task: SegmentationTask) -> None:
        start(task)
        if task.current_epoch == epoch:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "on_train_epoch_start", killed)
        with pytest.raises(Killed):
            train(config, tmp_path / "stopped")
    with pytest.raises(OutputError, match=r"stopped: holds an unfinished training; resume it with --resume"):
        train(config, tmp_path / "stopped")
    torch.manual_seed(123)  # nothing may depend on what was drawn before
    resumed = train(config, tmp_path / "stopped", resume=True)
    assert weights_of(resumed) == weights_of(whole)
    assert table_of(resumed) == table_of(whole)
    with pytest.raises(OutputError, match="holds a finished training"):
        train(config, resumed)
    before = weights_of(resumed)
    assert train(config, resumed, resume=True) == resumed and weights_of(resumed) == before


@pytest.fixture
def threads():
    """Sums come out the same only with the same number of threads; tests before this one may have set it."""
    before = torch.get_num_threads()
    yield 1
    torch.set_num_threads(before)


# Trains, and is killed when the third epoch's checkpoint is written, but not yet in place of the second's.
KILLED = f"""
import os, signal
from pathlib import Path
replace, left = Path.replace, 3
def replace_or_be_killed(path, target):
    global left
    left -= path.name == "{LAST}.tmp"
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
Path.replace = replace_or_be_killed
from wsi_seg.cli import main
main()
"""


@pytest.mark.long
def test_a_killed_process_is_resumed(made_data, tmp_path, threads):
    config = made_config(made_data, epochs=5, keep="last", threads=threads)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-c", KILLED, "train", str(tmp_path / "train.yaml")]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "killed")], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = sorted(path.name for path in (tmp_path / "killed" / CHECKPOINTS).iterdir())
    assert left == [LAST, f"{LAST}.tmp"]
    assert torch.load(tmp_path / "killed" / CHECKPOINTS / LAST, weights_only=True)["epoch"] == 1
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    train(config, tmp_path / "killed", resume=True)
    assert weights_of(tmp_path / "killed") == weights_of(train(config, tmp_path / "whole"))


def test_other_settings_or_data_are_not_resumed(made_data, tmp_path, monkeypatch):
    write_region(tmp_path / "data" / "full", 1)
    config = made_config(tmp_path / "data", datasets=(made_config(made_data).datasets[0],), epochs=1)
    out = train(config, tmp_path / "model")
    with pytest.raises(OutputError, match=r"train\.yaml: the run in this folder has another configuration"):
        train(config.model_copy(update={"seed": 9}), out, resume=True)
    write_region(tmp_path / "data" / "full", 1, shape=(7, 10))
    with pytest.raises(
        OutputError, match=r"data\.json: .* has other data \(.*region1\.png is new, gone or has"
    ):
        train(config, out, resume=True)
    before = weights_of(out)
    for mine in (out / "log" / "mine.txt", out / "mine.txt"):
        mine.write_text("mine")
    assert weights_of(train(config, out, overwrite=True)) != before
    assert (out / "log" / "mine.txt").read_text() == (out / "mine.txt").read_text() == "mine"
    assert not (out / "checkpoints").exists()
    (out / "train.yaml").unlink()  # a model from elsewhere
    before = weights_of(out)
    with pytest.raises(OutputError, match=r"holds data\.json but no training, which has a train\.yaml"):
        train(config, out, overwrite=True)
    assert weights_of(out) == before


# --- bad input ----------------------------------------------------------------------------------------


def test_bad_data_stops_a_run_before_anything_is_written(made_data, tmp_path):
    def run(**changes) -> None:
        train(made_config(made_data, **changes), tmp_path / "model")

    full = made_config(made_data).datasets[0]
    with pytest.raises(DataError, match="nowhere: no images"):
        run(datasets=(BcssRegions(name="x", folder=Path("nowhere")),))
    with pytest.raises(DataError, match="the mask holds the values 0, 1, 2, 4, but"):
        run(datasets=(full.model_copy(update={"known_class": "tumor"}),))
    with pytest.raises(DataError, match="no training pixel of class fat; leave such classes out"):
        fat = CardClass(code=9, name="fat", color=(1, 2, 3))
        run(model=ModelCard(name="m", classes=(*CLASSES, fat), groups=(), tile=64, **SMALL))
    with pytest.raises(DataError, match="no region is left to train on"):
        run(datasets=(full.model_copy(update={"split": Split(test=1.0)}),))
    with pytest.raises(DataError, match="blank: the validation part has no pixel of a known class"):
        write_region(made_data / "blank", 4)
        mask = made_data / "blank" / "masks" / "region4.png"
        Image.fromarray(np.zeros((144, 240), np.uint8)).save(mask)
        blank = {"name": "blank", "folder": Path("blank"), "weight": 0, "split": Split(validation=1.0)}
        run(datasets=(full.model_copy(update={"split": Split()}), full.model_copy(update=blank)))
    with pytest.raises(DataError, match="full: the model has image labels"):
        card = made_config(made_data).model.model_copy(update={"image_labels": ("a", "b")})
        run(model=card, datasets=(full,))
    with pytest.raises(DataError, match="an epoch has 3 crops, fewer than a batch of 8; lower batch"):
        run(sampling="regions", steps_per_epoch=None, batch=8)
    with pytest.raises(ModelError, match=r"none\.safetensors: there is no such weights file"):
        run(encoder_weights="none.safetensors")
    assert not (tmp_path / "model").exists()


def test_weights_that_are_no_numbers_make_no_model(made_data, tmp_path):
    steep = OptimizerConfig(name="sgd", learning_rate=1e30, schedule="constant")
    full = made_config(made_data).datasets[0].model_copy(update={"split": Split()})
    with pytest.raises(ModelError, match=r"the training diverged, .*; lower the learning_rate"):
        train(made_config(made_data, optimizer=steep, epochs=1, datasets=(full,)), tmp_path / "model")
    assert not (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("accelerator", ["tpu", "abacus"])
def test_a_device_that_is_not_there(made_data, tmp_path, accelerator):
    with pytest.raises(
        UsageError, match=rf"accelerator '{accelerator}', devices 1: .*; set accelerator: auto"
    ):
        train(made_config(made_data, accelerator=accelerator), tmp_path / "model")


def test_a_place_that_cannot_be_written(made_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be written"):
        train(made_config(made_data), tmp_path / "file" / "model")


def test_training_without_lightning_says_how_to_install_it(made_data, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-seg\[train\]'"):
        train(made_config(made_data), tmp_path / "model")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no mask", "rgbs/region1.png: has no mask; expected "),
        ("size", "masks/region1.png: the mask has 40×30 pixels but its image "),
        ("code", "masks/region1.png: mask code 77 is neither a class of the model nor an ignored code"),
        ("split", "full: the split asks for a test part (test: 0.2), but none of its 1 groups falls into it"),
        ("class", "no training pixel of class fat; leave such classes out"),
        ("polygon", "outlines.csv"),
    ],
)
def test_the_command_names_what_is_wrong_in_one_line(fault, message, tmp_path):
    write_region(tmp_path / "full", 1)
    mask = tmp_path / "full" / "masks" / "region1.png"
    changes = {}
    full = BcssRegions(name="full", folder=Path("full"), mpp=0.5)
    if fault == "no mask":
        mask.unlink()
    elif fault == "size":
        Image.fromarray(np.ones((30, 40), np.uint8)).save(mask)
    elif fault == "code":
        Image.fromarray(np.full((144, 240), 77, np.uint8)).save(mask)
    elif fault == "split":
        full = full.model_copy(update={"split": Split(test=0.2)})
    elif fault == "class":
        fat = CardClass(code=9, name="fat", color=(1, 2, 3))
        changes["model"] = ModelCard(name="m", classes=(*CLASSES, fat), groups=(), tile=64, **SMALL)
    else:
        (tmp_path / "drawn").mkdir()
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "drawn" / "a.png")
        (tmp_path / "drawn" / "outlines.csv").write_text(
            "image,class,points\na.png,tumor,100 5 120 5 120 20\n"
        )
        full = OutlinedImages(name="full", folder=Path("drawn"), outlines=Path("outlines.csv"), mpp=0.5)
    config = made_config(tmp_path, datasets=(full,), **changes)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    result = CliRunner().invoke(app, ["train", str(tmp_path / "train.yaml"), "-o", str(tmp_path / "model")])
    assert result.exit_code == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "model").exists()


# --- schedule -----------------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls():
    factors = [rate_factor("one_cycle", step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == factors[9] == 1
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0) and rate_factor("one_cycle", 0, 1) == 1
    assert rate_factor("cosine", 0, 10) == 1 and rate_factor("cosine", 5, 10) == pytest.approx(0.5)
    assert rate_factor("constant", 7, 10) == 1
