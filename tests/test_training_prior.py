"""Prior shift: a network that saw rare classes often expects them as rarely as they occur."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.test_training import made_config, write_region
from wsi_seg.core.card import read_card
from wsi_seg.inference.models.network import build_network, read_weights
from wsi_seg.training.config import OptimizerConfig
from wsi_seg.training.crops import CropBatch, TrainingCrops
from wsi_seg.training.data import load_data
from wsi_seg.training.fit import train
from wsi_seg.training.prior import crop_shares, log_ratios, move_logits
from wsi_seg.training.task import SegmentationTask

BIAS = "segmentation_head.0.bias"
NAMES = ("tumor", "stroma", "necrosis_or_debris")
CROPS = 64  # instead of the 256 of a real training
SHARES = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(np.array)


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regions")
    write_region(folder / "full", 1)
    write_region(folder / "partial", 2, partial=True)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _few_crops():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_seg.training.prior.CROPS", CROPS)
        yield


@given(shares=SHARES, prior=SHARES, logits=st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_probabilities_follow_bayes(shares, prior, logits):
    shares, prior = shares / shares.sum(), prior / prior.sum()
    config = made_config(Path(), prior=dict(zip(NAMES, (3 * prior).tolist(), strict=True)))
    p = torch.tensor(logits, dtype=torch.float64).softmax(0).numpy()
    expected = p * prior / shares
    moved = torch.tensor(logits, dtype=torch.float64) + torch.from_numpy(log_ratios(shares, config))
    assert np.allclose(moved.softmax(0).numpy(), expected / expected.sum())


def test_classes_without_a_prior_or_without_pixels_keep_their_share(tmp_path):
    config = made_config(tmp_path, prior={"tumor": 30, "necrosis_or_debris": 10})
    shares = np.array([0.2, 0.6, 0.2])
    ratios = log_ratios(shares, config)
    assert np.allclose(shares * np.exp(ratios), [0.3, 0.6, 0.1])
    assert log_ratios(np.array([0.5, 0.5, 0]), config).tolist() == [0, 0, 0]


def test_shares_are_those_of_the_first_crops(regions):
    config = made_config(regions)
    data = load_data(config)
    shares = crop_shares(data.crops, config, None)
    assert shares.sum() == pytest.approx(1) and (shares > 0.1).all()
    assert (shares == crop_shares(data.crops, config, None)).all()
    some = crop_shares(data.crops, config, (0, 2))
    assert some[1] == 0 and some.sum() == pytest.approx(1) and (some[[0, 2]] > shares[[0, 2]]).all()


def test_pixels_that_are_only_known_not_to_be_tumor_count_for_the_others(regions):
    config = made_config(regions)
    crops = TrainingCrops(load_data(config).crops, config)
    targets = np.concatenate([crops[0, i].targets[0].numpy().ravel() for i in range(CROPS)])
    tumor, stroma, necrosis, not_tumor = ((targets == value).sum() for value in (0, 1, 2, -2))
    assert not_tumor > 0.1 * tumor
    shares = crop_shares(load_data(config).crops, config, None)
    assert shares[0] == pytest.approx(tumor / (tumor + stroma + necrosis + not_tumor))
    assert shares[1] / shares[2] == pytest.approx(stroma / necrosis)


def test_logits_of_a_network_move_by_as_much(tmp_path):
    network = build_network(made_config(tmp_path).model).eval()
    inputs = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(inputs)
        move_logits(network, np.array([1.0, -2.0, 0.5]))
        assert torch.allclose(
            network(inputs) - before, torch.tensor([1.0, -2.0, 0.5])[:, None, None], atol=1e-5
        )


def test_validation_measures_the_network_with_its_prior(tmp_path):
    """Its temperature and its scores are those of the finished model, whose logits are moved."""
    config = made_config(tmp_path)
    added = np.array([1.0, -2.0, 0.5])
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=random, dtype=torch.uint8)
    targets = torch.randint(-1, 3, (2, 64, 64), generator=random)
    batch = CropBatch(images, targets, torch.full((2,), -1))
    network = build_network(config.model).eval()

    def counts(**of_task):
        task = SegmentationTask(network, config, None, 1, **of_task)
        task.on_validation_epoch_start()
        with torch.no_grad():
            task.validation_step(batch, 0)
        return task._validation_counts

    before, moved = counts(), counts(added=added)
    move_logits(network, added)
    assert torch.allclose(moved, counts()) and not torch.allclose(moved, before)


def test_a_training_with_a_prior_ends_with_the_moved_bias(regions, tmp_path):
    prior = {"tumor": 0.3, "stroma": 0.6, "necrosis_or_debris": 0.1}
    config = made_config(regions, epochs=1)
    biases = []
    for changes in ({}, {"prior": prior}):
        of_run = config.model_copy(update=changes)
        out = train(of_run, tmp_path / f"prior-{bool(changes)}")
        biases.append(read_weights(out / "model.safetensors")[BIAS].float())
    data = load_data(config)
    shares = crop_shares(data.crops, config, None)
    added = torch.from_numpy(log_ratios(shares, config.model_copy(update={"prior": prior}))).float()
    assert torch.allclose(biases[1] - biases[0], added, atol=0.02)  # stored in bfloat16
    assert float(added.abs().max()) > 0.3
    told = read_card(out).metrics["training"]["crop_shares"]
    assert told == {name: round(share, 4) for name, share in zip(NAMES, shares.tolist(), strict=True)}
    assert "crop_shares" not in read_card(tmp_path / "prior-False").metrics["training"]


def test_given_shares_of_crops_stay_so_that_only_learning_moves_the_weights(regions, tmp_path):
    prior, shares = {"tumor": 0.3, "stroma": 0.6}, {"tumor": 0.5, "stroma": 0.2, "necrosis_or_debris": 0.3}
    first = train(made_config(regions, epochs=1, prior=prior), tmp_path / "first")
    card = read_card(first)
    told = {**card.metrics, "training": {**card.metrics["training"], "crop_shares": shares}}
    card.model_copy(update={"metrics": told}).write(first)
    careful = OptimizerConfig(learning_rate=1e-12, weight_decay=0)
    again = made_config(
        regions, epochs=1, prior=prior, start_from=str(first), crop_shares=shares, optimizer=careful
    )
    second = train(again, tmp_path / "second")
    before, after = (read_weights(folder / "model.safetensors")[BIAS].float() for folder in (first, second))
    assert torch.allclose(before, after, atol=0.02)  # rounded twice to bfloat16
    assert read_card(second).metrics["training"]["crop_shares"] == shares
    moved = train(again.model_copy(update={"crop_shares": None}), tmp_path / "moved")
    assert not torch.allclose(before, read_weights(moved / "model.safetensors")[BIAS].float(), atol=0.1)


def test_a_prior_of_another_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="class 'bone' is none of the model's classes"):
        made_config(tmp_path, prior={"bone": 0.5})
    with pytest.raises(ValueError, match="greater than 0"):
        made_config(tmp_path, prior={"tumor": 0})
