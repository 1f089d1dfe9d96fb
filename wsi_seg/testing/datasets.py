"""Contract of every kind of data set: run each of `CHECKS` on one of its kind.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_data_set(check):
        check(lambda: MyDataset(name="mine", folder=my_folder, …), scheme)

Each check takes a function that makes the data set, whose folder is absolute, and the classes and resolution
of a model; it raises AssertionError where the contract is broken. `tests.made.datasets` has small data.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.base import Dataset
from wsi_seg.datasets.hashes import file_hashes
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, Pixels, Targets, not_class
from wsi_seg.datasets.split import Parts, Split
from wsi_seg.slides.slide import WHITE, read_region

Maker = Callable[[], Dataset]


def check_names(make: Maker, scheme: LabelScheme) -> None:
    """Names are unique and sorted, groups and labels valid, files there; loaded again it is the same."""
    regions, again = _regions(make, scheme), _regions(make, scheme)
    names = [region.name for region in regions]
    assert names and names == sorted(set(names))
    assert [(r.name, r.group, r.patient, r.label, r.size, r.files) for r in again] == [
        (r.name, r.group, r.patient, r.label, r.size, r.files) for r in regions
    ]
    for region in regions:
        assert region.group and region.files and all(path.exists() for path in region.files)
        assert region.size.width > 0 and region.size.height > 0
        assert region.label is None or 0 <= region.label < len(scheme.image_labels)
    hashes = file_hashes(regions)
    assert hashes == file_hashes(again) and all(len(digest) == 64 for digest in hashes.values())


def check_shapes(make: Maker, scheme: LabelScheme) -> None:
    """Reads have the shape that was asked for, uint8 RGB and int16 targets, and belong to the caller."""
    channels = range(len(scheme.classes))
    allowed = [IGNORED, *channels, *map(not_class, channels)]
    for region in _some(_regions(make, scheme)):
        for box in (Box(0, 0, 1, 1), Box(3, 2, 40, 33), Box(-7, -9, 20, 11), _whole(region)):
            image, target = region.read(box)
            assert image.shape == (box.height, box.width, 3) and image.dtype == np.uint8
            assert target.shape == (box.height, box.width) and target.dtype == np.int16
            assert np.isin(target, allowed).all()
        before = region.read(Box(0, 0, 8, 8))
        for array in region.read(Box(0, 0, 8, 8)):
            array[...] = 7
        assert _same(region.read(Box(0, 0, 8, 8)), before)


def check_outside(make: Maker, scheme: LabelScheme) -> None:
    """Beyond each side of a region there is white, IGNORED; what is inside stays as it is."""
    for region in _some(_regions(make, scheme)):
        for x in (-13, region.size.width - 29):
            for y in (-11, region.size.height - 31):
                box = Box.at(x, y, 50, 47)
                inside = box.intersect(_whole(region))
                image, target = region.read(box)
                rows, columns = inside.within(box)
                assert _same((image[rows, columns], target[rows, columns]), region.read(inside))
                beyond = np.ones(target.shape, bool)
                beyond[rows, columns] = False
                assert (image[beyond] == WHITE).all() and (target[beyond] == IGNORED).all()
        far = region.read(Box.at(region.size.width + 99, 5, 8, 8))
        assert (far[0] == WHITE).all() and (far[1] == IGNORED).all()


def check_pieces(make: Maker, scheme: LabelScheme) -> None:
    """A pixel and its target are the same whatever box they are read with."""
    for region in _some(_regions(make, scheme)):
        box = _inner(region)
        image, target = region.read(box)
        for piece in _pieces(box, 97):
            rows, columns = piece.within(box)
            assert _same(region.read(piece), (image[rows, columns], target[rows, columns]))


def check_coarse_targets(make: Maker, scheme: LabelScheme) -> None:
    """Coarse targets are those of every step-th pixel of both axes, from step // 2."""
    for region in _some(_regions(make, scheme)):
        target = region.read(_whole(region))[1]
        for step in (1, 2, 3, 8, 29, 10_000):
            coarse = region.coarse_targets(step)
            assert coarse.dtype == np.int16
            assert np.array_equal(coarse, target[step // 2 :: step, step // 2 :: step])


def check_part(make: Maker, scheme: LabelScheme) -> None:
    """A part shows its own box and nothing of what lies around it."""
    for region in _some(_regions(make, scheme)):
        box = _inner(region)
        part = region.part(box)
        assert (part.name, part.group, part.patient, part.label, part.files) == (
            region.name,
            region.group,
            region.patient,
            region.label,
            region.files,
        )
        assert (part.size.width, part.size.height) == (box.width, box.height)
        assert _same(part.read(_whole(part)), region.read(box))
        assert np.array_equal(part.coarse_targets(4), part.read(_whole(part))[1][2::4, 2::4])
        image, target = part.read(_whole(part).grown(3))
        assert (image[:3] == WHITE).all() and (image[:, -3:] == WHITE).all()
        assert (target[-3:] == IGNORED).all() and (target[:, :3] == IGNORED).all()


def check_place(make: Maker, scheme: LabelScheme) -> None:
    """A region lies in a slide, whose map at the model's resolution holds the very same pixels."""
    for region in _some(_regions(make, scheme)):
        for part in (region, region.part(_inner(region))):
            place = part.place()
            with place.slide as slide:
                assert place.frame.mpp == scheme.mpp
                box = place.box_map
                assert (box.width, box.height) == (part.size.width, part.size.height)
                assert box.intersect(place.frame.box) == box
                assert np.array_equal(read_region(slide, place.frame, box), part.read(_whole(part))[0])


def check_pickle(make: Maker, scheme: LabelScheme) -> None:
    """A region can be sent to another process, also after it was read."""
    for region in _some(_regions(make, scheme)):
        box = _inner(region)
        expected = region.read(box)
        sent: AnnotatedRegion = pickle.loads(pickle.dumps(region))
        assert (sent.name, sent.group, sent.size) == (region.name, region.group, region.size)
        assert _same(sent.read(box), expected)


def check_groups_stay_together(make: Maker, scheme: LabelScheme) -> None:
    """Any split by group uses each region once, each group in one part, and fails where a part is empty."""
    regions = _regions(make, scheme)
    random = np.random.default_rng(0)
    for seed in range(60):
        validation, test = (round(float(share), 2) for share in random.random(2) * (seed % 4 > 0))
        try:
            parts = Split(validation=validation, test=test, seed=seed).divide(regions, "made")
        except DataError as error:
            assert "the split asks for" in str(error) and max(validation, test) > 0
            continue
        assert sorted(name for part in _names(parts) for name in part) == [r.name for r in regions]
        groups = [{r.group for r in part} for part in (parts.training, parts.validation, parts.test)]
        assert sum(map(len, groups)) == len(set.union(*groups))


def check_split_is_reproducible(make: Maker, scheme: LabelScheme) -> None:
    """The same seed divides the same data in the same way, in any order of the regions."""
    regions = _regions(make, scheme)
    for seed in range(3):
        split = Split(validation=0.4, test=0.3, seed=seed)
        try:
            expected = _names(split.divide(regions, "made"))
        except DataError:
            continue  # too few groups for such parts
        assert _names(split.divide(_regions(make, scheme), "made")) == expected
        turned = _names(split.divide(regions[::-1], "made"))
        assert [names[::-1] for names in turned] == expected


def check_missing_folder(make: Maker, scheme: LabelScheme) -> None:
    """A folder that is not there is one line that names it."""
    gone = make().folder / "not-there"
    try:
        make().model_copy(update={"folder": gone}).parts(Path(), scheme)
    except DataError as error:
        assert str(gone) in str(error) and "\n" not in str(error)
    else:
        raise AssertionError("no error")


CHECKS: tuple[Callable[[Maker, LabelScheme], None], ...] = (
    check_names,
    check_shapes,
    check_outside,
    check_pieces,
    check_coarse_targets,
    check_part,
    check_place,
    check_pickle,
    check_groups_stay_together,
    check_split_is_reproducible,
    check_missing_folder,
)


def _regions(make: Maker, scheme: LabelScheme) -> tuple[AnnotatedRegion, ...]:
    """Return all regions of a data set, whatever its split."""
    return make().model_copy(update={"split": Split()}).parts(Path(), scheme).training


def _some(regions: Sequence[AnnotatedRegion]) -> list[AnnotatedRegion]:
    """Return the first, the middle and the last region."""
    return [regions[i] for i in sorted({0, len(regions) // 2, len(regions) - 1})]


def _whole(region: AnnotatedRegion) -> Box:
    return Box(0, 0, region.size.width, region.size.height)


def _inner(region: AnnotatedRegion) -> Box:
    """Return a box inside the region, at most 300 pixels a side, off its borders if it can."""
    width, height = region.size.width, region.size.height
    x, y = width // 3, height // 3
    return Box(x, y, max(x + 1, min(x + 300, width - 1)), max(y + 1, min(y + 300, height - 1)))


def _pieces(box: Box, side: int) -> list[Box]:
    return [
        Box.at(x, y, side, side).intersect(box)
        for y in range(box.y0, box.y1, side)
        for x in range(box.x0, box.x1, side)
    ]


def _same(one: tuple[Pixels, Targets], other: tuple[Pixels, Targets]) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def _names(parts: Parts) -> list[list[str]]:
    return [[r.name for r in part] for part in (parts.training, parts.validation, parts.test)]
