"""Masks as people have them: folders by pattern, codes of their own, colors, soft ones, other resolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tests.made.datasets import SCHEME as TWO
from tests.made.datasets import scene, tumor_mask
from wsi_seg.core.classes import BCSS, IGNORED_CODES
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Size
from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.mask_files import MaskReader
from wsi_seg.datasets.masks import MaskedImages
from wsi_seg.datasets.region import IGNORED, ArrayRegion, not_class
from wsi_seg.testing.datasets import CHECKS

SCHEME = LabelScheme(BCSS, 1.0, ignored_codes=IGNORED_CODES)
RED, GREEN, GRAY = (200, 0, 0), (150, 200, 150), (128, 128, 128)
PIXELS = np.full((4, 6, 3), 90, np.uint8)
CODES = np.repeat([[0, 0, 1, 1, 255, 255]], 4, axis=0).astype(np.uint8)
LAYOUT: dict[str, Any] = {"images": "images/{name}.png", "masks": "masks/{name}.png"}
PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[[0, 1, 255]] = GREEN, RED, GRAY


def write(folder: Path, name: str, pixels: np.ndarray | Image.Image) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)
    return path


def paletted() -> Image.Image:
    image = Image.fromarray(CODES)
    image.putpalette(PALETTE.ravel().tolist())
    return image


def load(folder: Path, **values: Any) -> tuple[ArrayRegion, ...]:
    values = {"mpp": 1.0, **LAYOUT} | values
    dataset = MaskedImages(name="made", folder=folder, **values)
    return dataset.parts(Path(), SCHEME).training  # type: ignore[return-value]


def one(folder: Path, mask: np.ndarray | Image.Image, **values: Any) -> list[int]:
    """Return the targets of the first row of an image with this mask."""
    write(folder, "images/a.png", PIXELS)
    write(folder, "masks/a.png", mask)
    (region,) = load(folder, **values)
    assert (region.target == region.target[0]).all()
    return region.target[0].tolist()


# --- codes and colors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"class_names": {0: "stroma", 1: "tumor", "255": "fat"}}, [1, 1, 0, 0, 8, 8]),
        ({"class_names": {0: "tumor", 1: "tumor"}, "ignored_classes": [255]}, [0, 0, 0, 0, IGNORED, IGNORED]),
        ({"ignored_classes": [255]}, [IGNORED, IGNORED, 0, 0, IGNORED, IGNORED]),  # codes of the model
    ],
)
@pytest.mark.parametrize("mask", [CODES, paletted()], ids=["gray", "palette"])
def test_codes_of_any_numbering(
    mask: Any, values: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    assert one(tmp_path, mask, **values) == expected


@pytest.mark.parametrize("mask", [PALETTE[CODES], paletted()], ids=["rgb", "palette"])
def test_colors(mask: Any, tmp_path: Path) -> None:
    names = {"#C80000": "tumor", "#96c896": "stroma"}
    assert one(tmp_path, mask, class_names=names, ignored_classes=["#808080"]) == [1, 1, 0, 0, -1, -1]
    with pytest.raises(DataError, match=r"masks/a\.png: mask color '#808080' is in neither class_names nor"):
        load(tmp_path, class_names=names)
    noise = np.random.default_rng(0).integers(0, 256, (*CODES.shape, 3), np.uint8)
    write(tmp_path, "masks/a.png", noise)
    with pytest.raises(DataError, match="mask color '#"):
        load(tmp_path, class_names=names)
    write(tmp_path, "masks/a.png", mask).rename(tmp_path / "a.png")
    Image.fromarray(PALETTE[CODES]).save(tmp_path / "masks/a.png", "JPEG")
    with pytest.raises(DataError, match=r"a\.png: JPEG changes colors; store the mask as PNG"):
        load(tmp_path, class_names=names)
    clear = np.dstack([PALETTE[CODES], np.full(CODES.shape, 9, np.uint8)])
    write(tmp_path, "masks/a.png", clear)
    with pytest.raises(DataError, match=r"a\.png: the mask is transparent in places; store it opaque"):
        load(tmp_path, class_names=names)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_names": {"red": "tumor"}}, r"made: 'red' in class_names or ignored_classes is not a"),
        ({"class_names": {"#c80000": "tumor", 1: "fat"}}, "made: '1' in .* is not a color"),
        ({"class_names": {300: "tumor"}}, "made: '300' in .* is not a code"),
        ({"class_names": {0: "tumr"}}, "made, by class_names: the model has no class 'tumr'; did"),
        ({"class_names": {0: "tumor", 1: "fat"}}, "mask code 255 is in neither class_names nor ignored_cl"),
        ({}, "mask code 255 is neither a class of the model nor an ignored code"),
    ],
)  # fmt: skip
def test_values_without_a_class(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        one(tmp_path, CODES, **values)


@pytest.mark.parametrize(
    ("mask", "values", "expected"),
    [
        (CODES > 0, {}, [not_class(0)] * 2 + [0] * 4),
        ((CODES > 0) * np.uint8(255), {}, [not_class(0)] * 2 + [0] * 4),
        (CODES, {"foreground": [255]}, [not_class(0)] * 4 + [0] * 2),
        (CODES, {"class_names": {0: "stroma", 1: "tumor"}, "ignored_classes": [255]}, [-2, -2, 0, 0, -1, -1]),
    ],
)
def test_one_known_class(
    mask: np.ndarray, values: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    write(tmp_path, "rgbs/a.png", PIXELS)
    write(tmp_path, "masks/a.png", mask)
    dataset = BcssRegions(name="made", folder=tmp_path, mpp=1, known_class="tumor", **values)
    assert dataset.parts(Path(), SCHEME).training[0].coarse_targets(1)[0].tolist() == expected


# --- soft masks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "first"), [(0.2, 60), (0.5, 130), (0.8, 210)])
@pytest.mark.parametrize("lossy", [False, True])
def test_soft_masks_by_threshold(threshold: float, first: int, lossy: bool, tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[None], 8, axis=0).repeat(8, axis=1)
    path = tmp_path / ("a.jpg" if lossy else "a.png")
    Image.fromarray(ramp).save(path, **({"quality": 95} if lossy else {}))
    marked = MaskReader("made", threshold=threshold).marked(path, "a", Size(200, 8))
    clear = abs(ramp.astype(int) - threshold * 255) > 8  # as far as JPEG moves them
    np.testing.assert_array_equal(marked[clear], (ramp >= first)[clear])
    with pytest.raises(
        DataError, match=r"foreground: .*, or above which share of white, such as threshold: 0\.5"
    ):
        MaskReader("made").marked(path, "a", Size(200, 8))


def test_noise_in_a_black_jpeg_is_not_marked(tmp_path: Path) -> None:
    noise = np.zeros((16, 16), np.uint8)
    noise[:8, :8] = 1
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=100)
    found = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert set(np.unique(found)) == {0, 1}
    assert not MaskReader("made", threshold=0.5).marked(tmp_path / "a.jpg", "a", Size(16, 16)).any()
    with pytest.raises(DataError, match="holds the values 0, 1, but"):
        MaskReader("made").marked(tmp_path / "a.jpg", "a", Size(16, 16))
    Image.fromarray(noise).save(tmp_path / "a.png")  # lossless 0 and 1 say no and yes, whatever the threshold
    marked = MaskReader("made", threshold=0.5).marked(tmp_path / "a.png", "a", Size(16, 16))
    np.testing.assert_array_equal(marked, noise > 0)


A = ["a"]
# Of image, mask and model.
RESOLUTIONS = [(0.5, 2.0, 0.5), (0.5, 1.0, 1.0), (0.5, 0.25, 0.5), (0.4, 1.2, 0.6)]

# --- resolution -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image_mpp", "mask_mpp", "mpp"), RESOLUTIONS)
def test_masks_at_another_resolution(image_mpp: float, mask_mpp: float, mpp: float, tmp_path: Path) -> None:
    """A square at 24 … 48 µm of 72 in x, 12 … 36 of 48 in y."""

    def drawn(step: float) -> np.ndarray:
        y, x = (np.mgrid[: round(48 / step), : round(72 / step)] + 0.5) * step
        return ((x > 24) & (x < 48) & (y > 12) & (y < 36)).astype(np.uint8)

    write(tmp_path, "images/a.png", np.dstack([drawn(image_mpp) * 255] * 3))
    mask = drawn(mask_mpp)
    scheme = LabelScheme(BCSS, mpp, ignored_codes=(0,))
    for values in (
        {"mask_class": "tumor", "background_class": "stroma"},
        {"class_names": {0: "stroma", 1: "tumor"}},
    ):
        write(tmp_path, "masks/a.png", mask)
        dataset = MaskedImages(
            name="made", folder=tmp_path, **LAYOUT, mpp=image_mpp, mask_mpp=mask_mpp, **values
        )
        (region,) = dataset.parts(Path(), scheme).training
        np.testing.assert_array_equal(region.coarse_targets(1) == 0, drawn(mpp) > 0)
        assert isinstance(region, ArrayRegion)
        np.testing.assert_array_equal(region.target == 0, region.image[..., 0] > 127)
    write(tmp_path, "masks/a.png", mask[:-3])
    with pytest.raises(DataError, match=r"a\.png: the mask has .* at the mask's resolution"):
        dataset.parts(Path(), scheme)


def test_a_mask_of_another_size_says_what_to_set(tmp_path: Path) -> None:
    write(tmp_path, "images/a.png", PIXELS)
    write(tmp_path, "masks/a.png", CODES[::2, ::2])
    with pytest.raises(
        DataError, match=r"3×2 pixels but its image .*a\.png 6×4 \(set mask_mpp: 0\.5 times as fine"
    ):
        load(tmp_path, mask_class="tumor")
    write(tmp_path, "masks/a.png", CODES[:, ::2])
    with pytest.raises(DataError, match=r"3×4 pixels but its image .*a\.png 6×4$"):
        load(tmp_path, mask_class="tumor")


# --- layouts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "masks", "files", "names"),
    [
        ("images/{name}.png", "masks/{name}.png", ["images/a.png", "masks/a.png"], ["a"]),
        ("images/{name}.jpg", "masks/{name}_*.png", ["images/a.jpg", "masks/a_1.png", "masks/a_2.png"], A),
        ("{name}_rgb.png", "{name}_label.png", ["a_rgb.png", "a_label.png"], ["a"]),
        (None, "masks/{name}_seg.png", ["fat/b.png", "masks/fat/b_seg.png"], ["fat/b"]),
        ("x/{name}/image.png", "x/{name}/mask.png", ["x/fat/b/image.png", "x/fat/b/mask.png"], ["fat/b"]),
    ],
)  # fmt: skip
def test_patterns(images: str | None, masks: str, files: list[str], names: list[str], tmp_path: Path) -> None:
    for file in files:
        is_mask = "mask" in file or "label" in file
        write(tmp_path, file, (CODES > 0) * np.uint8(255) if is_mask else PIXELS)
    regions = load(tmp_path, images=images, masks=masks, mask_class="tumor", background_class="stroma")
    assert [region.name for region in regions] == names
    for region in regions:
        np.testing.assert_array_equal(region.target == 0, CODES > 0)
    assert sorted(str(path.relative_to(tmp_path)) for region in regions for path in region.files) == sorted(
        files
    )
    if names[-1] == "fat/b":  # its folder is its class
        region = load(tmp_path, images=images, masks=masks, mask_class="folder")[-1]
        np.testing.assert_array_equal(region.target == 8, CODES > 0)


def test_what_does_not_pair(tmp_path: Path) -> None:
    image = write(tmp_path, "images/a.png", PIXELS)
    with pytest.raises(DataError, match=rf"{image}: has no mask; expected {tmp_path}/masks/a\.png"):
        load(tmp_path, mask_class="tumor")
    mask = write(tmp_path, "masks/b.png", CODES)
    with pytest.raises(DataError, match=rf"{mask}: a mask without image; expected {tmp_path}/images/b\.png"):
        load(tmp_path, mask_class="tumor")
    for number in (1, 2):
        write(tmp_path, f"masks/a_{number}.png", CODES)
    mask.unlink()
    with pytest.raises(
        DataError, match=r"masks/a_2\.png: .*a\.png has the mask .*a_1\.png too; give mask_class"
    ):
        load(tmp_path, masks="masks/{name}_*.png")
    with pytest.raises(DataError, match=f"{tmp_path}: no images; set data_dir and folder"):
        load(tmp_path, images="pictures/{name}.png")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"masks": "masks/*.png"}, "has not one {name}; as in 'masks/{name}.png'"),
        ({"masks": None}, "give the pattern of the masks too"),
        ({"mask_class": "tumor", "class_names": {1: "tumor"}}, "are for masks without a mask_class"),
        ({"background_class": "stroma"}, "background_class goes with mask_class; map the value"),
        ({"mpp": None, "resize": 64, "mask_mpp": 1}, "mask_mpp goes with mpp, not with resize"),
    ],
)
def test_unfit_settings(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        load(tmp_path, **values)


def test_settings_come_back_from_yaml(tmp_path: Path) -> None:
    dataset = MaskedImages(name="a", folder=tmp_path, mpp=1, class_names={0: "tumor"}, ignored_classes=[255])
    assert MaskedImages(**dataset.model_dump(mode="json")) == dataset
    assert dataset.class_names == {"0": "tumor"} and dataset.ignored_classes == ("255",)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_of_coarse_masks_in_colors(check: Any, tmp_path: Path) -> None:
    for number in range(3):
        image, box = scene(number)
        write(tmp_path, f"images/case-{number}.png", image)
        colors = np.where(tumor_mask(box)[1::2, 1::2, None] > 0, np.uint8(RED), np.uint8(GREEN))
        write(tmp_path, f"masks/case-{number}.png", colors)
    dataset = MaskedImages(
        name="made", folder=tmp_path, **LAYOUT, mpp=0.5, mask_mpp=1,
        class_names={"#c80000": "tumor", "#96c896": "stroma"},
    )  # fmt: skip
    check(lambda: dataset, LabelScheme(TWO.classes, 0.5))
