"""TIAToolbox's networks, compared with what TIAToolbox itself returned for the same weights and tiles.

`tests/made/tiatoolbox.json` was written by `benchmarks/tiatoolbox_networks.py --golden` with TIAToolbox
installed: names and shapes of the tensors that its classes save, and probabilities of a tile of noise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ModelError
from wsi_seg.inference.models.catalog import catalog
from wsi_seg.inference.models.heads import Head
from wsi_seg.inference.models.network import as_jpeg, build_network, load_weights, normalized
from wsi_seg.inference.models.tiatoolbox import ARCHITECTURES, UNETS, rename_tensors
from wsi_seg.testing.models import some_tiles

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks" / "peers"))
from made_weights import made_weights

THEIRS: dict[str, Any] = json.loads((Path(__file__).parent / "made" / "tiatoolbox.json").read_text("utf-8"))
SIDE = 64


def their_state(name: str) -> dict[str, Tensor]:
    """Return a state dict as TIAToolbox's class saves it, of ones."""
    lines = (line.split(" ") for line in THEIRS["networks"][name]["tensors"])
    return {key: torch.ones([int(n) for n in shape.split("x") if n]) for key, shape in lines}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_weights_give_the_same_probabilities(name: str) -> None:
    card = catalog()[name].card
    network = build_network(card).eval()
    given = THEIRS["networks"][name]
    state = made_weights(their_state(name), given["head"], given["gain"])
    weights = rename_tensors(network, card, state, Path("file.pth"))
    assert set(weights) == set(network.state_dict())
    load_weights(network, card, weights, Path("file.pth"))
    tiles = some_tiles(1, SIDE)
    if card.normalization.jpeg_quality:
        tiles = as_jpeg(tiles, card.normalization.jpeg_quality)
    with torch.inference_mode():
        output = network(normalized(torch.from_numpy(tiles), card.normalization))
        # TIAToolbox uses the central half of what its U-Nets predict.
        found = Head(card)(output, (SIDE, SIDE), SIDE // 4 if name in UNETS else 0)
    step, expected = given["step"], np.array(given["outputs"])
    if card.head == "argmin":  # TIAToolbox takes the least probable channel: with two, the other one
        expected = 1 - expected
    assert expected.std(axis=(0, 1, 2)).mean() > 0.05
    assert np.abs(found.permute(0, 2, 3, 1).numpy()[:, ::step, ::step] - expected).max() < 1e-4


def test_tensors_that_do_not_fit_are_named_as_in_the_file() -> None:
    name = "fcn-tissue_mask"
    card: ModelCard = catalog()[name].card
    with torch.device("meta"):
        network = build_network(card)
    state = their_state(name)
    state["clf.weight"] = state["clf.weight"][:1]
    del state["uplist.0.2.weight"], state["backbone.fc.bias"]  # the latter is not used
    state["some.other"] = torch.zeros(1)
    with pytest.raises(ModelError) as caught:
        rename_tensors(network, card, state, Path("file.pth"))
    assert str(caught.value) == (
        "file.pth: the weights do not fit TIAToolbox's fcn-tissue_mask: 1 missing (uplist.0.2.weight); "
        "1 unexpected (some.other); 1 of another shape (clf.weight is 1×64×1×1 instead of 2×64×1×1)"
    )
    with pytest.raises(ModelError, match=r"unknown architecture 'fcn'.*use fcn_resnet50_unet-bcss"):
        build_network(card.model_copy(update={"architecture": "fcn"}))
