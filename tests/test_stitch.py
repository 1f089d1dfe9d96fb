from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.made.memory_slides import ArraySlide, area_mean
from tests.made.predictors import Darkness, Identity, Position
from wsi_seg.core.errors import ModelError, UsageError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.inference.blocks import BlockSettings, segment_block, without_margin
from wsi_seg.inference.stitch import STRIP_ROWS, blend_window, most_probable, normalized_entropy
from wsi_seg.planning.grid import Block, Grid, cut_blocks
from wsi_seg.planning.map_layout import ProbabilityDtype
from wsi_seg.planning.stitch_settings import Blend, StitchSettings
from wsi_seg.slides.slide import map_frame, pick_level, read_region
from wsi_seg.tissue.mask import TissueMask, find_tissue

CODES = (5, 9, 200)


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def stitched(
    slide: ArraySlide,
    predictor: Any,
    stitch: StitchSettings,
    side: int,
    codes: tuple[int, ...],
    mpp: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Segment all blocks of a slide and put their arrays together."""
    frame = map_frame(slide.info, mpp)
    tissue = find_tissue(slide, "none")
    d = stitch.probability_downsample
    plan = BlockSettings(frame, stitch, codes, pick_level(slide.info, frame), batch=2)
    labels = np.zeros((frame.size.height, frame.size.width), np.uint8)
    stored = (len(codes) if stitch.stored is None else len(stitch.stored)) + stitch.uncertainty
    shape = (stored, -(-frame.size.height // d), -(-frame.size.width // d))
    probabilities = np.zeros(shape, stitch.probability_dtype)
    for block in cut_blocks(frame.size, side):
        part = tissue.crop(frame.to_l0(block.box))
        maps = segment_block(slide, block, part, predictor, plan)
        b = block.box
        labels[b.y0 : b.y1, b.x0 : b.x1] = maps.labels
        probabilities[:, b.y0 // d : -(-b.y1 // d), b.x0 // d : -(-b.x1 // d)] = maps.probabilities
    return labels, probabilities


class Narrow(Identity):
    """A network that takes inputs of the grid only, and does not predict its margin."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def __call__(self, tiles: np.ndarray, /, margin: int = 0) -> np.ndarray:
        size = self._grid.input_size
        assert tiles.shape[1:3] == (size.height, size.width) and margin >= self._grid.margin
        assert size.height % self._grid.multiple == 0 and size.width % self._grid.multiple == 0
        return super().__call__(tiles, margin)


sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))
grids = st.sampled_from(
    [
        *(Grid(*grid) for grid in [(64, 0), (64, 32), (96, 32), (128, 64)]),
        Grid(64, 32, margin=16),  # networks that predict less than they see: all that is left,
        Grid(96, 64, margin=24),  # more than that, so that predictions overlap,
        Grid(128, 96, margin=40, multiple=128),  # and less than half, for inputs of one size only
        Grid(80, 40, margin=10, multiple=20),
    ]
)
blends = st.sampled_from(["crop", "gaussian", "mean"])


@settings(max_examples=40, deadline=None)
@given(sizes, grids, blends, st.sampled_from([64, 128, 256]), st.sampled_from([1, 2, 3, 4]), st.booleans())
def test_identity_comes_back(
    size: tuple[int, int], grid: Grid, blend: Any, side: int, downsample: int, fitted: bool
) -> None:
    pixels = texture(*size)
    slide = ArraySlide(pixels, mpp=0.5)
    grid = grid.fitted(slide.info.size, downsample) if fitted else grid
    assume(grid.stride % downsample == 0 and side % downsample == 0)
    stitch = StitchSettings(grid, blend, downsample, "float32")
    labels, probabilities = stitched(slide, Narrow(grid), stitch, side, CODES)
    for channel in range(3):
        plane = pixels[..., channel].astype(np.float64) / 255
        for y, x in ((0, 0), (-1, -1), (probabilities.shape[1] // 2, probabilities.shape[2] // 2)):
            y, x = y % probabilities.shape[1], x % probabilities.shape[2]
            cell = plane[y * downsample : (y + 1) * downsample, x * downsample : (x + 1) * downsample]
            assert probabilities[channel, y, x] == pytest.approx(cell.mean(), abs=1e-5)
    if blend == "crop":
        expected = np.array(CODES, np.uint8)[pixels.argmax(axis=-1)]
        assert np.array_equal(labels, expected)


@settings(max_examples=25, deadline=None)
@given(sizes, grids, blends, st.integers(0, 10))
def test_bytes_do_not_depend_on_the_block(size: tuple[int, int], grid: Grid, blend: Any, seed: int) -> None:
    slide = ArraySlide(texture(*size, seed), mpp=0.31)
    stitch = StitchSettings(grid, blend, 4, "float32", uncertainty=True)
    results = [stitched(slide, Position(), stitch, side, CODES[:2]) for side in (64, 96, 512)]
    for labels, probabilities in results[1:]:
        assert np.array_equal(labels, results[0][0])
        assert np.array_equal(probabilities, results[0][1])


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 0.6), st.integers(0, 5))
def test_identity_at_any_resolution_equals_one_read(mpp: float, seed: int) -> None:
    slide = ArraySlide(texture(257, 190, seed), mpp=mpp)
    frame = map_frame(slide.info, 0.5)
    whole = read_region(slide, frame, frame.box)
    _, probabilities = stitched(slide, Identity(), StitchSettings(Grid(64, 32), "crop", 1), 64, CODES)
    # A last row or column whose center lies beyond the slide is not analyzed.
    height = round(frame.size.height - 0.5 < 190 / frame.l0_per_map.y) + frame.size.height - 1
    width = round(frame.size.width - 0.5 < 257 / frame.l0_per_map.x) + frame.size.width - 1
    assert np.array_equal(probabilities[:, :height, :width], whole.transpose(2, 0, 1)[:, :height, :width])


def test_crop_takes_every_pixel_from_its_own_tile() -> None:
    grid = Grid(64, 32)
    slide = ArraySlide(texture(200, 130), mpp=0.5)
    _, probabilities = stitched(slide, Position(), StitchSettings(grid, "crop", 1, "float32"), 128, (1, 2))
    tile = Position()(np.zeros((1, 64, 64, 3), np.uint8))[0, 0]
    for y, x in ((0, 0), (31, 32), (64, 95), (129, 199)):
        expected = tile[y % grid.stride + grid.halo, x % grid.stride + grid.halo]
        assert probabilities[0, y, x] == expected


@pytest.mark.parametrize("blend", ["gaussian", "mean"])
def test_blending_is_the_weighted_mean_of_all_tiles(blend: Any) -> None:
    stitch = StitchSettings(Grid(64, 32), blend, 1, "float32")
    slide = ArraySlide(texture(150, 100), mpp=0.5)
    _, probabilities = stitched(slide, Position(), stitch, 64, (1, 2))
    tile = Position()(np.zeros((1, 64, 64, 3), np.uint8))[0, 0]
    window = blend_window(stitch)
    total = np.zeros((100, 150))
    weight = np.zeros((100, 150))
    for one in stitch.grid.tiles_predicting(Box(0, 0, 150, 100)):
        part = one.input.intersect(Box(0, 0, 150, 100))
        inner, outer = part.within(one.input), part.within(Box(0, 0, 150, 100))
        total[outer] += (tile * window)[inner]
        weight[outer] += window[inner]
    assert np.allclose(probabilities[0], total / weight, atol=1e-6)


@pytest.mark.parametrize("blend", ["crop", "gaussian", "mean"])
def test_blank_ground_is_not_predicted_and_not_counted(blend: Any) -> None:
    pixels = np.full((256, 256, 3), 255, np.uint8)
    pixels[:, :100] = 90
    slide = ArraySlide(pixels, mpp=0.5)
    frame = map_frame(slide.info, 0.5)
    mask = np.zeros((32, 32), bool)
    mask[:, :12] = True  # cells of 8 pixels: columns 0 … 95
    tissue = TissueMask(mask, Scale(8, 8), "test")
    seen: list[int] = []

    def predictor(tiles: np.ndarray, /, margin: int = 0) -> np.ndarray:
        seen.append(len(tiles))
        return Darkness()(tiles)

    plan = BlockSettings(frame, StitchSettings(Grid(64, 0), blend, 4), (1, 2), 0, batch=1)
    maps = segment_block(slide, Block(0, 0, Box(0, 0, 256, 256)), tissue, predictor, plan)
    assert sum(seen) == maps.tiles == 8  # two of four columns of tiles
    assert (maps.labels[:, :96] == 1).all()
    assert not maps.labels[:, 96:].any()
    assert not maps.probabilities[:, :, 24:].any()
    assert np.array_equal(maps.tissue, np.arange(256)[None] < np.full((256, 1), 96))


def test_a_cell_partly_outside_tissue_is_the_mean_of_its_tissue() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 2:] = 255
    slide = ArraySlide(pixels, mpp=0.5)
    mask = np.zeros((64, 64), bool)
    mask[:, :2] = True
    plan = BlockSettings(map_frame(slide.info, 0.5), StitchSettings(Grid(64, 0), "crop", 4), (1, 2), 0, 1)
    tissue = TissueMask(mask, Scale(1, 1), "test")
    maps = segment_block(slide, Block(0, 0, Box(0, 0, 64, 64)), tissue, Darkness(), plan)
    assert (maps.probabilities[0, :, 0] == 255).all()
    assert not maps.probabilities[:, :, 1:].any()


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """The oracle: float64, over the first axis, terms of probability 0 left out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probabilities > 0, probabilities * np.log(probabilities), 0.0)
    return -terms.sum(axis=0) / np.log(len(probabilities))


class Mixture:
    """Three classes whose probabilities are the shares of red, green and blue; 0 and 1 where one is pure."""

    def __call__(self, tiles: np.ndarray, /, margin: int = 0) -> np.ndarray:
        total = np.maximum(tiles.sum(axis=-1, keepdims=True, dtype=np.float32), 1)
        return without_margin((tiles / total).astype(np.float32).transpose(0, 3, 1, 2), margin)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("blend", ["crop", "gaussian", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_uncertainty_is_the_normalized_entropy(library: str, blend: Any, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    pixels = texture(150, 90)
    pixels[:8, :8] = (255, 0, 0)  # sure
    pixels[:8, 8:16] = 77  # as unsure as can be
    slide = ArraySlide(pixels, mpp=0.5)

    def predict(tiles: np.ndarray, /, margin: int = 0) -> Any:
        mixture = Mixture()(tiles, margin)
        return torch.from_numpy(mixture) if library == "torch" else mixture

    stitch = StitchSettings(Grid(64, 32), blend, 2, dtype, uncertainty=True)
    labels, channels = stitched(slide, predict, stitch, 64, CODES)
    full = 255 if dtype == "uint8" else 1
    exact = entropy(Mixture()(pixels[None])[0].astype(np.float64)).reshape(45, 2, 75, 2).mean((1, 3))
    assert channels.shape == (4, 45, 75)
    assert np.abs(channels[3] / full - exact).max() <= (0.5 / 255 + 1e-5 if dtype == "uint8" else 1e-5)
    assert (channels[3, :4, :4] == 0).all() and (channels[3, :4, 4:8] >= full * (1 - 1e-6)).all()
    plain = stitched(slide, predict, StitchSettings(Grid(64, 32), blend, 2, dtype), 64, CODES)
    assert np.array_equal(labels, plain[0]) and np.array_equal(channels[:3], plain[1])


def test_uncertainty_of_the_blend_is_that_of_the_blended_probabilities() -> None:
    stitch = StitchSettings(Grid(64, 32), "gaussian", 1, "float32", uncertainty=True)
    _, channels = stitched(ArraySlide(texture(150, 100), mpp=0.5), Position(), stitch, 64, (1, 2))
    assert np.allclose(channels[2], entropy(channels[:2].astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize(("assessed", "expected"), [(2, 1.0), (None, np.log(2) / np.log(3))])
def test_uncertainty_is_1_where_all_assessed_classes_are_as_probable(
    assessed: int | None, expected: float
) -> None:
    slide = ArraySlide(np.full((64, 64, 3), (90, 90, 0), np.uint8), mpp=0.5)  # the third class has nothing
    stitch = StitchSettings(Grid(64, 0), "crop", 4, "float32", True, assessed)
    _, channels = stitched(slide, Mixture(), stitch, 64, CODES)
    assert channels[3] == pytest.approx(np.full((16, 16), expected))


def test_uncertainty_counts_only_analyzed_pixels() -> None:
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[:, 2:] = (0, 0, 255)
    mask = np.zeros((64, 64), bool)
    mask[:, :2] = True
    slide = ArraySlide(pixels, mpp=0.5)
    stitch = StitchSettings(Grid(64, 0), "crop", 4, uncertainty=True)
    plan = BlockSettings(map_frame(slide.info, 0.5), stitch, CODES, 0, 1)
    tissue = TissueMask(mask, Scale(1, 1), "test")
    maps = segment_block(slide, Block(0, 0, Box(0, 0, 64, 64)), tissue, Mixture(), plan)
    assert (maps.probabilities[3, :, 0] == 255).all()  # not half of it, though half of the cell is sure
    assert not maps.probabilities[:, :, 1:].any()


@pytest.mark.parametrize("values", [[1.0], [0.0, 1.0], [1.0000001, 0.0], [0.37, 0.37, 0.37]])
def test_entropy_stays_between_0_and_1(values: list[float]) -> None:
    found = normalized_entropy(np.array(values, np.float32)[:, None, None])
    assert found.shape == (1, 1) and found.dtype == np.float32
    assert found.item() == pytest.approx(
        min(entropy(np.array(values)), 1) if len(values) > 1 else 0, abs=1e-6
    )
    assert 0 <= found.item() <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 255), st.integers(1, 3 * STRIP_ROWS), st.integers(1, 70), st.integers(1, 4))
def test_the_most_probable_channel_is_the_first_of_the_largest(
    channels: int, height: int, width: int, values: int
) -> None:
    rng = np.random.default_rng([channels, height, width, values])
    probabilities = rng.integers(0, values, (channels, height, width)).astype(np.float32)  # many are equal
    expected = np.argmax(probabilities, axis=0)
    for order in (probabilities, np.asfortranarray(probabilities)):
        found = most_probable(order)
        assert found.dtype == np.uint8 and np.array_equal(found, expected)


def test_torch_and_numpy_give_the_same_bytes() -> None:
    torch = pytest.importorskip("torch")
    slide = ArraySlide(texture(300, 200), mpp=0.5)
    for blend in ("crop", "gaussian"):
        stitch = StitchSettings(Grid(64, 32), blend, 4)
        here = stitched(slide, Position(), stitch, 128, (1, 2))
        there = stitched(
            slide, lambda t, margin: torch.from_numpy(Position()(t, margin)), stitch, 128, (1, 2)
        )
        assert np.array_equal(here[0], there[0])
        assert np.array_equal(here[1], there[1])


def test_uint8_probabilities_are_rounded_area_means() -> None:
    pixels = texture(64, 64)
    slide = ArraySlide(pixels, mpp=0.5)
    _, probabilities = stitched(slide, Identity(), StitchSettings(Grid(64, 0), "crop", 4), 64, CODES)
    exact = area_mean(pixels, 4).astype(int).transpose(2, 0, 1)
    assert np.abs(probabilities.astype(int) - exact).max() <= 1


def test_a_predictor_with_other_channels_is_named() -> None:
    slide = ArraySlide(texture(64, 64), mpp=0.5)
    with pytest.raises(ModelError, match=r"\(2, 2, 64, 64\), expected \(2, 3, 64, 64\)"):
        stitched(slide, Darkness(), StitchSettings(Grid(64, 0)), 64, CODES)


@pytest.mark.parametrize(
    ("tile", "overlap", "word"), [(100, 0, "multiple of 32"), (64, 33, "even"), (64, 48, "half")]
)
def test_grids_that_make_no_sense(tile: int, overlap: int, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Grid(tile, overlap)


@pytest.mark.parametrize(("overlap", "margin"), [(0, 16), (30, 16), (128, 64)])
def test_tiles_overlap_by_what_their_networks_leave_out(overlap: int, margin: int) -> None:
    with pytest.raises(UsageError, match=f"overlap {overlap} must be even and between {2 * margin} and"):
        Grid(128, overlap, margin=margin)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="unknown blend"):
        StitchSettings(Grid(64, 0), "median")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must divide"):
        StitchSettings(Grid(64, 0), "crop", 5)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([64, 448, 1792]))
@settings(max_examples=50, deadline=None)
def test_blocks_cover_the_map_once(width: int, height: int, side: int) -> None:
    blocks = list(cut_blocks(Size(width, height), side))
    assert sum(b.box.width * b.box.height for b in blocks) == width * height
    assert len({(b.ix, b.iy) for b in blocks}) == len(blocks)


class OnAnotherDevice:
    """Predicts with tensors that pass for those of a GPU, and counts what is fetched."""

    def __init__(self, predictor: Any) -> None:
        self.predictor, self.fetched = predictor, 0
        self.transfer = self

    def __call__(self, tiles: np.ndarray, /, margin: int = 0) -> Any:
        return torch.from_numpy(np.array(self.predictor(tiles, margin=margin)))

    def to_device(self, array: np.ndarray, like: Any, /) -> Any:
        return torch.from_numpy(array)

    def to_host(self, arrays: Any, /) -> list[np.ndarray]:
        self.fetched += bool(arrays)
        return [array.numpy() for array in arrays]


def test_what_a_device_computes_of_a_block_is_fetched_once_and_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slide = ArraySlide(texture(301, 201), 0.5)  # the last cells are half outside
    settings = StitchSettings(Grid(64, 32), "crop", 2, uncertainty=True)
    here = stitched(slide, Darkness(), settings, 128, CODES[:2])
    monkeypatch.setattr("wsi_seg.inference.stitch.device", lambda array: "another")
    there = OnAnotherDevice(Darkness())
    for one, other in zip(here, stitched(slide, there, settings, 128, CODES[:2]), strict=True):
        np.testing.assert_allclose(one.astype(int), other, atol=one.ndim == 3)  # logarithms round otherwise
    assert there.fetched == 3 * 2  # blocks


class NoNumbers:
    """Says what `Darkness` does, but for one pixel."""

    def __call__(self, tiles: np.ndarray, /, margin: int = 0) -> np.ndarray:
        out = np.array(Darkness()(tiles, margin=margin))
        out[:, :, 17, 9] = np.nan
        return out


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("blend", "elsewhere"), [("crop", False), ("mean", False), ("crop", True)])
def test_probabilities_that_are_no_numbers_are_refused(
    blend: Blend, elsewhere: bool, dtype: ProbabilityDtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = StitchSettings(Grid(64, 16), blend, 4, dtype)
    slide = ArraySlide(texture(128, 128), 0.5)
    predictor = OnAnotherDevice(NoNumbers()) if elsewhere else NoNumbers()
    if elsewhere:
        monkeypatch.setattr("wsi_seg.inference.stitch.device", lambda array: "another")
    with pytest.raises(ModelError, match="not numbers"):
        stitched(slide, predictor, settings, 128, CODES[:2])
