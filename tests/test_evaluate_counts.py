"""Evaluation without a network: rows, tallies, intervals, tables and sentences, against slow counting."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wsi_seg.core.card import CardClass, CardGroup, ModelCard
from wsi_seg.core.classes import BCSS, BCSS_GROUPS
from wsi_seg.core.errors import ModelError, UsageError
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.region import IGNORED, ArrayRegion, not_class
from wsi_seg.evaluation.baselines import (
    Baseline,
    Everything,
    Hematoxylin,
    find_threshold,
    hematoxylin_density,
    parse_baseline,
)
from wsi_seg.evaluation.choice import divide_by_truth
from wsi_seg.evaluation.html import render_report
from wsi_seg.evaluation.intervals import bootstrap
from wsi_seg.evaluation.metrics import NO_ROW, mean_score
from wsi_seg.evaluation.model import share_examples
from wsi_seg.evaluation.predict import Canvas
from wsi_seg.evaluation.rows import Rows
from wsi_seg.evaluation.section import ImageLabel, ImageTally, Section, count, merge, pool
from wsi_seg.evaluation.sentences import explain_accuracy, explain_rows
from wsi_seg.evaluation.tables import section_table
from wsi_seg.evaluation.tally import PredictedBlock, Tally, tally_block
from wsi_seg.evaluation.training_log import draw_training, read_curves
from wsi_seg.evaluation.write import table_of
from wsi_seg.tissue.stain import STAINS

CLASSES = BCSS[:4]
CARD = ModelCard(
    name="four",
    classes=tuple(CardClass(code=c.code, name=c.name, color=c.color) for c in CLASSES),
    groups=(
        CardGroup(name="tumor", codes=(1,), color=(200, 0, 0)),
        CardGroup(name="other", codes=(2, 4), color=(255, 200, 0)),
    ),
)
OF_CLASSES = Rows.of_classes(CLASSES)
OF_GROUPS = Rows.of_groups(CARD.class_groups, CARD.codes)


def block(seed: int, targets: tuple[int, ...] = (IGNORED, 0, 1, 3), side: int = 12) -> PredictedBlock:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(4), (side, side)).astype(np.float32).transpose(2, 0, 1)
    return PredictedBlock(
        Box(0, 0, side, side),
        random.choice(np.array(targets, np.int16), (side, side)),
        probabilities.argmax(0).astype(np.uint8),
        probabilities,
    )


def section(groups: int, rows: tuple[Rows, ...] = (OF_CLASSES,), **others: Any) -> Section:
    by_group: dict[str, tuple[Tally, ...]] = {}
    images = []
    for seed in range(groups):
        tallies = count([block(seed)], rows)
        merge(by_group, f"patient {seed}", tallies)
        images.append(ImageTally(f"image {seed}", f"patient {seed}", tuple(t.counts for t in tallies)))
    others = {"patients_known": True, **others}
    return Section("set", rows, by_group, tuple(images), groups, "digest", ("a note",), **others)


# --- rows -------------------------------------------------------------------------------------------------


def test_group_rows_are_those_of_their_classes() -> None:
    assert OF_GROUPS is not None
    one = block(0, (IGNORED, 0, 1, 2, 3))
    tally = tally_block(one, OF_GROUPS)
    group_of = {0: 0, 1: 1, 3: 1}  # channel 2 is in no group
    for t in range(2):
        for p in range(2):
            expected = sum(
                group_of.get(int(a)) == t and group_of.get(int(b)) == p
                for a, b in zip(one.target.ravel(), one.channels.ravel(), strict=True)
            )
            assert tally.counts.matrix[t, p] == expected
    known = np.isin(one.target, [0, 1, 3])
    score = one.probabilities[[1, 3]].sum(0)[known]
    auc = sk.roc_auc_score(one.target[known] != 0, np.floor(score * 512))
    assert tally.scores.roc_auc[1] == pytest.approx(auc)


def test_bcss_has_five_groups_and_groups_that_say_nothing_are_left_out() -> None:
    codes = tuple(c.code for c in BCSS)
    rows = Rows.of_groups(BCSS_GROUPS, codes)
    assert rows is not None and len(rows.names) == 5
    assert sorted(c for members in rows.channels for c in members) == list(range(21))
    assert Rows.of_groups(BCSS_GROUPS[:1], codes) is None
    assert Rows.of_groups((BCSS_GROUPS[0], BCSS_GROUPS[0]), codes) is None  # overlap
    assert Rows.of_groups(BCSS_GROUPS[1:2] + BCSS_GROUPS[3:4], codes) is None  # single classes


def test_one_class_rows_know_no_more_than_the_annotations() -> None:
    rows = Rows.of_one_class(CLASSES, 1)
    assert rows.names == ("stroma", "not stroma")
    targets = (1, not_class(1), 3, IGNORED, not_class(2))
    one = block(3, targets)
    tally = tally_block(one, rows)
    is_class, known = one.target == 1, np.isin(one.target, [1, not_class(1), 3])
    called = one.probabilities[1] >= 0.5  # not: more probable than each other class
    assert tally.counts.matrix[:, :2].tolist() == [
        [(is_class & called).sum(), (is_class & ~called).sum()],
        [(known & ~is_class & called).sum(), (known & ~is_class & ~called).sum()],
    ]
    assert tally.counts.total == known.sum()
    auc = sk.roc_auc_score(is_class[known], np.floor(one.probabilities[1][known] * 512))
    assert tally.scores.roc_auc[0] == pytest.approx(auc)


def test_pixels_without_prediction_are_missed() -> None:
    one = block(0)
    nothing = PredictedBlock(
        one.box, one.target, np.full_like(one.channels, NO_ROW), np.zeros_like(one.probabilities)
    )
    counts = tally_block(nothing, OF_CLASSES).counts
    assert counts.accuracy == 0 and counts.matrix[:, -1].sum() == counts.total > 0


def test_probabilities_that_are_no_numbers_are_refused() -> None:
    one = block(0)
    one.probabilities[2, 3, 3] = np.nan
    with pytest.raises(ModelError, match="not numbers"):
        tally_block(one, OF_CLASSES)


# --- choosing ---------------------------------------------------------------------------------------------


def region(name: str, *targets: int) -> ArrayRegion:
    target = np.array([targets], np.int16)
    return ArrayRegion(name, name, np.zeros((*target.shape, 3), np.uint8), target, 0.5)


def test_regions_are_divided_by_what_their_annotations_tell() -> None:
    full, benign, malignant = (
        region("full", 0, 1, 2),
        region("b", 1, not_class(1)),
        region("m", 2, not_class(2)),
    )
    whole = region("all of it malignant", 2, 2, IGNORED)
    divided = divide_by_truth([full, benign, malignant, whole], None)
    assert divided == {None: [full], 1: [benign], 2: [malignant, whole]}
    assert divide_by_truth([full], None) == {None: [full]}
    assert divide_by_truth([full, whole], 2) == {2: [full, whole]}
    assert divide_by_truth([], 2) == {}


def test_examples_are_shared_out() -> None:
    assert share_examples({"a": 1, "b": 100, "c": 4}) == {"a": 1, "b": 5, "c": 4}
    assert share_examples({"a": 2}) == {"a": 2}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 7), st.integers(1, 13), st.integers(-3, 3))
def test_a_canvas_keeps_every_nth_pixel(width: int, height: int, step: int, side: int, start: int) -> None:
    whole = Box(start, start, start + width, start + height)
    values = np.arange(width * height, dtype=np.int16).reshape(height, width)
    canvas = Canvas(whole, step, -1)
    for y in range(start, start + height, side):
        for x in range(start, start + width, side):
            part = Box.at(x, y, side, side).intersect(whole)
            canvas.put(part, values[part.within(whole)])
    assert np.array_equal(canvas.pixels, values[step // 2 :: step, step // 2 :: step])


# --- intervals --------------------------------------------------------------------------------------------


def test_intervals_are_expanded_percentiles_over_drawn_groups() -> None:
    tallies = [tally_block(block(seed), OF_CLASSES) for seed in range(5)]
    found = bootstrap(tallies, 200, seed=3)
    assert found is not None
    drawn = []
    for weights in np.random.default_rng(3).multinomial(5, [0.2] * 5, 200):
        picked = [tally for tally, times in zip(tallies, weights, strict=True) for _ in range(times)]
        whole = picked[0]
        for tally in picked[1:]:
            whole += tally
        drawn.append((whole.counts.dice, whole.scores.roc_auc, whole.counts.accuracy))
    # Of five patients the middle 99.8 % of resamples cover as much as 95 % would of very many.
    limits = 100 * stats.norm.cdf(np.array([-1, 1]) * stats.t.ppf(0.975, 4) * np.sqrt(5 / 4))
    assert limits == pytest.approx([0.0955, 99.9045], abs=1e-3)
    for row in (0, 1, 3):
        for name, index in {"dice": 0, "roc_auc": 1}.items():
            expected = np.percentile([scores[index][row] for scores in drawn], limits)
            assert found.classes[name][row] == pytest.approx(expected)
    accuracy = np.percentile([scores[2] for scores in drawn], limits)
    assert found.overall["pixel_accuracy"] == pytest.approx(accuracy)
    again = bootstrap(tallies, 200, seed=3)
    assert again is not None and np.array_equal(again.classes["dice"], found.classes["dice"], equal_nan=True)


def test_few_groups_give_no_interval() -> None:
    tallies = [tally_block(block(seed), OF_CLASSES) for seed in range(5)]
    assert bootstrap(tallies[:2], 100, 0) is None
    for seed in range(2):
        tallies[seed] += tally_block(block(seed, (2,)), OF_CLASSES)
    found = bootstrap(tallies, 100, 0)
    assert found is not None
    assert np.isnan(found.classes["dice"][2]).all()  # two of five have it
    assert not np.isnan(found.classes["dice"][0]).any()


# --- tables -----------------------------------------------------------------------------------------------


def test_a_table_is_blank_where_nothing_is_known() -> None:
    table = section_table(section(2), ())
    lymphocytes = table["classes"][2]
    assert lymphocytes["pixels"] == 0 and lymphocytes["predicted_pixels"] > 0
    assert {lymphocytes[s] for s in ("dice", "iou", "precision", "recall", "mcc", "roc_auc")} == {None}
    assert lymphocytes["specificity"] is None and lymphocytes["dice_mean_over_images"] is None
    assert table["overall_intervals"] is None
    assert "No confidence interval can be given" in table["intervals"] and "is 2" in table["intervals"]
    assert table["class_groups"] is None and table["image_labels"] is None and table["baselines"] == []
    rows = list(csv.DictReader(io.StringIO(table_of({"results": [table]}))))
    named = {row["name"]: row for row in rows}
    assert named["lymphocytic_infiltrate"]["dice"] == "" and named["lymphocytic_infiltrate"]["pixels"] == "0"
    assert float(named["tumor"]["dice"]) == table["classes"][0]["dice"]
    assert named["tumor"]["dice_low"] == ""
    assert float(named["pixel_accuracy"]["accuracy"]) == table["overall"]["pixel_accuracy"]
    sentences = " ".join(explain_rows(table))
    assert "Not in this truth, and so without scores: lymphocytic infiltrate." in sentences
    assert "Predicted nevertheless: lymphocytic infiltrate." in sentences


def test_a_table_pools_pixels_and_also_averages_over_images() -> None:
    assert OF_GROUPS is not None
    of = section(4, (OF_CLASSES, OF_GROUPS))
    table = section_table(of, ())
    whole = of.tallies[0].counts
    for k, row in enumerate(table["classes"]):
        if row["pixels"]:
            assert row["dice"] == pytest.approx(whole.dice[k], abs=1e-4)
            mean = mean_score(np.array([image.counts[0].dice[k] for image in of.images]))
            assert row["dice_mean_over_images"] == pytest.approx(mean, abs=1e-4)
            low, high = row["intervals"]["dice"]
            assert low <= row["dice"] <= high
            assert row["images"] == 4
    groups = table["class_groups"]
    assert [row["name"] for row in groups["classes"]] == ["tumor", "other"]
    assert groups["confusion"]["matrix"] == of.tallies[1].counts.matrix.tolist()
    assert [group["name"] for group in table["per_group"]] == [f"patient {i}" for i in range(4)]
    one = of.by_group["patient 2"][0]
    assert table["per_group"][2]["classes"]["tumor"]["mcc"] == pytest.approx(one.counts.mcc[0], abs=1e-4)
    assert "lymphocytic_infiltrate" not in table["per_group"][2]["classes"]
    rows = list(csv.DictReader(io.StringIO(table_of({"results": [table]}))))
    assert [row["name"] for row in rows if row["kind"] == "group"] == ["tumor", "other"]
    assert float(next(row for row in rows if row["name"] == "stroma")["iou_high"]) > 0


def test_the_same_patient_in_two_data_sets_is_one_group() -> None:
    both = pool([section(2), section(3)], "all")
    assert len(both.by_group) == 3 and len(both.images) == 5 and both.files == 5
    total = both.by_group["patient 1"][0].counts.total
    assert total == 2 * section(2).by_group["patient 1"][0].counts.total


def test_the_sentence_on_accuracy_has_the_numbers_of_the_table() -> None:
    overall = {"pixel_accuracy": 0.55, "one_against_rest_accuracy": 0.957}
    sentence = explain_accuracy({"classes": [{}] * 21, "overall": overall})
    assert "55.0 %" in sentence and "95.7 %" in sentence and "the other 19" in sentence
    assert explain_accuracy({"classes": [{}] * 2, "overall": overall}) == ""
    assert explain_accuracy({"classes": [{}] * 3, "overall": {**overall, "pixel_accuracy": None}}) == ""


def test_image_labels_equal_scikit_learn() -> None:
    names = ("benign", "malignant", "normal")
    random = np.random.default_rng(1)
    truth = random.integers(0, 3, 40)
    probabilities = random.dirichlet(np.ones(3), 40) * 0.7 + 0.3 * np.eye(3)[truth]
    labels = tuple(
        ImageLabel(f"i{n}", f"p{n // 2}", int(t), p)
        for n, (t, p) in enumerate(zip(truth, probabilities, strict=True))
    )
    table = section_table(section(1, labels=labels), names)["image_labels"]
    predicted = probabilities.argmax(1)
    assert table["overall"]["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted), abs=1e-4)
    balanced = sk.balanced_accuracy_score(truth, predicted)
    assert table["overall"]["balanced_accuracy"] == pytest.approx(balanced, abs=1e-4)
    matrix = sk.confusion_matrix(truth, predicted, labels=range(3))
    assert [row[:3] for row in table["confusion"]["matrix"]] == matrix.tolist()
    f1 = sk.f1_score(truth, predicted, average=None)
    for k, row in enumerate(table["classes"]):
        auc = sk.roc_auc_score(truth == k, probabilities[:, k])
        assert (row["f1"], row["roc_auc"]) == pytest.approx((f1[k], auc), abs=1e-4)
    low, high = table["overall_intervals"]["accuracy"]
    assert low < table["overall"]["accuracy"] < high
    assert table["per_image"][0]["truth"] == names[truth[0]]


# --- baselines --------------------------------------------------------------------------------------------


def test_hematoxylin_is_unmixed_and_thresholded() -> None:
    unit = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    amounts = np.zeros((64, 96, 3))
    amounts[:, :48, 0], amounts[:, 48:, 0], amounts[..., 1] = 0.15, 0.6, 0.3
    pixels = np.round(255 * 10 ** -(amounts @ unit)).astype(np.uint8)
    density = hematoxylin_density(pixels, sigma=1)
    assert density[10:-10, 10:38] == pytest.approx(0.15, abs=0.01)
    assert density[10:-10, 58:-10] == pytest.approx(0.6, abs=0.01)
    target = np.zeros((64, 96), np.int16)
    threshold = find_threshold([ArrayRegion("r", "r", pixels, target, 0.5)], 1)
    assert 0.15 < threshold < 0.6
    out = Hematoxylin(4, 2, 1, threshold)(pixels[None])[0]
    assert out.sum(0) == pytest.approx(1)
    assert (out.argmax(0)[:, 58:] == 2).all() and (out.argmax(0)[:, :38] != 2).all()
    assert out[2, 30, 70] == pytest.approx(0.6 / (0.6 + threshold), abs=0.02)


def test_without_stain_nothing_is_called() -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    threshold = find_threshold([ArrayRegion("r", "r", white, np.zeros((32, 32), np.int16), 0.5)], 1)
    assert (Hematoxylin(2, 0, 1, threshold)(white[None])[0].argmax(0) == 1).all()


def test_everything_is_the_class() -> None:
    out = Everything(4, 3)(np.zeros((2, 32, 64, 3), np.uint8))
    assert out.shape == (2, 4, 32, 64) and (out[:, 3] == 1).all() and out.sum() == out[:, 3].sum()


def test_baselines_are_parsed_or_refused() -> None:
    asked = parse_baseline("hematoxylin=Tumour:0.25", CARD)
    assert asked == Baseline("hematoxylin", "tumor", 0, 0.25)
    assert parse_baseline("everything=stroma", CARD).name == "everything=stroma"
    for text, words in {
        "everything": "everything=CLASS",
        "everything=tumor:1": "everything=CLASS",
        "nothing=tumor": "everything=CLASS",
        "everything=tumr": "tumor",
        "hematoxylin=tumor:x": "positive optical density",
        "hematoxylin=tumor:-1": "positive optical density",
    }.items():
        with pytest.raises(UsageError, match=words):
            parse_baseline(text, CARD)


# --- the page and the log ---------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects tags, addresses and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_escaped_and_asks_for_nothing() -> None:
    table = section_table(section(3), ())
    table["name"] = "<script>alert(1)</script>"
    metrics = {
        "model": {"name": "<b>m</b>", "version": "1", "digest": "0", "notice": "a & b", "training_data": "",
                  "mpp": 0.5, "device": "cpu", "tta": True},
        "data": {"part": "test", "datasets": []},
        "started": "now", "seconds": 1.0, "versions": {"numpy": "2"}, "command": None, "results": [table],
    }  # fmt: skip
    page = Reader()
    page.feed(render_report(metrics, []))
    assert "script" not in page.tags and page.addresses == []
    assert "<script>alert(1)</script>" in page.text and "Evaluation of <b>m</b>" in page.text
    assert "a & b" in page.text and "undefined" not in page.text.lower()


def test_training_curves_are_means_over_epochs(tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    log.write_text("dice,epoch,loss,step,validation_dice,validation_loss\n.2,0,3,0,,\n.4,0,1,1,,\n"
                   ",0,,1,.5,2\n.1,1,1,2,,\n,1,,2,.6,1.5\n")  # fmt: skip
    curves = read_curves(log)
    assert curves["loss"] == {0: 2, 1: 1} and curves["validation_dice"] == {0: 0.5, 1: 0.6}
    assert "step" not in curves
    assert draw_training(curves).startswith(b"\x89PNG")
    log.write_text("epoch,loss\nx,1\n")
    with pytest.raises(ModelError, match=r"metrics\.csv: the log"):
        read_curves(log)
