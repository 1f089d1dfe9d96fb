"""Tables of the leave-one-patient-out script, and folds that are not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts import leave_one_patient_out as script
from wsi_seg.evaluation.calibration import BINS, TEMPERATURES
from wsi_seg.training.config import TrainConfig

CONFIG = TrainConfig(
    model={"name": "made"},
    datasets=[{"kind": "bcss", "name": name, "folder": name, "mpp": 0.5} for name in ("A", "B")],
    steps_per_epoch=1,
)


def fold(name: str, seed: int, mcc: float, best: int) -> dict:
    """Return a fold whose loss is least at the temperature of index `best`."""
    bins = np.zeros((len(TEMPERATURES), BINS, 3))
    bins[:, -1] = [100, 90, 80]
    bins[best, -1] = [100, 90, 90]
    loss = np.abs(np.arange(len(TEMPERATURES)) - best) + 1.0
    scores = {"dice": 0.5, "mcc": mcc, "roc_auc": 0.9, "precision": None, "recall": 0.5}
    return {
        "left_out": name,
        "seed": seed,
        "config": script.digest(script.left_out(CONFIG, name, seed)),
        "assessed": ["tumor", "stroma"],
        "classes": {"tumor": {"share": 0.4, **scores}, "fat": {"share": 0.1, **scores}},
        "painted": {"tumor": 0.5, "necrosis_or_debris": 0.02 * (seed + 1)},
        "scores": {script.MODEL: scores, "everything=tumor": scores},
        "reliability": {"bins": bins.tolist(), "loss": loss.tolist()},
    }


def test_tables_give_means_and_the_spread_of_seeds() -> None:
    folds = [fold("A", 0, 0.6, 12), fold("A", 1, 0.8, 12), fold("B", 0, 0.5, 16), fold("B", 1, 0.5, 16)]
    text = script.tables_of(folds, "tumor")
    assert "| A | this model | 2 | 0.500 ± 0.000 | 0.700 ± 0.141 | 0.900 ± 0.000 |  |" in text
    assert "| mean | this model |  | 0.500 | 0.600 | 0.900 |  | 0.500 |" in text
    assert "| A | fat | 10.0% | not assessed |  |  |  |  |" in text
    assert "| A | 50.0 % ± 0.0 | **3.0 % ± 1.4** |" in text
    # Each patient gets the temperature of the other.
    crossed, own = TEMPERATURES[16], TEMPERATURES[12]
    assert f"| A | {crossed:.2f} | 0.100 ± 0.000 | 0.100 ± 0.000 |" in text
    assert f"| B | {own:.2f} | 0.100 ± 0.000 | 0.100 ± 0.000 |" in text
    assert script.calibration_errors(folds[0], own) == pytest.approx((0.1, 0.0))
    assert script.crossed_temperature(folds[:2], "A") == 1.0


def test_finished_folds_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "read_train_config", lambda path: CONFIG)
    asked = []

    def run_fold(config: TrainConfig, name: str, out: Path, class_name: str) -> dict:
        asked.append((name, config.seed))
        return fold(name, config.seed, 0.5, 12)

    monkeypatch.setattr(script, "run_fold", run_fold)
    (tmp_path / "A-seed0.json").write_text(json.dumps(fold("A", 0, 0.6, 12)))
    command = ["script", "config.yaml", str(tmp_path), "--seeds", "0", "1"]
    for expected in ([("B", 0), ("A", 1), ("B", 1)], []):
        asked.clear()
        monkeypatch.setattr("sys.argv", command)
        script.main()
        assert asked == expected
    assert (tmp_path / "summary.md").read_text() == script.tables_of(
        [json.loads((tmp_path / f"{n}-seed{s}.json").read_text()) for s in (0, 1) for n in ("A", "B")],
        "tumor",
    ) + "\n"
    other = CONFIG.model_copy(update={"epochs": 3})
    monkeypatch.setattr(script, "read_train_config", lambda path: other)
    with pytest.raises(SystemExit):
        script.main()


def test_a_fold_is_known_by_what_decides_it(tmp_path: Path) -> None:
    one = script.left_out(CONFIG, "A", 0)
    assert {d.name: d.split.test for d in one.datasets} == {"A": 1.0, "B": 0.0}
    moved = one.model_copy(update={"data_dir": tmp_path, "threads": 7})
    assert script.digest(moved) == script.digest(one)
    assert script.digest(script.left_out(CONFIG, "A", 1)) != script.digest(one)
