"""The memory of activations is found once for each model and version, and kept where that is possible."""

from __future__ import annotations

from pathlib import Path

import pytest

import wsi_seg
from wsi_seg.inference.models.activations import kept_activations


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "wsi_seg" / "activations" / "some.json"


def never() -> float:
    raise AssertionError("it was kept")


def test_what_was_found_is_kept(cache: Path) -> None:
    assert kept_activations("some", lambda: 123.5) == 123.5
    assert kept_activations("some", never) == 123.5
    assert kept_activations("other", lambda: 7.0) == 7.0
    assert sorted(path.name for path in cache.parent.iterdir()) == ["other.json", "some.json"]


def test_another_version_and_a_damaged_file_are_found_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_activations("some", lambda: 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(wsi_seg, "__version__", "99")
        assert kept_activations("some", lambda: 2.0) == 2.0
    for text in ("", "[]", "{}", '{"versions": 3}'):
        cache.write_text(text)
        assert kept_activations("some", lambda: 3.0) == 3.0
        assert kept_activations("some", never) == 3.0


def test_a_folder_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept_activations("some", lambda: 4.0) == 4.0
    assert kept_activations("some", lambda: 5.0) == 5.0
