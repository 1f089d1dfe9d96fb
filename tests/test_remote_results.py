"""Results on S3: the bytes of local ones, whole exactly when the manifest is there, nothing sent twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import wsi_seg.pipeline.run
from tests.made.progress import StopAfter
from tests.made.slides import SlideSpec, make_slide
from tests.servers import BUCKET, Traffic, s3_server
from tests.test_remote import DARKNESS, SETTINGS, put, tree
from wsi_seg.cli import app
from wsi_seg.core.errors import Interrupted, OutputError
from wsi_seg.core.geometry import Size
from wsi_seg.pipeline.result import Result
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RegionSettings, RunSettings
from wsi_seg.results.files import MANIFEST

OUT = f"s3://{BUCKET}/out"
NOT_COMPARED = {MANIFEST, "summary.json", "report.html"}  # which hold times


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_slide(
        tmp_path_factory.mktemp("slide") / "made.svs", SlideSpec(Size(1280, 640), mpp=0.5, tissue=0.5)
    )


@pytest.fixture(scope="module")
def quiet(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes by name of the files that a run into a local folder leaves."""
    return tree(Path(segment_slide(slide, tmp_path_factory.mktemp("quiet"), DARKNESS, SETTINGS).folder))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    with s3_server(monkeypatch) as traffic:
        yield traffic


@pytest.fixture
def staged(tmp_path: Path) -> RunSettings:
    return replace(SETTINGS, staging=str(tmp_path / "staging"))


def fetched(folder: Path) -> dict[str, str]:
    import s3fs

    s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True).get(
        f"{BUCKET}/out/made", str(folder), recursive=True
    )
    return tree(folder)


def compared(names: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in names.items() if name not in NOT_COMPARED}


def run(slide: Path, settings: RunSettings, progress: Any = None) -> Result:
    return segment_slide(slide, OUT, DARKNESS, settings, progress)


def test_results_on_s3_have_the_bytes_of_local_ones(
    s3: Traffic, slide: Path, quiet: dict[str, str], staged: RunSettings, tmp_path: Path
) -> None:
    result = run(slide, staged)
    assert (result.status, result.folder) == ("done", f"{OUT}/made")
    assert s3.puts()[-1].endswith("/out/made/manifest.json")
    assert len(s3.puts()) == len(set(s3.puts())) == len(quiet)
    there = fetched(tmp_path / "there")
    assert there.keys() == quiet.keys()
    assert compared(there) == compared(quiet)
    assert list((tmp_path / "staging").iterdir()) == []

    s3.reset()
    watch = StopAfter()
    again = run(slide, staged, watch)
    assert (again.status, again.summary, watch.started) == ("skipped", result.summary, False)
    assert [path.rsplit("/", 1)[1] for method, path in s3.requests if method == "GET"] == [
        "manifest.json",
        "summary.json",
    ]
    assert s3.puts() == []


def test_an_interrupted_run_and_an_interrupted_upload_go_on(
    s3: Traffic, slide: Path, quiet: dict[str, str], staged: RunSettings, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run(slide, staged, StopAfter(2))
    assert s3.puts() == []
    s3.puts_left = 7
    with pytest.raises(OutputError, match=r"^s3://slides/out/made: no permission") as error:
        run(slide, staged)
    assert "\n" not in str(error.value)
    half = fetched(tmp_path / "half")
    assert 0 < len(half) < len(quiet) and MANIFEST not in half
    s3.puts_left = None
    # One of the files is another now, of the same size.
    name = next(iter(half))
    altered = tmp_path / "altered"
    altered.write_bytes(bytes((tmp_path / "half" / name).stat().st_size))
    put(altered, f"out/made/{name}")
    s3.reset()
    watch = StopAfter()
    result = run(slide, staged, watch)
    assert (result.status, watch.started) == ("skipped", False)
    assert len(s3.puts()) == len(quiet) - len(half) + 1
    assert s3.puts()[-1].endswith("/manifest.json")
    assert compared(fetched(tmp_path / "whole")) == compared(quiet)
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_file_that_the_store_cuts_keeps_the_manifest_back(
    s3: Traffic,
    slide: Path,
    quiet: dict[str, str],
    staged: RunSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import s3fs

    real = s3fs.S3FileSystem._put_file

    async def cut(store: Any, local: str, there: str, **options: Any) -> None:
        await real(store, local, there, **options)
        if there.endswith("/polygons.geojson"):
            await store._pipe_file(there, Path(local).read_bytes()[:-1])

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_put_file", cut)
        with pytest.raises(OutputError) as error:
            run(slide, staged)
    (size,) = [path.stat().st_size for path in (tmp_path / "staging").glob("*/made/polygons.geojson")]
    assert str(error.value) == (
        f"{OUT}/made/polygons.geojson: {size - 1} of {size} bytes are stored; run again"
    )
    assert not [path for path in s3.puts() if path.endswith(MANIFEST)]
    s3.reset()
    assert run(slide, staged).status == "skipped"
    assert [path.rsplit("/", 1)[1] for path in s3.puts()] == ["polygons.geojson", MANIFEST]
    assert compared(fetched(tmp_path / "there")) == compared(quiet)


def test_other_results_are_refused_or_replaced_as_a_whole(
    s3: Traffic, slide: Path, staged: RunSettings, tmp_path: Path
) -> None:
    run(slide, staged)
    other = replace(staged, regions=RegionSettings(groups=(), classes=("rest",)))
    with pytest.raises(OutputError, match=f"^{OUT}/made: holds results of another.*--overwrite"):
        run(slide, other)
    put(slide, "out/made/polygons.geojson.gz")  # as an earlier, larger result would leave it
    s3.reset()
    replaced = run(slide, replace(other, overwrite=True))
    assert list(replaced.summary["regions"]) == ["rest"]
    there = fetched(tmp_path / "there")
    assert "polygons.geojson.gz" not in there
    assert json.loads((tmp_path / "there" / MANIFEST).read_text())["settings"]["overwrite"] is True
    # Between the two there was no manifest, and the maps, which are the same, were not sent again.
    changes = [(method, path) for method, path in s3.requests if method in ("PUT", "DELETE")]
    assert changes[0] == ("DELETE", f"/{BUCKET}/out/made/{MANIFEST}")
    assert changes[-1] == ("PUT", f"/{BUCKET}/out/made/{MANIFEST}")
    assert not any("maps.zarr" in path for _, path in changes)


def test_what_others_have_put_there_meanwhile_is_seen_and_stays(
    s3: Traffic, staged: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = make_slide(tmp_path / "made.svs", SlideSpec(Size(256, 256), mpp=0.5))
    elsewhere = replace(staged, staging=str(tmp_path / "of another machine"))

    def beaten(name: str) -> None:
        """Let another run, from its first look to its end, come first where this one calls a function."""
        real = getattr(wsi_seg.pipeline.run, name)

        def late(*arguments: Any) -> Any:
            monkeypatch.setattr(wsi_seg.pipeline.run, name, real)
            run(slide, elsewhere)
            s3.reset()
            return real(*arguments)

        monkeypatch.setattr(wsi_seg.pipeline.run, name, late)

    def untouched() -> bool:
        return not [method for method, _ in s3.requests if method in ("PUT", "DELETE")]

    beaten("write_slide_page")
    with pytest.raises(OutputError, match="another run has put results there meanwhile; run again"):
        run(slide, staged)
    assert untouched()
    assert run(slide, staged).status == "skipped"

    # Nothing else is replaced either.
    other = make_slide(tmp_path / "other.svs", SlideSpec(Size(512, 256), mpp=0.5, tissue=1.0))
    s3.reset()
    for name, words in (("made", "another slide"), ("made/x/other", f"{OUT}/made: holds the results of a")):
        with pytest.raises(OutputError, match=words):
            segment_slide(other, OUT, DARKNESS, replace(staged, overwrite=True), name=name)
    assert untouched()
    put(slide, "out/made/maps.zarr/labels/mine/zarr.json")
    with pytest.raises(OutputError, match=r"holds maps\.zarr/labels/mine/zarr\.json, which is no result"):
        run(slide, replace(staged, overwrite=True))

    slide = slide.rename(tmp_path / "second.svs")  # before the claim, another run has done it
    beaten("claimed")
    watch = StopAfter()
    assert run(slide, staged, watch).status == "skipped"
    assert not watch.started and untouched()


def test_foreign_objects_are_left_alone(s3: Traffic, slide: Path, staged: RunSettings) -> None:
    put(slide, "out/made/thesis.txt")
    for settings in (staged, replace(staged, overwrite=True)):
        s3.reset()
        with pytest.raises(OutputError, match=r"holds thesis\.txt, which is no result of wsi-seg"):
            run(slide, settings)
        assert not [method for method, _ in s3.requests if method in ("PUT", "DELETE")]


def test_places_that_take_no_results(s3: Traffic, slide: Path, staged: RunSettings) -> None:
    for out, words in (
        ("https://host/out", "web server"),
        ("ftp://host/out", "unknown scheme 'ftp'"),
        ("s3://no-such-bucket/out", "there is no bucket no-such-bucket"),
    ):
        with pytest.raises(OutputError, match=f"^{out}.*{words}") as error:
            segment_slide(slide, out, DARKNESS, staged)
        assert "\n" not in str(error.value)


def test_from_s3_to_s3_on_the_command_line(
    s3: Traffic, slide: Path, tiny_model: Path, tmp_path: Path
) -> None:
    url = put(slide, "in/sample.svs")
    words = ["run", url, "-o", OUT, "-m", str(tiny_model), "--device", "cpu", "--staging", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["folder"] == f"{OUT}/sample"
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0
    assert f"skipped, whole results are in {OUT}/sample" in again.stdout
