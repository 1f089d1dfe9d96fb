"""Grad-CAM: against a slow one, on networks whose answer is known, and as a command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn
from typer.testing import CliRunner

from wsi_seg.cli import app
from wsi_seg.core.card import CardClass, ModelCard, Normalization, read_card
from wsi_seg.core.classes import BCSS, BCSS_GROUPS, find_class_or_group
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Box
from wsi_seg.evaluation import explain as explain_module
from wsi_seg.evaluation.explain import ExplainSettings, explain_image
from wsi_seg.exporters import gradcam
from wsi_seg.exporters.figure import HEAD, MARGIN
from wsi_seg.inference.models.explain import find_layer, grad_cam
from wsi_seg.inference.models.network import build_network, forward, load_network, normalized
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import map_frame, read_region
from wsi_seg.testing.models import some_tiles

RGB_CARD = ModelCard(
    name="colors",
    classes=tuple(
        CardClass(code=c, name=n, color=(0, 0, 0)) for c, n in ((1, "red"), (2, "green"), (7, "blue"))
    ),
    groups=(),
    normalization=Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
)


class Colors(nn.Module):
    """The logit of each class is one color, as the encoder's two steps hand it on at half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Stages()
        self.head = nn.Conv2d(3, 3, 1, bias=False)
        self.head.weight.data = torch.eye(3)[..., None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.head(self.encoder(x)[-1]), scale_factor=2)


class _Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shrink = nn.AvgPool2d(2)
        self.stage = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(inplace=True))
        self.stage[0].weight.data = torch.eye(3)[..., None, None]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        small = self.shrink(x)
        return [x, small, self.stage(small)]


def squares() -> np.ndarray:
    """Black, with a red, a green and a blue square; none is where another is."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[8:24, 8:24, 0] = 255
    pixels[32:56, 16:40, 1] = 255
    pixels[40:48, 72:88, 2] = 255
    return pixels


@pytest.mark.parametrize(("code", "channel"), [(1, 0), (2, 1), (7, 2)])
def test_it_lights_up_where_the_class_comes_from_and_nowhere_else(code: int, channel: int) -> None:
    pixels = squares()
    found = grad_cam(Colors().eval(), RGB_CARD, pixels, (code,))
    assert found.layer == "encoder.stage"
    assert found.heat.shape == (64, 96) and found.heat.dtype == np.float32
    lit = pixels[..., channel] > 0
    core = ndimage.binary_erosion(lit, np.ones((5, 5)))  # half the size and back moves edges a little
    near = ndimage.binary_dilation(lit, np.ones((5, 5)))
    assert (found.heat[core] == found.heat.max()).all() and found.heat.max() > 0
    assert not found.heat[~near].any()
    assert (
        found.predicted == (lit | ((pixels.max(-1) == 0) & (channel == 0)))
    ).all()  # of equal ones, the first


def test_a_group_is_any_of_its_classes() -> None:
    pixels = squares()
    found = grad_cam(Colors().eval(), RGB_CARD, pixels, (2, 7))
    assert found.heat[44, 28] > 0 and found.heat[44, 80] > 0 and found.heat[16, 16] == 0
    assert (found.predicted == (pixels[..., 1:].max(-1) > 0)).all()


def slow_grad_cam(network: nn.Module, card: ModelCard, pixels: np.ndarray, channels: list[int],
                  layer: str, target: np.ndarray) -> np.ndarray:  # fmt: skip
    """The formula as in the paper: weights are the mean gradients, the map is the positive weighted sum."""
    kept: list[torch.Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda m, i, out: kept.append(out))
    logits = forward(network, normalized(torch.from_numpy(pixels[None]), card.normalization))[0][0]
    hook.remove()
    per_pixel = torch.log(sum(torch.exp(logits[c]) for c in channels))
    score = sum(per_pixel[y, x] for y, x in np.argwhere(target).tolist())
    (gradient,) = torch.autograd.grad(score, kept[0])
    maps, weights = kept[0][0].detach(), gradient[0].mean((1, 2))
    total = sum(w * m for w, m in zip(weights, maps, strict=True)).clip(min=0)
    return nn.functional.interpolate(total[None, None], pixels.shape[:2], mode="bilinear")[0, 0].numpy()


@pytest.mark.parametrize("layer", [None, "decoder.blocks.1", "encoder.layer1"])
@pytest.mark.parametrize("codes", [(1,), (2, 3, 4)])
def test_it_equals_the_formula(smooth_model: Path, layer: str | None, codes: tuple[int, ...]) -> None:
    network, card, pixels = load_network(smooth_model), read_card(smooth_model), some_tiles(1)[0]
    inside = (slice(8, 64), slice(0, 50))
    counted = np.zeros((64, 64), bool)
    counted[inside] = True
    found = grad_cam(network, card, pixels, codes, layer, inside)
    with torch.no_grad():
        labels = (
            network(normalized(torch.from_numpy(pixels[None]), card.normalization))[0].argmax(0).numpy() + 1
        )
    assert (found.predicted == np.isin(labels, codes)).all()
    target = found.predicted & counted
    assert 0 < target.sum() < counted.sum()
    exact = slow_grad_cam(network, card, pixels, [c - 1 for c in codes], found.layer, target)
    assert exact.max() > 0 and np.allclose(found.heat, exact, rtol=1e-3, atol=1e-5 * exact.max())


def test_where_the_class_is_not_predicted_all_pixels_are_the_target(smooth_model: Path) -> None:
    network, card, pixels = load_network(smooth_model), read_card(smooth_model), some_tiles(1)[0]
    with torch.no_grad():
        network.segmentation_head[0].bias[1] -= 50
    found = grad_cam(network, card, pixels, (2,), "decoder.blocks.1")
    assert not found.predicted.any()
    exact = slow_grad_cam(network, card, pixels, [1], found.layer, np.ones((64, 64), bool))
    assert exact.max() > 0 and np.allclose(found.heat, exact, rtol=1e-3, atol=1e-5 * exact.max())


@pytest.mark.parametrize(
    ("architecture", "encoder", "layer"),
    [
        ("Unet", "resnet18", "encoder.layer4"),
        ("Unet", "timm-tf_efficientnet_lite0", "encoder.blocks.6"),
        ("UnetPlusPlus", "resnet18", "encoder.layer4"),
        ("FPN", "mobilenet_v2", "encoder.features.18"),
        ("DeepLabV3Plus", "resnet18", "encoder.layer4"),
    ],
)
def test_the_default_layer_is_the_last_of_the_encoder(architecture: str, encoder: str, layer: str) -> None:
    card = ModelCard(name="m", architecture=architecture, encoder=encoder, image_labels=("a", "b"))
    found = grad_cam(build_network(card).eval(), card, some_tiles(1)[0], (1,))
    assert found.layer == layer and found.heat.shape == (64, 64)
    assert np.isfinite(found.heat).all() and (found.heat >= 0).all()


def test_layers_that_cannot_be_explained_are_named_with_near_ones() -> None:
    network, inputs = Colors().eval(), torch.zeros(1, 3, 64, 64)
    assert find_layer(network, inputs, "head") == "head"
    with pytest.raises(
        UsageError, match=r"'encoder.stag' is not in this network; did you mean encoder\.stage"
    ):
        find_layer(network, inputs, "encoder.stag")
    with pytest.raises(UsageError, match=r"'encoder' gives no feature map; did you mean encoder\."):
        find_layer(network, inputs, "encoder")
    bare = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1))
    with pytest.raises(UsageError, match="--layer, such as 0, 1"):
        find_layer(bare, inputs)


def test_a_class_goes_before_a_group_of_its_name() -> None:
    assert find_class_or_group("Tumour", BCSS, BCSS_GROUPS).codes == (1,)
    assert find_class_or_group("inflammatory", BCSS, BCSS_GROUPS).codes == (3, 10, 11)
    with pytest.raises(UsageError, match="unknown class or group 'strma'; did you mean stroma"):
        find_class_or_group("strma", BCSS, BCSS_GROUPS)


# --- the picture --------------------------------------------------------------------------------------------


def test_picture_shows_outline_and_heat_in_place(tmp_path: Path) -> None:
    pixels = np.full((90, 90, 3), 200, np.uint8)
    heat, predicted = np.zeros((90, 90), np.float32), np.zeros((90, 90), bool)
    heat[60:80, 10:30] = 5.0
    predicted[20:40, 50:70] = True
    sheet = gradcam.GradCamSheet("slide", "facts", "tumor", (200, 0, 0), 0.05, False, "for tests only", 0.5)
    gradcam.write_gradcam(tmp_path / "g.png", pixels, heat, predicted, sheet)
    page = np.asarray(Image.open(tmp_path / "g.png")).astype(int)
    top, side = MARGIN + HEAD + gradcam.CAPTION, 900  # ten times larger
    left, right = (page[top : top + side, x : x + side] for x in (MARGIN, MARGIN + side + MARGIN))
    assert left[300, 500, 0] - left[300, 500, 1] > 90 and (left[300, 600] == 200).all()
    assert right[700, 200, 0] - right[700, 200, 1] > 60 and np.ptp(right[300, 600]) == 0
    assert np.ptp(right[690:710, 190:210], axis=(0, 1)).max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 1536), (1536, 3), (1200, 900)])
def test_pictures_of_any_shape_and_without_heat(tmp_path: Path, shape: tuple[int, int]) -> None:
    sheet = gradcam.GradCamSheet("slide " * 30, "facts", "tumor", (200, 0, 0), 0, True, "", 0.5)
    zero = np.zeros(shape, np.float32)
    gradcam.write_gradcam(tmp_path / "g.png", np.zeros((*shape, 3), np.uint8), zero, zero > 0, sheet)
    page = Image.open(tmp_path / "g.png")
    assert 900 < page.width < 2100 and 300 < page.height < 1400


# --- the command --------------------------------------------------------------------------------------------


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["explain", *(str(a) for a in arguments)])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a picture.png"
    Image.fromarray(some_tiles(1, 100)[0][:70]).save(path)
    return path


def test_the_picture_lies_in_the_working_folder_and_nothing_next_to_the_image(
    smooth_model: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    image = image.rename(archive / image.name)
    monkeypatch.chdir(tmp_path)
    result = call(smooth_model, image, "--class", "stroma", "--mpp", 0.5)
    assert result.exit_code == 0, result.output
    path = tmp_path / "a picture_gradcam_stroma.png"
    assert str(path) in result.stdout and "of 7,000 pixels predicted as stroma" in result.stdout
    assert Image.open(path).width > 1000
    before = path.read_bytes()
    again = call(smooth_model, image, "--class", "stroma", "--mpp", 0.5)  # perhaps another image of this name
    assert again.exit_code == 2 and "is there already" in again.stderr
    assert path.read_bytes() == before
    common = (smooth_model, image, "--class", "other", "--mpp", 0.5, "--layer", "decoder")
    other = tmp_path / "other.png"
    assert call(*common, "-o", other).exit_code == 0
    assert other.exists() and list(archive.iterdir()) == [image]


def test_a_box_is_read_as_a_run_reads_it(
    smooth_model: Path, made_svs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def keep(path: Path, pixels: Any, heat: Any, predicted: Any, sheet: Any) -> None:
        seen.update(pixels=pixels, heat=heat, predicted=predicted, sheet=sheet)

    monkeypatch.setattr(explain_module, "write_gradcam", keep)
    settings = ExplainSettings("tumor", Box.at(1001, 794, 301, 202))
    done = explain_image(made_svs, str(smooth_model), settings, tmp_path / "x.png")
    with open_slide(made_svs) as slide:
        frame = map_frame(slide.info, 0.5)  # two l0 pixels to one
        expected = read_region(slide, frame, Box(500, 397, 651, 498))
    assert np.array_equal(seen["pixels"], expected)
    assert seen["heat"].shape == seen["predicted"].shape == expected.shape[:2]
    assert (done.pixels, done.predicted) == (151 * 101, seen["predicted"].sum())
    assert done.silent == (not seen["heat"].any()) and done.path == tmp_path / "x.png"
    whole = explain_image(made_svs, str(smooth_model), ExplainSettings("tumor", Box.at(960, 768, 384, 256)))
    offset = (slice(397 - 384, 498 - 384), slice(500 - 480, 651 - 480))
    assert whole.pixels == 192 * 128  # the same pixels, as boxes are widened to multiples of 32
    assert np.array_equal(seen["predicted"][offset].sum(), done.predicted)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--class", "strema"], 2, ["strema", "stroma"]),
        (["--class", "tumor", "--layer", "encoder.layer9"], 2, ["encoder.layer9", "encoder.layer"]),
        (["--class", "tumor", "--box", "50,0,51,70"], 2, ["picture.png", "100 × 70"]),
        (["--class", "tumor", "--box", "0,0,10"], 2, ["'0,0,10'", "x,y,width,height"]),
        (["--class", "tumor", "--box", "0,0,0,10"], 2, ["x,y,width,height"]),
        (["--class", "tumor", "--device", "tpu"], 2, ["tpu"]),
        (["--class", "tumor", "-o", "x.jpg"], 2, ["x.jpg", ".png"]),
        (["--class", "tumor", "-o", "absent/x.png"], 1, ["absent/x.png", "cannot be written"]),
        (["--class", "tumor", "--mpp", "5"], 1, ["10.00× coarser", "--allow-upsampling"]),
    ],
)
def test_bad_input(
    smooth_model: Path,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(image.parent)
    result = call(smooth_model, image, *(() if "--mpp" in options else ("--mpp", 0.5)), *options)
    refused(result, code, *words)
    assert [path.name for path in image.parent.iterdir()] == [image.name]


def refused(result: Any, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), result.stderr


def test_an_image_that_does_not_say_its_resolution(smooth_model: Path, image: Path) -> None:
    refused(call(smooth_model, image, "--class", "tumor"), 1, "picture.png", "--mpp")


def test_what_is_too_large_is_to_be_cut(smooth_model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1930, 1910)).save(tmp_path / "large.png")
    large = call(smooth_model, tmp_path / "large.png", "--mpp", 0.5, "--class", "tumor")
    refused(large, 2, "1930 × 1910", "--box", "up to 1500")


def test_without_captum_the_extra_is_named(
    smooth_model: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    refused(call(smooth_model, image, "--class", "tumor", "--mpp", 0.5), 1, "pip install 'wsi-seg[explain]'")
