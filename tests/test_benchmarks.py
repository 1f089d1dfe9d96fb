"""What the benchmarks conclude from their figures, and how they measure a process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks import processes
from benchmarks.comparison import agreement, figures, medians, table, verdict, with_ratios
from benchmarks.processes import watch

MIB = 2**20


def test_labels_are_compared_in_tissue_alone() -> None:
    labels = np.array([[1, 2], [3, 0]], np.uint8)
    others = np.array([[1, 2], [4, 9]], np.uint8)
    tissue = np.array([[True, True], [True, False]])
    assert agreement(labels, others, tissue) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no tissue"):
        agreement(labels, others, ~np.ones_like(tissue))


def test_ratios_say_how_much_more_the_others_take() -> None:
    ours = figures(12.0, 10.0, [(0.0, 100 * MIB), (1.0, 200 * MIB), (2.0, 50 * MIB)], tiles=20)
    assert ours["startup_seconds"] == 2.0 and ours["tiles_per_second"] == 2.0 and ours["peak_mib"] == 200.0
    slow = figures(150.0, 130.0, [(0.0, 1000 * MIB)], tiles=20)
    rows = {"ours": {**ours, "agreement": 1.0}, "slow": {**slow, "agreement": 0.995}}
    ratios = with_ratios(rows, "ours")
    assert ratios == {"slow": {"seconds": 13.0, "peak_mib": 5.0}}
    lines = table(rows, "ours").splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {10}
    assert "| 99.500% | 13.00 | 5.00 |" in lines[-1] and "| 1.00 | 1.00 |" in lines[-2]
    said = verdict("slow", ratios["slow"], ceiling=20.0)
    assert "13.0 times the time (to show: 12, met)" in said
    assert "5.0 times the memory (to show: 8, not met)" in said


def test_what_ran_out_of_memory_has_no_ratio() -> None:
    ours = {**figures(2.0, 1.0, [(0.0, MIB)], tiles=1), "agreement": 1.0}
    rows = {"ours": ours, "large": {"out_of_memory_seconds": 90.0, "peak_mib": 9000.0}}
    assert with_ratios(rows, "ours") == {}
    assert table(rows, "ours").splitlines()[-1] == "| large | out of memory after 90 | | | | 9000 | | | |"


def test_rounds_are_summed_up_by_their_medians() -> None:
    rounds = [{"a": {"seconds": value}} for value in (3.0, 1.0, 2.0)]
    rounds[1]["b"] = {"seconds": 1.0}  # not in every round
    assert medians(rounds) == {"a": {"seconds": 2.0}}


def test_memory_is_that_of_the_children_too(tmp_path: Path) -> None:
    child = f"import time; held = bytearray({120 * MIB}); time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    start, end, memory = watch([sys.executable, "-c", parent], tmp_path / "log")
    assert end - start >= 0.5
    assert max(size for _, size in memory) > 120 * MIB


def test_a_process_is_ended_before_it_takes_all_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "RESERVE", psutil.virtual_memory().total)
    before = psutil.Process().children()
    with pytest.raises(processes.OutOfMemory, match="ran out of memory"):
        watch([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    assert set(psutil.Process().children()) <= set(before)


def test_a_process_that_fails_ends_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"exit code 3:\nsaid before"):
        watch([sys.executable, "-c", "print('said before'); raise SystemExit(3)"], tmp_path / "log")
