"""Masks of codes: read, resampled and turned into targets; what is wrong in them is said in one line."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from wsi_seg.core.classes import BCSS, IGNORED_CODES
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Scale, Size
from wsi_seg.datasets.base import Dataset, read_image
from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.datasets.labels import LabelScheme, resample_codes
from wsi_seg.datasets.mask_files import MaskReader
from wsi_seg.datasets.patients import patient_by_name
from wsi_seg.datasets.region import IGNORED, ArrayRegion, not_class
from wsi_seg.slides.slide import SLIVER, MapFrame

SCHEME = LabelScheme(classes=BCSS, mpp=0.5, ignored_codes=IGNORED_CODES, image_labels=("benign", "malignant"))
CODES = np.array([[0, 1, 2, 3], [7, 15, 20, 21]], np.uint8)
RGB = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def write_pair(folder: Path, image: np.ndarray, codes: np.ndarray, name: str = "one") -> Path:
    for part, pixels in (("rgbs", image), ("masks", codes)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / part / f"{name}.png")
    return folder / "masks" / f"{name}.png"


def load(folder: Path, scheme: LabelScheme = SCHEME, **values) -> tuple[ArrayRegion, ...]:
    dataset: Dataset = BcssRegions(name="made", folder=folder, **{"mpp": 0.5, **values})
    return dataset.parts(Path(), scheme).training  # type: ignore[return-value]


# --- codes to targets ---------------------------------------------------------------------------------


def test_codes_become_channels_and_ignored_ones_have_no_weight(tmp_path: Path) -> None:
    mask = write_pair(tmp_path, RGB, CODES)
    (region,) = load(tmp_path)
    assert region.target.dtype == np.int16
    assert region.target.tolist() == [[IGNORED, 0, 1, 2], [IGNORED, IGNORED, 19, 20]]
    assert np.array_equal(region.image, RGB) and region.name == region.group == "one"
    assert region.files == (tmp_path / "rgbs" / "one.png", mask)


def test_channels_are_those_of_the_model(tmp_path: Path) -> None:
    write_pair(tmp_path, RGB, np.array([[0, 2, 2, 20], [1, 1, 20, 0]], np.uint8))
    (region,) = load(tmp_path, LabelScheme((BCSS[19], BCSS[1], BCSS[0]), 0.5))
    assert region.target.tolist() == [[IGNORED, 1, 1, 0], [2, 2, 0, IGNORED]]


def test_a_mask_of_one_known_class(tmp_path: Path) -> None:
    write_pair(tmp_path, RGB, CODES % 2)
    (region,) = load(tmp_path, known_class="Stroma")
    assert region.target.tolist() == np.where(CODES % 2, 1, not_class(1)).tolist()


def test_targets_of_not_a_class_are_apart_from_all_others() -> None:
    targets = [IGNORED, *range(255), *map(not_class, range(255))]
    assert len(set(targets)) == len(targets)


def test_resolution_is_the_models(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    write_pair(tmp_path, image, np.ones((8, 12), np.uint8))
    (region,) = load(tmp_path, mpp=0.25)
    mean = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(region.image - mean).max() <= 0.5
    assert region.target.shape == (4, 6) and region.mpp == 0.5


def test_colors_palettes_and_alpha_of_images(tmp_path: Path) -> None:
    gray = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    pixels, _, size = read_image(tmp_path / "gray.png", 0.5, SCHEME)
    assert size == Size(6, 4) and np.array_equal(pixels, np.dstack([gray] * 3))
    clear = np.zeros((4, 6, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png", 0.5, SCHEME)[0] == 255).all()


def test_a_stretched_image_fills_its_square(tmp_path: Path) -> None:
    image = np.zeros((40, 90, 3), np.uint8)
    image[:, 45:] = 200
    Image.fromarray(image).save(tmp_path / "a.png")
    pixels, frame, _ = read_image(tmp_path / "a.png", None, SCHEME, side=30)
    assert pixels.shape == (30, 30, 3) and frame.size == Size(30, 30)
    assert (pixels[:, :14] == 0).all() and (pixels[:, 16:] == 200).all()  # no white from beyond the edges
    larger = read_image(tmp_path / "a.png", None, SCHEME, side=128)[0]
    assert larger.shape == (128, 128, 3) and (larger[:, :62] == 0).all() and (larger[:, 66:] == 200).all()


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TCGA-A2-A0D2-DX1_xmin96887_ymin22299_MPP-0.2500", "TCGA-A2-A0D2"),
        ("TCGA-A1-A0SK-DX1_xmin45749_y0_x1120_224", "TCGA-A1-A0SK"),
        ("normalized_TCGA-A1-A0SK-DX1", "TCGA-A1-A0SK"),
        ("TCGA-A1", None),
        ("slide-1-of-3_a", None),
    ],
)
def test_patient(name: str, expected: str | None) -> None:
    assert patient_by_name(Path(f"{name}.png")) == expected


def test_class_names() -> None:
    assert SCHEME.channel("Tumour", "x") == 0 and SCHEME.channel("blood vessel", "x") == 17
    assert SCHEME.image_label("Malignant", "x") == 1
    with pytest.raises(DataError, match=r"^busi: the model has no class 'tumr'; did you mean 'tumor'\?$"):
        SCHEME.channel("tumr", "busi")
    with pytest.raises(DataError, match=r"no image label 'malign'; did you mean 'malignant'\?"):
        SCHEME.image_label("malign", "busi")
    with pytest.raises(DataError, match=r"^x: the model has no image label 'benign'$"):
        LabelScheme(BCSS, 0.5).image_label("benign", "x")


# --- resampling ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 4))
def test_whole_factors_take_the_majority(data: st.DataObject, fx: int, fy: int) -> None:
    shape = (data.draw(st.integers(fy, 9)), data.draw(st.integers(fx, 9)))
    codes = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 200])))
    size = Size(math.ceil(shape[1] / fx - SLIVER), math.ceil(shape[0] / fy - SLIVER))
    out = resample_codes(codes, MapFrame(0.5, size, Scale(fx, fy)))
    assert out.dtype == np.uint8 and out.shape == (size.height, size.width)
    for (y, x), code in np.ndenumerate(out):
        cell = codes[y * fy : (y + 1) * fy, x * fx : (x + 1) * fx]
        votes = np.bincount(cell.ravel(), minlength=256)
        if cell.shape == (fy, fx):
            assert votes[code] == votes.max()
            center = cell[fy // 2, fx // 2]
            assert votes[center] < votes.max() or code == center
        else:
            assert votes[code] > 0  # a cell that reaches beyond the mask holds a code of what there is


@settings(deadline=None)
@given(st.data(), st.floats(0.2, 4.9), st.floats(0.2, 4.9))
def test_other_factors_take_the_pixel_at_the_center(data: st.DataObject, fx: float, fy: float) -> None:
    if abs(fx - round(fx)) < 1e-3 and abs(fy - round(fy)) < 1e-3:
        return
    shape = (data.draw(st.integers(5, 12)), data.draw(st.integers(5, 12)))
    codes = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    size = Size(math.ceil(shape[1] / fx - SLIVER), math.ceil(shape[0] / fy - SLIVER))
    out = resample_codes(codes, MapFrame(0.5, size, Scale(fx, fy)))
    for (y, x), code in np.ndenumerate(out):
        row, column = min(int((y + 0.5) * fy), shape[0] - 1), min(int((x + 0.5) * fx), shape[1] - 1)
        assert code == codes[row, column]


def test_ties_favor_no_code() -> None:
    pattern = np.array([[1, 2], [2, 1]], np.uint8)
    frame = MapFrame(0.5, Size(2, 1), Scale(2, 2))
    assert resample_codes(np.hstack([pattern, 3 - pattern]), frame).tolist() == [[1, 2]]


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.floats(0.1, 5))
def test_image_and_labels_keep_the_same_size(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, factor: float
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    image = np.full((height, width, 3), 9, np.uint8)
    write_pair(folder, image, np.ones((height, width), np.uint8))
    (region,) = load(folder, mpp=0.5 / factor)
    assert region.image.shape[:2] == region.target.shape


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.ones((2, 5), np.uint8), "the mask has 5×2 pixels but its image"),
        (RGB, "the mask is colored; store it as gray levels"),
        (np.full((2, 4), 22, np.uint8), "mask code 22 is neither a class of the model nor an ignored code"),
    ],
)
def test_unfit_masks(codes: np.ndarray, message: str, tmp_path: Path) -> None:
    mask = write_pair(tmp_path, RGB, codes)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(mask) in str(caught.value) and "\n" not in str(caught.value)


def test_a_code_between_those_of_a_known_class(tmp_path: Path) -> None:
    write_pair(tmp_path, RGB, CODES)
    with pytest.raises(
        DataError,
        match=r"one\.png: the mask holds the values .* but black and white are 0 and 255, or 0 and 1",
    ):
        load(tmp_path, known_class="tumor")
    with pytest.raises(DataError, match="made: the model has no class 'tumoral'; did you mean"):
        load(tmp_path, known_class="tumoral")


def test_an_image_without_mask(tmp_path: Path) -> None:
    mask = write_pair(tmp_path, RGB, CODES)
    mask.unlink()
    with pytest.raises(DataError, match="has no mask; expected") as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "rgbs" / "one.png")) and str(mask) in str(caught.value)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images at rgbs\*/\*; set data_dir and folder"):
        load(tmp_path)


def test_an_image_smaller_than_a_pixel_of_the_model(tmp_path: Path) -> None:
    write_pair(tmp_path, RGB, CODES)
    with pytest.raises(DataError, match=r"one\.png: smaller than one pixel of 2 µm; is mpp 0\.5 right\?"):
        load(tmp_path, LabelScheme(BCSS, 2.0))


@pytest.mark.parametrize("part", ["rgbs", "masks"])
@pytest.mark.parametrize("keep", [0, 5, 40, 0.5, 0.9])
def test_damaged_files(part: str, keep: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 7, (64, 64, 3), np.uint8)
    write_pair(tmp_path, noise, noise[..., 0])
    path = tmp_path / part / "one.png"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_any_truncated_or_garbled_mask_is_a_data_error(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a_mask.{ending}"
    Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(path)
    data = path.read_bytes()
    random = np.random.default_rng(3)
    for _ in range(150):
        garbled = bytearray(data)
        for at in random.integers(0, len(data), 3):
            garbled[at] = int(random.integers(0, 256))
        path.write_bytes(garbled[: int(random.integers(0, 2 * len(data)))])
        for read in (MaskReader("made").codes, MaskReader("made").marked):
            try:
                read(path, "a.png", Size(20, 20))
            except DataError as error:
                assert str(path) in str(error) and "\n" not in str(error)


def test_a_mask_of_absurd_size(tmp_path: Path) -> None:
    path = tmp_path / "a_mask.png"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a_mask\.png: the mask cannot be read"):
        MaskReader("made").marked(path, "a.png", Size(2, 2))
