"""The contract of models over architectures and encoders, and how networks are built and saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_seg.core.card import WEIGHTS_NAME, CardClass, ModelCard, Normalization, read_card
from wsi_seg.core.errors import ModelError
from wsi_seg.inference.models.network import (
    build_network,
    load_encoder,
    load_network,
    normalized,
    save_network,
)
from wsi_seg.inference.models.registry import find_model, list_models
from wsi_seg.testing.models import (
    CHECKS,
    check_independent_of_neighbors,
    check_probabilities,
    check_repeatable,
    check_round_trip,
    random_model,
    some_tiles,
)

LITE = "timm-tf_efficientnet_lite0"
# Each architecture and each encoder, not every pair.
MODELS = [("Unet", LITE), ("UnetPlusPlus", LITE), ("DeepLabV3Plus", "resnet18"), ("FPN", "mobilenet_v2")]
# What other networks compute; how their files are read is the same for all.
PREDICTIONS = [check_probabilities, check_repeatable, check_independent_of_neighbors, check_round_trip]
CASES = [(MODELS[0], check) for check in CHECKS] + [(m, check) for m in MODELS[1:] for check in PREDICTIONS]


@pytest.fixture(scope="module")
def some_model(request, tmp_path_factory) -> Path:
    architecture, encoder = request.param
    folder = tmp_path_factory.mktemp("models") / f"{architecture}-{encoder}"
    return random_model(folder, architecture=architecture, encoder=encoder)


@pytest.mark.parametrize(
    ("some_model", "check"),
    CASES,
    ids=lambda one: one.__name__ if callable(one) else "-".join(one),
    indirect=["some_model"],
)
def test_contract(check, some_model, tmp_path):
    check(some_model, tmp_path)


def test_contract_of_few_classes_and_options(tmp_path):
    classes = (CardClass(code=3, name="a", color=(1, 2, 3)), CardClass(code=200, name="b", color=(3, 2, 1)))
    folder = random_model(
        tmp_path / "model",
        classes=classes,
        groups=(),
        architecture_options={"decoder_attention_type": "scse", "decoder_channels": [64, 32, 32, 16, 16]},
    )
    for check in CHECKS:
        scratch = tmp_path / check.__name__
        scratch.mkdir()
        check(folder, scratch)


def test_bundled_models_keep_the_contract(tmp_path):
    for card in list_models():
        folder = find_model(card.name)
        assert read_card(folder) == card and folder.name == card.name
        assert (folder / WEIGHTS_NAME).stat().st_size < 16e6
        for check in CHECKS:
            scratch = tmp_path / card.name / check.__name__
            scratch.mkdir(parents=True)
            check(folder, scratch)


# --- network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architecture": "Vnet"}, "Vnet"),
        ({"encoder": "resnet1800"}, "resnet1800"),
        ({"architecture_options": {"decoder_chanels": [8]}}, "did you mean 'decoder_channels'"),
        ({"architecture_options": {"activation": "sigmoid"}}, "no option 'activation'"),
        ({"architecture_options": {"decoder_channels": [8]}}, "decoder_channels"),
    ],
)
def test_card_that_cannot_be_built(change, named):
    with pytest.raises(ModelError, match=named) as caught:
        build_network(ModelCard(name="m", **change))
    assert "\n" not in str(caught.value) and "'m'" in str(caught.value)


def test_weights_are_saved_as_they_run_in_bfloat16_and_normalization_exactly(tmp_path):
    card = ModelCard(name="m", encoder=LITE)
    network = build_network(card)
    variance = next(name for name in network.state_dict() if name.endswith("running_var"))
    network.state_dict()[variance][0] = 1 + 1e-6
    save_network(network, card, tmp_path)
    loaded = load_network(tmp_path).state_dict()
    assert torch.equal(loaded[variance], network.state_dict()[variance])
    head = "segmentation_head.0.weight"
    assert torch.equal(loaded[head], network.state_dict()[head].bfloat16().float())
    assert all(t.dtype in (torch.float32, torch.int64) for t in loaded.values())
    assert (tmp_path / WEIGHTS_NAME).stat().st_size < 16e6


def test_encoder_weights(tmp_path):
    from safetensors.torch import save_file

    source = build_network(ModelCard(name="a", encoder="resnet18"))
    weights = {name: t.clone() for name, t in source.encoder.state_dict().items()}
    save_file(weights | {"fc.weight": torch.zeros(2, 2)}, tmp_path / "encoder.safetensors")
    network = build_network(ModelCard(name="b", encoder="resnet18"))
    load_encoder(network, tmp_path / "encoder.safetensors")
    assert all(torch.equal(t, weights[name]) for name, t in network.encoder.state_dict().items())
    other = build_network(ModelCard(name="c", encoder=LITE))
    with pytest.raises(ModelError, match="do not fit the encoder"):
        load_encoder(other, tmp_path / "encoder.safetensors")
    with pytest.raises(ModelError, match=r"nothing\.safetensors"):
        load_encoder(other, tmp_path / "nothing.safetensors")


def test_normalized():
    tiles = some_tiles(2, 32)
    norm = Normalization(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (tiles / 255.0 - np.array(norm.mean)) / np.array(norm.std)
    out = normalized(torch.from_numpy(tiles), norm)
    assert out.shape == (2, 3, 32, 32) and out.dtype == torch.float32
    assert np.allclose(out.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
