"""From the output of a network to probabilities: heads, masked classes, margins and strides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from tests.made.memory_slides import ArraySlide
from wsi_seg.core.card import CardClass, ModelCard, Normalization, OutputGeometry
from wsi_seg.core.errors import ModelError, UsageError
from wsi_seg.core.geometry import Box
from wsi_seg.evaluation.seams import measure_seams
from wsi_seg.inference.blocks import BlockSettings
from wsi_seg.inference.models.heads import Head
from wsi_seg.inference.models.network import normalized
from wsi_seg.inference.models.predictor import NetworkPredictor
from wsi_seg.planning.plan import choose_grid
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.slides.slide import map_frame
from wsi_seg.testing.models import some_tiles

CLASSES = tuple(CardClass(code=code, name=f"class {code}", color=(code, 0, 0)) for code in (1, 2, 3))


def card(**fields: object) -> ModelCard:
    return ModelCard(**{"name": "made", "classes": CLASSES, "groups": (), "tile": 64, **fields})


def logits(channels: int = 3, side: int = 64) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def test_heads_are_what_their_formulas_say() -> None:
    raw, two = logits(), logits(2)
    exact = torch.exp(raw) / torch.exp(raw).sum(1, keepdim=True)
    assert torch.allclose(Head(card())(raw, (64, 64), 0), exact, atol=1e-6)
    assert torch.allclose(Head(card(head="argmin"))(raw, (64, 64), 0), (1 - exact) / 2, atol=1e-6)
    assert torch.equal(Head(card(head="none"))(exact, (64, 64), 0), exact)
    each = 1 / (1 + torch.exp(-two))
    found = Head(card(head="sigmoid"))(two, (64, 64), 0)
    assert torch.allclose(found[:, :2], each, atol=1e-6)
    assert torch.allclose(found[:, 2], 1 - each.max(1).values, atol=1e-6)
    background = (each < 0.5).all(1)  # the rest is the class where no other is more probable than not
    assert torch.equal(found.argmax(1) == 2, background)
    cooled = Head(card(temperature=2))(raw, (64, 64), 0)
    assert torch.allclose(cooled, (raw / 2).softmax(1), atol=1e-6)


def test_argmin_takes_the_least_channel() -> None:
    raw = logits()
    assert torch.equal(Head(card(head="argmin"))(raw, (64, 64), 0).argmax(1), raw.argmin(1))


def test_classes_that_are_not_assessed_get_no_probability() -> None:
    raw = logits()
    found = Head(card(assessed=("class 1", "class 3"), temperature=1.5))(raw, (64, 64), 4)
    assert float(found[:, 1].abs().max()) == 0
    inner = (raw[:, [0, 2]] / 1.5).softmax(1)[..., 4:-4, 4:-4]
    assert torch.allclose(found[:, [0, 2]], inner, atol=1e-6)


@pytest.mark.parametrize("of", ["probabilities", "logits"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_a_smaller_output_is_enlarged_as_the_card_says(of: str, interpolation: str) -> None:
    raw = logits(side=8)  # of the inner 32 of 64 pixels
    geometry = OutputGeometry(margin=16, stride=4, interpolation=interpolation, of=of)
    found = Head(card(output=geometry))(raw, (64, 64), 20)
    options = {"align_corners": False} if interpolation == "bilinear" else {}
    large = functional.interpolate(
        raw.softmax(1) if of == "probabilities" else raw, scale_factor=4, mode=interpolation, **options
    )
    expected = (large if of == "probabilities" else large.softmax(1))[..., 4:-4, 4:-4]
    assert found.shape == (2, 3, 24, 24) and torch.allclose(found, expected, atol=1e-6)


def test_an_output_that_is_not_what_the_card_says_is_refused() -> None:
    for wrong in (logits(4), logits(side=32), torch.zeros(2, 3)):
        with pytest.raises(ModelError, match=r"'made': .* its card says \(batch, 3, 64, 64\)"):
            Head(card())(wrong, (64, 64), 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output": {"margin": 32}}, "no multiple of the stride"),
        ({"output": {"stride": 3}}, "no multiple of the stride"),
        ({"output": {"of": "logits"}, "head": "none"}, "has no logits"),
        ({"head": "sigmoid", "classes": CLASSES[:1]}, "two classes or more"),
        ({"assessed": ("class 9",)}, "class 9"),
        ({"trained_pixels": {"class 9": 3}}, "class 9"),
        ({"assessed": ()}, "assessed names nothing"),
        ({"assessed": ("class 1",), "head": "argmin"}, "of a softmax only"),
        ({"tile": 100}, "not a multiple of 32"),
        (
            {"classes": ({"code": 0, "name": "ground", "color": (0, 0, 0)},)},
            "map the 0 of masks by class_names",
        ),
    ],
)
def test_cards_that_make_no_sense(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        card(**fields)


def test_channels_in_another_order_and_scale() -> None:
    tiles = torch.from_numpy(some_tiles(1))
    values = Normalization(scale=1, channel_order="bgr", mean=(1, 2, 3), std=(4, 5, 6))
    expected = np.asarray(tiles)[..., ::-1].astype(np.float64)
    expected = ((expected - (1, 2, 3)) / (4, 5, 6)).transpose(0, 3, 1, 2)
    assert np.allclose(normalized(tiles, values).numpy(), expected, atol=1e-4)


class Valid(nn.Module):
    """Convolutions without padding, which see 16 pixels beyond what they predict, at half the resolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 18, stride=2), nn.Conv2d(8, 3, 9)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(functional.relu(self.first(inputs)))
        return out


@pytest.mark.parametrize("size", [(300, 200), (90, 200), (40, 30)])
def test_a_network_without_padding_leaves_no_seams(size: tuple[int, int]) -> None:
    """Tiles overlap by what it leaves out, also where the map is not cut; nothing but rounding is left."""
    made = card(tile=128, output=OutputGeometry(margin=16, stride=2), mpp=0.5)
    predictor = NetworkPredictor(Valid(), made, "cpu", "float32")
    assert predictor(some_tiles(1, 128), margin=16).shape == (1, 3, 96, 96)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    slide = ArraySlide(pixels, mpp=0.5)
    frame = map_frame(slide.info, 0.5)
    grid = choose_grid(made, overlap=64).fitted(frame.size)
    for blend in ("crop", "gaussian"):
        settings = BlockSettings(frame, StitchSettings(grid, blend, 1), made.codes, 0, batch=1)
        report = measure_seams(slide, predictor, settings, Box(0, 0, *size))
        assert report.equal_labels > 0.999 and report.largest_difference < 0.2, (blend, report)


def test_a_network_of_one_size_takes_no_other() -> None:
    made = card(input_multiple=64)
    assert choose_grid(made).fitted(ArraySlide(some_tiles(1)[0], mpp=0.5).info.size).input_size.width == 64
    with pytest.raises(UsageError, match="tiles of 64 px only"):
        choose_grid(made, tile=128)
