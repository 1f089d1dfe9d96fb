"""How data sets are divided: no patient on both sides, alike within image labels, nothing silently empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, ArrayRegion
from wsi_seg.datasets.split import BCSS_TEST_INSTITUTES, Split


def region(name: str, group: str | None = None, label: int | None = None, width: int = 10) -> ArrayRegion:
    """A region whose red channel and target number its columns."""
    image = np.zeros((4, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    target = np.arange(width, dtype=np.int16)[None].repeat(4, 0)
    return ArrayRegion(name, group or name, image, target, 0.5, label=label)


def names(part: Sequence[AnnotatedRegion]) -> list[str]:
    return [r.name for r in part]


def many(count: int, label: int | None = None, start: int = 0) -> list[ArrayRegion]:
    return [region(f"r{i:03d}", label=label) for i in range(start, start + count)]


# --- by group -----------------------------------------------------------------------------------------


def test_without_shares_all_is_trained_on() -> None:
    parts = Split().divide(many(5), "made")
    assert (len(parts.training), parts.validation, parts.test) == (5, (), ())
    assert parts.of("training") == parts.training and parts.of("test") == ()


@given(st.integers(4, 60), st.integers(0, 3))
def test_shares_are_of_all_groups(count: int, seed: int) -> None:
    parts = Split(validation=0.25, test=0.3, seed=seed).divide(many(count), "made")
    assert len(parts.test) == round(0.3 * count)
    assert abs(len(parts.validation) - 0.25 * count) <= 0.5 + 1e-9


def test_shares_hold_within_each_image_label() -> None:
    regions = [*many(40, 0), *many(20, 1, start=40), *many(10, 2, start=60)]
    parts = Split(validation=0.2, test=0.1, seed=4).divide(regions, "made")
    assert Counter(r.label for r in parts.test) == {0: 4, 1: 2, 2: 1}
    assert Counter(r.label for r in parts.validation) == {0: 8, 1: 4, 2: 2}
    assert Counter(r.label for r in parts.training) == {0: 28, 1: 14, 2: 7}


def test_the_seed_draws() -> None:
    drawn = {tuple(names(Split(test=0.3, seed=seed).divide(many(20), "x").test)) for seed in range(20)}
    assert len(drawn) > 15
    often = Counter(name for part in drawn for name in part)
    assert len(often) > 15  # not always the same ones


@settings(max_examples=50)
@given(st.data())
def test_all_regions_of_a_group_go_together(data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=30))
    regions = [region(str(i), group) for i, group in enumerate(groups)]
    seed = data.draw(st.integers(0, 5))
    try:
        parts = Split(validation=0.3, test=0.3, seed=seed).divide(regions, "made")
    except DataError:
        assert len(set(groups)) < 4
        return
    assert sum(len({r.group for r in parts.of(p)}) for p in ("training", "validation", "test")) == len(
        set(groups)
    )


def test_groups_by_name() -> None:
    regions = [region("1", "a"), region("2", "b"), region("3", "a"), region("4", "c")]
    parts = Split(validation=("c",), test=("a",)).divide(regions, "made")
    assert (names(parts.training), names(parts.validation), names(parts.test)) == (["2"], ["4"], ["1", "3"])


def test_a_group_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"made: the split names 'z', which is no group .* \(a, b\)$"):
        Split(test=("z",)).divide([region("a"), region("b")], "made")
    with pytest.raises(DataError, match="names 'a', which is no group left"):
        Split(validation=("a",), test=("a",)).divide([region("a"), region("b")], "made")


# --- by institute -------------------------------------------------------------------------------------


def tcga(institute: str) -> ArrayRegion:
    return region(f"TCGA-{institute}-A0XX-DX1", f"TCGA-{institute}-A0XX")


def test_the_official_test_set_of_bcss() -> None:
    assert {"OL", "LL", "E2", "EW", "GM", "S3"} == set(BCSS_TEST_INSTITUTES)
    regions = [tcga(i) for i in ("A1", "A2", "AR", "BH", *BCSS_TEST_INSTITUTES)]
    parts = Split(by="institute", validation=0.25).divide(regions, "bcss")
    assert {r.group[5:7] for r in parts.test} == {"OL", "LL", "E2", "EW", "GM", "S3"}
    assert len(parts.validation) == 1 and len(parts.training) == 3
    assert not Split(by="institute").divide(regions, "bcss").validation


def test_institutes_need_barcodes_and_a_test_set() -> None:
    with pytest.raises(DataError, match="bcss: 'other' is no TCGA barcode, so it has no institute; split by"):
        Split(by="institute").divide([tcga("A1"), region("other")], "bcss")
    with pytest.raises(DataError, match="bcss: the split asks for a test part"):
        Split(by="institute").divide([tcga("A1")], "bcss")


# --- by columns ---------------------------------------------------------------------------------------


def test_columns_are_cut_off_at_the_right() -> None:
    parts = Split(by="columns", validation=0.2, test=0.3).divide([region("a"), region("b")], "made")
    for part, columns in (
        (parts.training, [0, 1, 2, 3, 4]),
        (parts.validation, [5, 6]),
        (parts.test, [7, 8, 9]),
    ):
        assert names(part) == ["a", "b"]
        for cut in part:
            image, target = cut.read(Box(0, 0, cut.size.width, 4))
            assert image[0, :, 0].tolist() == target[3].tolist() == columns
            # What the other parts hold is not shown next to it.
            beyond = cut.read(Box(-5, 0, cut.size.width + 5, 4))
            assert (beyond[0][:, -5:] == 255).all() and (beyond[1][:, :5] == IGNORED).all()


def test_columns_take_shares_of_the_whole() -> None:
    with pytest.raises(DataError, match="made: a split by columns takes shares, not names"):
        Split(by="columns", test=("a",)).divide([region("a")], "made")
    with pytest.raises(DataError, match=r"made: validation 0\.6 and test 0\.5 exceed the whole"):
        Split(by="columns", validation=0.6, test=0.5).divide([region("a")], "made")


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("by", ["group", "columns"])
def test_an_empty_part_is_an_error(part: str, by: str) -> None:
    split = Split.model_validate({"by": by, part: 0.01})
    with pytest.raises(
        DataError, match=rf"busi: the split asks for a {part} part \({part}: 0\.01\), but none"
    ):
        split.divide(many(9), "busi")


@pytest.mark.parametrize("values", [{"test": 1.5}, {"validation": -0.1}, {"by": "patient"}, {"tset": 0.1}])
def test_unfit_values(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Split.model_validate(values)
