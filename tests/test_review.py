"""Reviews: entries, journals that lose nothing, state, verdicts on other results, agreement."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from shapely import box

from tests.made.reviews import SIZE, at, regions_of, slide_info, verdict_on
from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.review.agreement import agreement, cohens_kappa
from wsi_seg.review.carry import MIN_IOU, RegionKeys, carry_over
from wsi_seg.review.entries import (
    MOST_CORNERS,
    ReviewEntry,
    drawn_shape,
    geometry_hash,
    later_than,
    own_region,
    parse_line,
)
from wsi_seg.review.places import review_folder, slide_folder
from wsi_seg.review.state import fold, holding
from wsi_seg.review.store import ReviewStore

REGIONS = regions_of(
    (box(100, 100, 300, 300), "tumor"),
    (box(400, 100, 500, 300), "stroma"),
    (box(700, 700, 900, 900), "tumor"),
)


def ring(xy: Any) -> dict[str, Any]:
    points = np.asarray(xy, float).tolist()
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


# --- entries ---------------------------------------------------------------------------------------------


def test_an_entry_survives_its_line() -> None:
    entry = verdict_on(
        REGIONS, 0, "relabeled", class_name="stroma", comment="a\nb \u2028 <b>", reviewer="  Ö ../x"
    )
    line = entry.to_line()
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    again = parse_line(line)
    assert again == entry and again.reviewer == "Ö ../x"
    assert json.loads(line)["geometry"]["type"] == "Polygon"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"reviewer": ""}, "reviewer"), ({"reviewer": "a\nb"}, "control"),
        ({"reviewer": "x" * 101}, "reviewer"),
        ({"comment": "x" * 2001}, "comment"), ({"verdict": "fine"}, "verdict"),
        ({"class_name": None}, "needs a class"),
        ({"verdict": "rejected", "class_name": "tumor"}, "has no class"),
        ({"geometry": None}, "needs a region"), ({"verdict": "revoked"}, "revoked"),
        ({"geometry": ring([[0, 0], [9, 9], [0, 9], [9, 0]])}, "valid polygon"), ({"more": 1}, "more"),
        ({"entry": "../../x"}, "entry"), ({"time": "2026-01-01T00:00:00"}, "time zone"),
    ],
)  # fmt: skip
def test_entries_that_do_not_fit_together_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        verdict_on(REGIONS, 0, **{"verdict": "accepted", **values})


def test_a_time_is_after_what_was_seen_although_a_clock_is_ahead() -> None:
    ahead = at(10**9)
    assert later_than([ahead]) > ahead
    assert later_than([at(-(10**8))]) > at(-(10**8))


def test_the_hash_of_an_outline_knows_no_beginning_and_no_rounding() -> None:
    turned = shapely.Polygon([(300, 300.0004), (100, 300), (100, 100), (300, 100)])
    assert geometry_hash(turned) == geometry_hash(box(100, 100, 300, 300))
    assert geometry_hash(box(100, 100, 300, 300.01)) != geometry_hash(box(100, 100, 300, 300))


def test_drawn_outlines_are_cut_snapped_and_made_valid() -> None:
    bow = drawn_shape(ring([[0, 0], [90, 90], [0, 90], [90, 0]]), SIZE)
    assert bow.is_valid and bow.area == pytest.approx(90 * 90 / 2)
    cut = drawn_shape(ring([[-50, -50], [50.123456, -50], [50.123456, 50], [-50, 50]]), SIZE)
    assert cut.bounds == (0, 0, 50.12, 50)


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        (None, "no GeoJSON"), ({"type": "Point", "coordinates": [1, 2]}, "is a Point"), ("x", "no GeoJSON"),
        (ring([[0, 0], [float("nan"), 5], [5, 5]]), "no GeoJSON"),
        (ring([[-9, -9], [-5, -9], [-5, -5]]), "no area on the slide"), (ring([[1, 1], [5, 5]]), "no area"),
        (ring(np.random.default_rng(0).uniform(0, 999, (3000, 2))), "cross each other too often"),
        (ring(np.random.default_rng(0).uniform(0, 999, (MOST_CORNERS + 1, 2))), "corners, at most"),
        (ring(np.random.default_rng(0).uniform(0, 999, (30_000, 2))), "cross each other too often"),
        (ring([[0, 0], [1e300, 5], [5, 5]]), "reaches beyond"),
        ({"type": "Polygon", "coordinates": [[[["a"] * 50] * 3]]}, "no GeoJSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_outline_is_refused(geometry: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        drawn_shape(geometry, SIZE)


# --- the journals ----------------------------------------------------------------------------------------


def test_reviews_lie_next_to_results_and_never_in_them(tmp_path: Path) -> None:
    slide = tmp_path / "results" / "slide"
    slide.mkdir(parents=True)
    (slide / "manifest.json").write_text("{}")
    expected = tmp_path / "results-review"
    assert review_folder(tmp_path / "results") == review_folder(slide) == expected
    assert review_folder(slide, tmp_path / "other") == tmp_path / "other"
    for bad in (slide, slide / "review", tmp_path / "results" / "slide" / "manifest.json"):
        with pytest.raises(UsageError):
            review_folder(tmp_path / "results", bad)
    with pytest.raises(UsageError, match="local"):
        review_folder("s3://bucket/results")
    hostile = slide_folder(expected, slide_info("../../etc/x"))
    assert hostile.parent == expected


def test_two_stores_of_one_folder_lose_nothing(tmp_path: Path) -> None:
    slide, count = slide_info(), 25

    def write(name: str) -> None:
        store = ReviewStore(tmp_path / "r")
        for _ in range(count):
            store.append(slide, [verdict_on(REGIONS, 0, reviewer=name)])

    threads = [threading.Thread(target=write, args=(name,)) for name in "ABC"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ReviewStore(tmp_path / "r").read(slide)
    assert len(found.entries) == len({entry.entry for entry in found.entries}) == 3 * count
    assert ReviewStore(tmp_path / "r").read(slide_info("another")).entries == ()
    assert len(list((tmp_path / "r").rglob("*.jsonl"))) == 3


def test_what_others_append_is_read_and_a_cut_line_is_left_out_and_said(tmp_path: Path) -> None:
    slide, reader, writer = slide_info(), ReviewStore(tmp_path), ReviewStore(tmp_path)
    assert reader.read(slide).entries == ()
    writer.append(slide, [verdict_on(REGIONS, 0)])
    writer.append(slide, [verdict_on(REGIONS, 1)])
    assert len(reader.read(slide).entries) == 2
    (journal,) = tmp_path.rglob("*.jsonl")
    with journal.open("ab") as file:
        file.write(verdict_on(REGIONS, 2).to_line()[:-9])
    found = reader.read(slide)
    assert len(found.entries) == 2 and len(found.notes) == 1 and str(journal) in found.notes[0]
    with journal.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(OutputError, match="line 3 is damaged"):
        reader.read(slide)


@pytest.mark.parametrize("change", [{"verdict": "questioned"}, {"confidence": 3}])
def test_a_journal_of_a_newer_version_is_no_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    slide, store = slide_info(), ReviewStore(tmp_path)
    store.append(slide, [verdict_on(REGIONS, 0)])
    (journal,) = tmp_path.rglob("*.jsonl")
    journal.write_bytes(b"\n" + journal.read_bytes() + b"\n")  # an editor has added blank lines
    assert len(store.read(slide).entries) == len(ReviewStore(tmp_path).read(slide).entries) == 1
    line = json.loads(verdict_on(REGIONS, 1).to_line())
    with journal.open("a") as file:
        file.write(json.dumps({**line, **change}) + "\n")
    with pytest.raises(OutputError, match="line 4 is of a newer version of wsi-seg"):
        store.read(slide)


def test_a_full_disk_is_said_and_what_was_acknowledged_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, store = slide_info(), ReviewStore(tmp_path)
    store.append(slide, [verdict_on(REGIONS, 0)])
    (journal,) = tmp_path.rglob("*.jsonl")
    before, real = journal.read_bytes(), os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left") as raised:
        store.append(slide, [verdict_on(REGIONS, 1)])
    assert raised.value.disk_is_full and journal.read_bytes() == before
    monkeypatch.setattr(os, "fsync", real)
    store.append(slide, [verdict_on(REGIONS, 2)])
    assert {entry.region for entry in store.read(slide).entries} == {REGIONS.ids[0], REGIONS.ids[2]}
    with pytest.raises(ValueError, match="another slide"):
        store.append(slide_info("another"), [verdict_on(REGIONS, 0)])


def test_no_journal_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "r").mkdir()
    slide_folder(tmp_path / "r", slide_info()).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="link"):
        ReviewStore(tmp_path / "r").append(slide_info(), [verdict_on(REGIONS, 0)])
    assert not any((tmp_path / "elsewhere").iterdir())


# --- the state -------------------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from("AB"), st.sampled_from(["accepted", "rejected", "undo"])),
    max_size=12,
)


def acted(actions: list[tuple[int, str, str]]) -> list[ReviewEntry]:
    """Return the entries of reviewers who each see all that was done before."""
    entries: list[ReviewEntry] = []
    for second, (index, reviewer, verdict) in enumerate(actions):
        values: dict[str, Any] = {"reviewer": reviewer, "time": at(second)}
        if verdict == "undo":
            own = [entry for entry in holding(entries) if entry.reviewer == reviewer]
            if own:
                undone = {"verdict": "revoked", "supersedes": (own[-1].entry,), "slide": own[-1].slide}
                entries.append(ReviewEntry(**undone, **values))
            continue
        held = fold(entries).decisions.get(REGIONS.ids[index])
        own_ids = tuple(e.entry for e in held.entries if e.reviewer == reviewer) if held else ()
        entries.append(verdict_on(REGIONS, index, verdict, supersedes=own_ids, **values))
    return entries


@given(ACTIONS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_state_knows_no_order_and_no_repetition(actions: Any, random: Any) -> None:
    entries = acted(actions)
    expected = fold(entries)
    shuffled = [*entries, *entries[: len(entries) // 2]]
    random.shuffle(shuffled)
    assert fold(shuffled) == expected
    assert [*fold(shuffled).decisions] == [*expected.decisions]


@given(ACTIONS)
@settings(max_examples=60, deadline=None)
def test_an_undo_gives_the_state_before_and_a_redo_that_after(actions: Any) -> None:
    entries = acted([*actions, (0, "A", "rejected")])
    last = entries[-1]
    undo = ReviewEntry(
        verdict="revoked", slide=last.slide, reviewer="A", time=at(50), supersedes=(last.entry,)
    )
    redo = ReviewEntry(
        verdict="revoked", slide=last.slide, reviewer="A", time=at(51), supersedes=(undo.entry,)
    )

    def held(found: list[ReviewEntry]) -> Any:
        return fold(found).decisions, fold(found).areas

    assert held([*entries, undo]) == held(entries[:-1])
    assert held([*entries, undo, redo]) == held(entries)


def test_the_latest_of_two_reviewers_decides_and_they_are_disputed() -> None:
    first, second = (
        verdict_on(REGIONS, 0, time=at(0)),
        verdict_on(REGIONS, 0, "rejected", reviewer="Bob", time=at(1)),
    )
    state = fold([second, first])
    decision = state.decisions[REGIONS.ids[0]]
    assert decision.final == second and decision.disputed and state.reviewers == ("Ada", "Bob")
    ((outline, name),) = state.rejected
    assert not state.marked and name == "tumor" and outline.equals(box(100, 100, 300, 300))
    assert fold([first, second], "Ada").marked[0].class_name == "tumor"
    corrected = state.new_entry(**{**first.model_dump(exclude={"entry", "time", "supersedes"})})
    assert corrected.supersedes == (first.entry,) and corrected.time > second.time
    again = fold([first, second, corrected]).decisions[REGIONS.ids[0]]
    assert again.final == corrected and len(again.entries) == 2


def test_forged_circles_end() -> None:
    one, other = verdict_on(REGIONS, 0, time=at(0)), verdict_on(REGIONS, 1, time=at(1))
    circle = [one.model_copy(update={"supersedes": (other.entry, one.entry)}),
              other.model_copy(update={"supersedes": (one.entry, other.entry)})]  # fmt: skip
    assert [entry.entry for entry in holding(circle)] == [other.entry]


# --- other results of the slide --------------------------------------------------------------------------


def test_verdicts_follow_their_regions_by_overlap() -> None:
    added = ReviewEntry(
        verdict="added", slide=slide_info().fingerprint, reviewer="Ada", region=own_region("0" * 32),
        class_name="tumor", geometry=box(1000, 1000, 1100, 1100),
    )  # fmt: skip
    entries = [
        verdict_on(REGIONS, 0), verdict_on(REGIONS, 1, "rejected"),
        verdict_on(REGIONS, 2, "relabeled", class_name="stroma"), added,
    ]  # fmt: skip
    state = fold(entries)
    same = carry_over(state, RegionKeys(REGIONS))
    assert sorted(same.verdicts) == [0, 1, 2] and same.lost == () and len(same.drawn) == 1
    assert all(one.iou == 1 for one in same.verdicts.values())
    other = regions_of(
        (box(110, 100, 310, 300), "tumor"),  # IoU 0.90 with region 0
        (box(400, 100, 500, 300), "necrosis"),  # where stroma was rejected
        (box(700, 700, 900, 790), "stroma"),  # 0.45 of region 2
        (box(1000, 1000, 1100, 1110), "tumor"),  # found by now
    )
    carried = carry_over(state, RegionKeys(other))
    assert {i: round(one.iou, 3) for i, one in carried.verdicts.items()} == {0: 0.905, 3: 0.909}
    assert carried.drawn == ()
    reasons = {one.decision.final.region: one.reason for one in carried.lost}
    assert reasons == {
        REGIONS.ids[1]: "the region there is necrosis now",
        REGIONS.ids[2]: f"no region overlaps it by IoU {MIN_IOU:g}",
    }


def test_a_region_takes_the_verdict_that_overlaps_it_most() -> None:
    near = regions_of((box(0, 0, 100, 100), "tumor"), (box(5, 0, 105, 100), "tumor"))
    state = fold([verdict_on(near, 0, reviewer="A"), verdict_on(near, 1, "rejected")])
    carried = carry_over(state, RegionKeys(regions_of((box(6, 0, 106, 100), "tumor"))))
    assert carried.verdicts[0].decision.final.verdict == "rejected" and len(carried.lost) == 1
    assert carry_over(state, RegionKeys(regions_of())).verdicts == {}
    assert carry_over(fold([]), RegionKeys(near)).verdicts == {}


# --- two reviewers ---------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_kappa_equals_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    if len({*one, *other}) == 1:
        assert np.isnan(cohens_kappa(one, other))
    else:
        assert cohens_kappa(one, other) == pytest.approx(sk.cohen_kappa_score(one, other))


def test_agreement_compares_what_both_have_looked_at() -> None:
    base = {"slide": slide_info().fingerprint, "verdict": "reviewed-area"}
    ada = [
        verdict_on(REGIONS, 0), verdict_on(REGIONS, 1), verdict_on(REGIONS, 2),
        ReviewEntry(**base, reviewer="Ada", region="x", geometry=box(1000, 0, 1200, 200)),
    ]  # fmt: skip
    tumor: dict[str, Any] = {"reviewer": "Bob", "class_name": "tumor"}
    drawn = {"slide": base["slide"], "verdict": "added", **tumor}
    bob = [
        verdict_on(REGIONS, 0, "redrawn", **tumor, geometry=box(200, 100, 300, 300)),
        verdict_on(REGIONS, 1, "relabeled", **tumor),
        ReviewEntry(**{**base, "reviewer": "Bob"}, region="y", geometry=box(1100, 0, 1300, 200)),
        ReviewEntry(**drawn, region="z", geometry=box(1150, 0, 1300, 100)),
    ]  # fmt: skip
    entries = [*ada, *bob]
    found = agreement(fold(entries, "Ada"), fold(entries, "Bob"))
    assert (found.regions, found.same) == (2, 1)
    # Tumor: Ada 40,000, of which Bob has 20,000, and he has 20,000 and 5,000 elsewhere.
    assert found.dice == pytest.approx({"tumor": 2 * 20_000 / (40_000 + 45_000), "stroma": 0.0})
    assert json.loads(json.dumps(found.to_json()))["regions"] == 2
    nothing = agreement(fold([]), fold(entries)).to_json()
    assert nothing == {"regions": 0, "same": 0, "kappa": None, "dice": {}}
