"""The cache of whole slides: fetched once, never larger than allowed, nothing in use is lost."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.made.slides import SlideSpec, make_slide
from tests.processes import NAMES, SIZE, abandon, content, use_in_turn
from tests.servers import Traffic, web_server
from tests.test_remote import DARKNESS, SETTINGS, tree
from wsi_seg.cli import app
from wsi_seg.core.errors import OutputError, SlideError
from wsi_seg.core.geometry import Box, Size
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.results.files import MAPS, POLYGONS
from wsi_seg.slides.local_copies import LOCK, OWN, SlideCache
from wsi_seg.slides.readers import open_slide


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(content(number))
    return folder


@pytest.fixture
def web(folder: Path) -> Iterator[tuple[str, Traffic]]:
    with web_server(folder) as served:
        yield served


def kept(folder: Path) -> list[str]:
    """Return the names of the cached files, without their hashes."""
    return sorted(path.name.partition("-")[2] for path in (folder / OWN).iterdir() if path.name != LOCK)


def total(folder: Path) -> int:
    sizes = []
    for path in folder.glob(f"{OWN}/*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)


def touch(cache: SlideCache, url: str) -> None:
    with cache.lease(url):
        pass


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_file_is_fetched_once(web: tuple[str, Traffic], folder: Path, tmp_path: Path, ranges: bool) -> None:
    address, traffic = web
    traffic.ranges = ranges
    cache = SlideCache(str(tmp_path / "new" / "cache"), 10 * SIZE)

    def use(_: int) -> bytes:
        with cache.lease(f"{address}/a.bin?signature=x") as path:
            assert path.suffix == ".bin"
            return path.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(use, range(8))) == {(folder / "a.bin").read_bytes()}
    gets = [path for method, path in traffic.requests if method == "GET"]
    assert traffic.bytes_sent < 1.5 * SIZE if ranges else len(gets) <= 9
    assert kept(tmp_path / "new" / "cache") == ["a.bin"]


def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(
    web: tuple[str, Traffic], tmp_path: Path
) -> None:
    a, b, c, d = (f"{web[0]}/{name}" for name in NAMES)
    cache = SlideCache(str(tmp_path), 3 * SIZE)
    for url in (a, b, c, a):
        touch(cache, url)
    assert kept(tmp_path) == ["a.bin", "b.bin", "c.bin"]
    touch(cache, d)
    assert kept(tmp_path) == ["a.bin", "c.bin", "d.bin"]
    with ExitStack() as stack:
        held = [stack.enter_context(cache.lease(url)) for url in (a, c)]
        touch(cache, b)  # d, not the older c, makes room
        assert kept(tmp_path) == ["a.bin", "b.bin", "c.bin"]
        stack.enter_context(cache.lease(b))
        with pytest.raises(SlideError, match=r"d\.bin: .*no room.*--cache-size"):
            touch(cache, d)
        assert all(path.stat().st_size == SIZE for path in held)
    touch(cache, d)
    assert kept(tmp_path) == ["b.bin", "c.bin", "d.bin"]


def test_what_does_not_fit_is_refused_before_anything_is_fetched(
    web: tuple[str, Traffic], tmp_path: Path
) -> None:
    with pytest.raises(SlideError, match=r"more than the whole cache.*raise --cache-size"):
        touch(SlideCache(str(tmp_path), SIZE - 1), f"{web[0]}/a.bin")
    assert web[1].bytes_sent <= 1
    with pytest.raises(OutputError, match="choose another folder"):
        (tmp_path / "file").write_text("")
        touch(SlideCache(str(tmp_path / "file"), SIZE), f"{web[0]}/a.bin")


def test_a_cut_fetch_leaves_nothing(web: tuple[str, Traffic], tmp_path: Path) -> None:
    web[1].ranges = False
    cache = SlideCache(str(tmp_path), 3 * SIZE)
    web[1].truncate = 2  # one for the question whether ranges are served
    with pytest.raises(SlideError, match=r"a\.bin"):
        touch(cache, f"{web[0]}/a.bin")
    assert kept(tmp_path) == []
    web[1].truncate = 0
    touch(cache, f"{web[0]}/a.bin")


def test_the_rest_of_a_killed_fetch_is_taken_over_or_makes_room(
    web: tuple[str, Traffic], folder: Path, tmp_path: Path
) -> None:
    cache = SlideCache(str(tmp_path), SIZE)
    context = multiprocessing.get_context("spawn")
    for url in (f"{web[0]}/b.bin", f"{web[0]}/a.bin"):
        process = context.Process(target=abandon, args=(cache, f"{web[0]}/a.bin"))
        process.start()
        process.join()
        assert process.exitcode == 9 and kept(tmp_path) == ["a.bin.part"]
        with cache.lease(url) as path:
            assert path.read_bytes() == (folder / url[-5:]).read_bytes()
            assert kept(tmp_path) == [url[-5:]]


def test_two_processes_share_a_cache_that_never_grows_too_large(
    web: tuple[str, Traffic], tmp_path: Path
) -> None:
    cache = SlideCache(str(tmp_path), 5 * SIZE // 2)  # two of the four files
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        users = [pool.submit(use_in_turn, cache, web[0], seed) for seed in (1, 2)]
        largest = 0
        while not all(user.done() for user in users):
            largest = max(largest, total(tmp_path))
            time.sleep(0.001)
        assert [user.result() for user in users] == [[], []]
    assert SIZE <= largest <= cache.size
    assert len(kept(tmp_path)) == 2


def test_slides_of_any_reader_come_from_the_cache(
    web: tuple[str, Traffic], folder: Path, sample_svs: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)).save(folder / "p.png")
    (folder / "sample.svs").write_bytes(sample_svs.read_bytes())
    cache = SlideCache(str(tmp_path), 10**8)
    for name, reader, mpp in (
        ("p.png", None, 0.5),
        ("sample.svs", "openslide", None),
        ("sample.svs", None, None),
    ):
        url = f"{web[0]}/{name}"
        with (
            open_slide(url, reader=reader, mpp=mpp, cache=cache) as far,
            open_slide(folder / name, reader=reader, mpp=mpp) as near,
        ):
            assert far.info == replace(near.info, path=url)
            box = Box(-3, 20, 66, 80)
            assert np.array_equal(far.read_level(0, box), near.read_level(0, box))
            with pytest.raises(SlideError, match=f"^{url}: "):
                far.read_level(7, box)
    (folder / "text.svs").write_text("no slide")
    with pytest.raises(SlideError, match=f"^{web[0]}/text.svs: .*not a slide"):
        open_slide(f"{web[0]}/text.svs", cache=cache)


def test_slides_of_several_files_are_refused(web: tuple[str, Traffic], folder: Path, tmp_path: Path) -> None:
    (folder / "slide.mrxs").write_bytes(b"\xff\xd8" + bytes(999))
    (folder / "series").write_bytes(bytes(128) + b"DICM" + bytes(999))
    for name in ("slide.mrxs", "series"):
        with pytest.raises(SlideError, match=r"several files.*local folder"):
            open_slide(f"{web[0]}/{name}", cache=SlideCache(str(tmp_path), 10**6))


def test_a_run_from_the_cache_gives_the_bytes_of_a_local_one(
    web: tuple[str, Traffic], folder: Path, tmp_path: Path
) -> None:
    make_slide(folder / "small.svs", SlideSpec(Size(1024, 768), 0.5, tissue=0.6))
    url = f"{web[0]}/small.svs"
    near = segment_slide(folder / "small.svs", tmp_path / "near", DARKNESS, SETTINGS)
    web[1].ranges = False
    web[1].reset()
    cached = replace(SETTINGS, cache=SlideCache(str(tmp_path / "cache"), 10**7))
    far = segment_slide(url, tmp_path / "far", DARKNESS, cached)
    assert tree(far.folder / MAPS) == tree(near.folder / MAPS)
    assert near.summary["regions"]["tumor"]["count"] > 0
    assert (far.folder / POLYGONS).read_bytes() == (near.folder / POLYGONS).read_bytes()
    assert segment_slide(url, tmp_path / "far", DARKNESS, cached).status == "skipped"


def test_the_command_line_says_what_is_wrong(
    web: tuple[str, Traffic], tmp_path: Path, tiny_model: Path
) -> None:
    words = ["run", f"{web[0]}/a.bin", "-o", str(tmp_path / "out"), "-m", str(tiny_model)]
    small = CliRunner().invoke(app, [*words, "--cache", str(tmp_path / "c"), "--cache-size", "100kB"])
    assert small.exit_code == 1 and "raise --cache-size" in small.stderr
    wrong = CliRunner().invoke(app, [*words, "--cache-size", "much"])
    assert wrong.exit_code == 2 and "cache_size" in wrong.stderr
    assert not (tmp_path / "out").exists()


def test_files_of_others_in_the_folder_are_neither_counted_nor_touched(
    web: tuple[str, Traffic], folder: Path, sample_svs: Path, tmp_path: Path, tiny_model: Path
) -> None:
    (folder / "sample.svs").write_bytes(sample_svs.read_bytes())
    cache = tmp_path / "cache"
    for inner in ("mine", OWN):
        (cache / inner).mkdir(parents=True)
    foreign = {
        cache / "notes.bin": 2_000_000,
        cache / "5f1e0a9bc3d24e6f8a7b6c5d-scan.svs": 2_000_000,  # an identifier that archives give
        cache / ".lock": 1,
        cache / "mine" / "a.svs": 3_000_000,
        cache / OWN / "notes.txt": 3_000_000,
    }
    for path, size in foreign.items():
        path.write_bytes(bytes(size))
        os.utime(path, (0, 0))  # used long ago
    words = ["run", f"{web[0]}/sample.svs", "-o", str(tmp_path / "out"), "-m", str(tiny_model), "--dry-run"]
    done = CliRunner().invoke(app, [*words, "--cache", str(cache), "--cache-size", "3MB"])
    assert done.exit_code == 0, done.output
    touch(SlideCache(str(cache), 2_000_000), f"{web[0]}/a.bin")  # room is made of the cache's own
    assert {path: path.stat().st_size for path in foreign} == foreign
    assert sorted(path.name.partition("-")[2] for path in (cache / OWN).glob("?" * 24 + "-*")) == ["a.bin"]
