"""Grouping of regions: those of one patient, and tiles of one larger image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsi_seg.core.errors import DataError
from wsi_seg.datasets.patients import PatientOf
from wsi_seg.datasets.region import AnnotatedRegion, ArrayRegion
from wsi_seg.datasets.tiles import bordering, parent_name


def group_regions(
    regions: Sequence[AnnotatedRegion], patient_of: PatientOf, where: str
) -> tuple[list[AnnotatedRegion], tuple[str, ...]]:
    """Give each region its patient, and one group to all that must stay in one part of a split.

    Regions of one patient are a group. Of unknown patients, tiles of one larger image are, as far as their
    names or their borders show it.

    Args:
        regions: as a data set loads them, grouped by image or slide.
        patient_of: of the first file of each region.
        where: name of the data set, for messages.

    Returns:
        The regions in the same order, and sentences that a user must know.

    Raises:
        DataError: tiles or copies of one image are given to two patients, or see `Patients.finder`.
    """
    patients = [patient_of(region.files[0]) for region in regions]
    _refuse_images_of_two_patients(regions, patients, where)
    unknown = [i for i, patient in enumerate(patients) if patient is None]
    groups = [patient or region.group for patient, region in zip(patients, regions, strict=True)]
    joined = _joined([regions[i] for i in unknown])
    for i, group in zip(unknown, joined, strict=True):
        groups[i] = group
    found = [
        region.grouped(group, patient)
        for region, group, patient in zip(regions, groups, patients, strict=True)
    ]
    return found, _notes([regions[i].group for i in unknown], joined, where)


def _refuse_images_of_two_patients(
    regions: Sequence[AnnotatedRegion], patients: Sequence[str | None], where: str
) -> None:
    named = [
        (region, patient)
        for region, patient in zip(regions, patients, strict=True)
        if patient is not None and isinstance(region, ArrayRegion)
    ]
    if len({patient for _, patient in named}) < 2:
        return
    for a, b in bordering([region.image for region, _ in named if isinstance(region, ArrayRegion)]):
        (one, first), (other, second) = named[a], named[b]
        if first != second:
            raise DataError(
                f"{where}: {one.group} and {other.group} are tiles or copies of one image, as their borders "
                f"show, but are given to the patients {first} and {second}; correct `patients`"
            )


def _notes(images: Sequence[str], joined: Sequence[str], where: str) -> tuple[str, ...]:
    members: dict[str, set[str]] = {}
    for image, group in zip(images, joined, strict=True):
        members.setdefault(group, set()).add(image)
    parents = [tiles for tiles in members.values() if len(tiles) > 1]
    if not parents:
        return ()
    of = "1 larger image" if len(parents) == 1 else f"{len(parents)} larger images"
    return (
        f"{where}: {sum(map(len, parents))} of {len(set(images))} images are tiles or copies of {of}, as "
        "their names or borders show, and stay together in one part of the split.",
    )


def _joined(regions: Sequence[AnnotatedRegion]) -> list[str]:
    """Return the group of each region: its image; of tiles, the first image or the stem that they share."""
    names = [parent_name(region.group) or region.group for region in regions]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    in_memory = [
        (numbers[name], region.image)
        for region, name in zip(regions, names, strict=True)
        if isinstance(region, ArrayRegion)
    ]
    pairs = [(in_memory[a][0], in_memory[b][0]) for a, b in bordering([image for _, image in in_memory])]
    ends = np.array(pairs, np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs), bool), (ends[0], ends[1])), shape=(len(numbers), len(numbers)))
    _, of = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    images: dict[int, set[str]] = {}
    for region, name in zip(regions, names, strict=True):
        first.setdefault(int(of[numbers[name]]), name)
        images.setdefault(int(of[numbers[name]]), set()).add(region.group)
    group = {
        number: name if len(images[number]) > 1 else images[number].pop() for number, name in first.items()
    }
    return [group[int(of[numbers[name]])] for name in names]
