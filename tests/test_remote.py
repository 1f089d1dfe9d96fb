"""Slides behind URLs: facts, pixels and results of local ones, few bytes, and one line for each fault."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.made.pyramids import write_pyramid
from tests.made.slides import SlideSpec, make_slide
from tests.processes import corner
from tests.servers import BUCKET, Traffic, s3_server, web_server
from tests.test_tiled_tiff import MAKERS
from wsi_seg.cli import app
from wsi_seg.core.card import CardClass, CardGroup, ModelCard
from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.core.storage import GAP_BYTES, REQUEST_BYTES, merge, open_remote
from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.pipeline.models import Model
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.plan import ModelFacts, PlanSettings
from wsi_seg.results.files import MAPS, POLYGONS
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import default_name
from wsi_seg.testing.readers import CHECKS

CARD = ModelCard(
    name="dark",
    encoder="none",
    classes=(
        CardClass(code=1, name="tumor", color=(200, 0, 0)),
        CardClass(code=2, name="rest", color=(0, 0, 200)),
    ),
    groups=(CardGroup(name="tumor", codes=(1,), color=(200, 0, 0)),),
    mpp=0.5,
    tile=128,
)
DARKNESS = Model(ModelFacts(CARD, "0" * 64, 0), PredictorRecipe("tests.made.predictors:darkness"))
SETTINGS = RunSettings(plan=PlanSettings(block=512, overlap=32))


def write_mostly_glass(path: Path) -> Path:
    """Write a slide of 10240 × 10240 pixels with 1 % of tissue, whose empty glass takes no fewer bytes."""
    rng = np.random.default_rng(8)
    noise = rng.integers(0, 2, (256, 256, 3), np.uint8) * np.uint8([0, 9, 0])
    glass, tissue = noise + np.uint8([245, 240, 245]), noise + np.uint8([140, 60, 150])
    mixed = glass.copy()
    mixed[:64, :64] = tissue[:64, :64]
    stored = [zlib.compress(tile.tobytes(), 1) for tile in (glass, tissue, mixed)]

    def tiles(factor: int) -> Iterator[bytes]:
        whole, corner = range(16 // factor, 20 // factor), 16 // factor if factor == 16 else -1
        side = -(-40 // factor)
        for row in range(side):
            for column in range(side):
                yield stored[2 if row == column == corner else int(row in whole and column in whole)]

    with tifffile.TiffWriter(path) as writer:
        for factor in (1, 4, 16):
            writer.write(
                tiles(factor),
                shape=(10240 // factor, 10240 // factor, 3),
                dtype=np.uint8,
                tile=(256, 256),
                photometric="rgb",
                compression="adobe_deflate",
                subfiletype=1 if factor > 1 else 0,
                resolution=(2e4 / factor, 2e4 / factor),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def glass(folder: Path) -> Path:
    return write_mostly_glass(folder / "glass.tiff")


@pytest.fixture
def web(folder: Path) -> Iterator[tuple[str, Traffic]]:
    with web_server(folder) as served:
        yield served


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    with s3_server(monkeypatch) as traffic:
        yield traffic


def put(path: Path, key: str) -> str:
    import s3fs

    s3fs.S3FileSystem().put_file(str(path), f"{BUCKET}/{key}")
    return f"s3://{BUCKET}/{key}"


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- the same as a local slide --------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_facts_and_pixels_are_those_of_a_local_copy(
    kind: str, folder: Path, web: tuple[str, Traffic]
) -> None:
    path = folder / f"{kind}.tiff"
    MAKERS[kind](path)
    url = f"{web[0]}/{path.name}"
    with open_slide(path) as local, open_slide(url) as remote:
        assert local.info.reader == "tiff"
        assert remote.info == replace(local.info, path=url)
        for level, facts in enumerate(local.info.levels):
            box = Box(-5, 7, min(411, facts.size.width + 9), min(333, facts.size.height + 9))
            assert np.array_equal(remote.read_level(level, box), local.read_level(level, box))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_remote_slides_keep_the_contract(check: Any, web: tuple[str, Traffic], glass: Path) -> None:
    check(lambda: open_slide(f"{web[0]}/{glass.name}"))


def test_what_the_fast_reader_leaves_is_read_by_tiffslide(folder: Path, web: tuple[str, Traffic]) -> None:
    path = make_slide(folder / "leica.scn", SlideSpec(Size(3000, 2600), bounds=Box(256, 512, 2560, 2304)))
    with open_slide(f"{web[0]}/leica.scn") as remote, open_slide(path, reader="tiffslide") as local:
        assert remote.info == replace(local.info, path=remote.info.path)
        box = Box(200, 400, 900, 1000)
        assert np.array_equal(remote.read_level(0, box), local.read_level(0, box))


def test_a_run_from_s3_reads_little_and_gives_the_bytes_of_a_local_one(
    s3: Traffic, glass: Path, tmp_path: Path
) -> None:
    url = put(glass, "deep/er/glass.tiff")
    quiet = segment_slide(glass, tmp_path / "local", DARKNESS, SETTINGS)
    s3.reset()
    far = segment_slide(url, tmp_path / "far", DARKNESS, SETTINGS)
    assert quiet.summary["regions"]["tumor"]["count"] == far.summary["regions"]["tumor"]["count"] == 1
    assert tree(far.folder / MAPS) == tree(quiet.folder / MAPS)
    for name in (POLYGONS, "overview.png"):
        assert (far.folder / name).read_bytes() == (quiet.folder / name).read_bytes()
    manifests = [json.loads((result.folder / "manifest.json").read_text()) for result in (far, quiet)]
    assert manifests[0]["slide"].pop("path") == url
    assert manifests[1]["slide"].pop("path") == str(glass)
    for manifest in manifests:
        del manifest["started"], manifest["finished"], manifest["request"], manifest["content"]
    assert manifests[0] == manifests[1]
    assert s3.bytes_sent < 0.2 * glass.stat().st_size
    # Tiles lie side by side: far fewer requests than the hundreds of tiles that were read.
    assert len(s3.requests) < 60


def test_other_processes_open_the_same_url(s3: Traffic, glass: Path) -> None:
    url = put(glass, "glass.tiff")
    expected = corner(str(glass))
    assert corner(url) == expected  # the parent has connections open, too
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(corner, [url, url])) == [expected, expected]


def test_another_file_under_the_same_url_is_seen(web: tuple[str, Traffic], folder: Path) -> None:
    path, url = folder / "changing.tiff", f"{web[0]}/changing.tiff"
    for value in (10, 200):
        write_pyramid(path, np.full((300, 300, 3), value, np.uint8), Scale(0.5, 0.5), factors=(1,))
        with open_slide(url) as slide:
            assert (slide.read_level(0, Box(0, 0, 9, 9)) == value).all()


# --- requests -------------------------------------------------------------------------------------

PIECES = st.lists(
    st.tuples(st.integers(0, 10 * REQUEST_BYTES), st.integers(1, 2 * REQUEST_BYTES)).map(
        lambda piece: (piece[0], sum(piece))
    ),
    max_size=30,
)


@given(PIECES)
def test_every_piece_lies_in_one_request(pieces: list[tuple[int, int]]) -> None:
    spans = merge(pieces)
    assert spans == sorted(spans)
    assert all(any(a <= start and stop <= b for a, b in spans) for start, stop in pieces)
    for start, stop in spans:
        inside = sorted(piece for piece in pieces if start <= piece[0] and piece[1] <= stop)
        assert (start, stop) == (inside[0][0], max(last for _, last in inside))
        assert stop - start <= REQUEST_BYTES or (start, stop) in pieces
        for number, (first, _) in enumerate(inside[1:], start=1):
            assert first - max(last for _, last in inside[:number]) < GAP_BYTES


def test_cut_answers_are_asked_for_again(web: tuple[str, Traffic], s3: Traffic, glass: Path) -> None:
    data = glass.read_bytes()
    pieces = [(at, at + 150_000) for at in (0, 400_000, 5_000_000)]
    for url, traffic in ((f"{web[0]}/{glass.name}", web[1]), (put(glass, "cut.tiff"), s3)):
        file = open_remote(url)
        traffic.truncate = 4
        assert file.read_pieces(pieces) == [data[start:stop] for start, stop in pieces]
        assert traffic.truncate == 0


def test_answers_that_stay_cut_are_an_error(
    web: tuple[str, Traffic], glass: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_seg.core.storage.PAUSE_SECONDS", 0.001)
    with open_slide(f"{web[0]}/{glass.name}") as slide:
        web[1].truncate = 1000
        with pytest.raises(SlideError, match="4 attempts") as error:
            slide.read_level(0, Box(6000, 6000, 6200, 6200))
        assert glass.name in str(error.value) and "\n" not in str(error.value)
        web[1].truncate = 0
        assert slide.read_level(0, Box(6000, 6000, 6200, 6200)).mean() > 200


# --- faults ---------------------------------------------------------------------------------------


def refusal(url: str, *words: str) -> str:
    """Return the one line that `wsi-seg info` ends with."""
    done = CliRunner().invoke(app, ["info", url, *words])
    assert done.exit_code in (1, 2), done.output
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and url in lines[0], done.stderr
    return lines[0]


def test_faults_of_a_web_server(web: tuple[str, Traffic], folder: Path, glass: Path) -> None:
    address, traffic = web
    (folder / "empty.svs").write_bytes(b"")
    (folder / "plain.png").write_bytes(b"\x89PNG" + bytes(500))
    url = f"{address}/{glass.name}"
    assert "no such file" in refusal(f"{address}/absent.svs")
    assert "is empty" in refusal(f"{address}/empty.svs")
    assert "--cache DIR" in refusal(f"{address}/plain.png")
    assert "--cache DIR" in refusal(url, "--reader", "openslide")
    traffic.ranges = False
    line = refusal(url)
    assert "no parts of files" in line and "--cache DIR" in line
    assert traffic.bytes_sent < glass.stat().st_size  # a slide is not sent to find that out
    traffic.sizes = False
    assert "size" in refusal(url)
    traffic.refuse = 403
    assert "no permission" in refusal(url) and "docs/cloud.md" in refusal(url)
    traffic.refuse = 500
    assert "cannot be reached or read" in refusal(url)


def test_faults_of_s3(s3: Traffic, glass: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = put(glass, "folder/glass.tiff")
    assert "no such file" in refusal(f"s3://{BUCKET}/absent.svs")
    assert "no such file" in refusal("s3://no-such-bucket/glass.tiff")
    assert "several files" in refusal(f"s3://{BUCKET}/folder")
    s3.refuse = 403
    line = refusal(url)
    assert "no permission" in line and "docs/cloud.md" in line
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    assert "no permission" in refusal(url)


def test_wrong_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refusal("ftp://host/slide.svs")
    assert "'ftp'" in line and "s3" in line
    assert "cannot be reached" in refusal("http://127.0.0.1:1/slide.svs")
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    assert "account_name" in refusal("az://container/slide.svs")


def test_a_missing_package_is_named() -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(["s3fs", "gcsfs", "adlfs", "aiohttp"]))
from wsi_seg.core.errors import SlideError
from wsi_seg.slides.readers import open_slide
for scheme in ("s3", "gs", "az", "https"):
    try:
        open_slide(f"{scheme}://host/slide.svs")
    except SlideError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    for package, line in zip(("s3fs", "gcsfs", "adlfs", "aiohttp"), lines, strict=True):
        assert package in line and line.endswith("pip install 'wsi-seg[cloud]'"), done.stderr


def test_local_slides_wait_for_no_fsspec(sample_svs: Path) -> None:
    code = (
        "import sys\nfrom wsi_seg.cli import main\ntry:\n    main()\n"
        "finally:\n    print([name for name in ('fsspec', 'aiohttp', 's3fs') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "info", str(sample_svs)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_names_leave_out_signatures() -> None:
    assert default_name("https://h/a%20b/c%20d.svs?X-Amz-Signature=1/2") == "c d"
    assert default_name("s3://bucket/a/b.c.tiff") == "b.c"
