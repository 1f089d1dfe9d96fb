"""Folding batch normalization: the same outputs with fewer layers, or the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wsi_seg.core.card import ModelCard
from wsi_seg.inference.models.fold import fold_batch_norm
from wsi_seg.inference.models.network import build_network


def used(network: nn.Module) -> nn.Module:
    """Return the network with statistics that are not those it was made with."""
    torch.manual_seed(0)
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(2, 3, 64, 64))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return network.eval()


def left(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("encoder", "stay"),
    [
        ("resnet18", 0),
        ("timm-tf_efficientnet_lite0", 1),  # the encoder's last one, which no segmentation needs
        ("tu-mobilenetv3_small_100", 0),  # activations inside the normalization, and convolutions of its own
        ("vgg11_bn", 0),  # the convolutions before have a bias
        ("densenet121", 62),  # normalizes what several layers made
    ],
)
def test_outputs_stay_the_same(encoder: str, stay: int) -> None:
    network = used(build_network(ModelCard(name="test", architecture="Unet", encoder=encoder, tile=64)))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batch_norm(network)
    assert left(folded) == stay < left(network)
    pixels = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        expected, found = network(pixels), folded(pixels)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.equal(found, expected)
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


class _UsedTwice(nn.Module):
    """A network that needs the output of a convolution both with and without normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.normalization = nn.BatchNorm2d(4)

    def forward(self, pixels: Tensor) -> Tensor:
        made: Tensor = self.convolution(pixels)
        normalized: Tensor = self.normalization(made)
        return normalized + made


def test_a_network_that_needs_both_stays_as_it_is() -> None:
    network = used(_UsedTwice())
    assert fold_batch_norm(network) is network
    assert left(network) == 1
