from __future__ import annotations

import errno
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsi_seg.core.errors import OutputError
from wsi_seg.maps.maps import remove_partial_files
from wsi_seg.maps.pyramid import halve_probabilities
from wsi_seg.maps.shards import ShardedArray, array_document, write_node

AXES = ("c", "y", "x")


def document(shape: tuple[int, ...], shard: tuple[int, ...], chunk: tuple[int, ...], dtype: str) -> dict:
    return array_document(shape, dtype, shard=shard, chunk=chunk, names=AXES[-len(shape) :])


def create(
    folder: Path, shape: tuple[int, ...], shard: tuple[int, ...], chunk: tuple[int, ...], dtype: str
) -> tuple[zarr.Array, ShardedArray]:
    """Return an empty array as zarr sees it, and as this package does."""
    reference = zarr.create_array(
        folder,
        shape=shape,
        shards=shard,
        chunks=chunk,
        dtype=dtype,
        compressors=zarr.codecs.ZstdCodec(level=1),
        fill_value=0,
        dimension_names=AXES[-len(shape) :],
        overwrite=True,
    )
    return reference, ShardedArray.open(folder, document(shape, shard, chunk, dtype))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]:
    """Values with many zeros, and a cut into shards and chunks that need not end where they do."""
    axes = draw(st.integers(2, 3))
    chunk = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    shard = tuple(side * draw(st.integers(1, 3)) for side in chunk)
    shape = tuple(draw(st.integers(1, 20)) for _ in range(axes))
    dtype = draw(st.sampled_from(["uint8", "float32"]))
    elements = st.sampled_from([0, 0, 0, 1, 7])
    return draw(arrays.arrays(dtype, shape, elements=elements)), shard, chunk


def write(array: ShardedArray, values: np.ndarray) -> None:
    for index in np.ndindex(tuple(-(-n // side) for n, side in zip(array.shape, array.shard, strict=True))):
        begin = [i * side for i, side in zip(index, array.shard, strict=True)]
        part = tuple(slice(at, at + side) for at, side in zip(begin, array.shard, strict=True))
        array.write_shard(index, values[part])


@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_an_array_is_described_as_zarr_does(tmp_path_factory: pytest.TempPathFactory, case: tuple) -> None:
    values, shard, chunk = case
    folder = tmp_path_factory.mktemp("array")
    create(folder, values.shape, shard, chunk, values.dtype.name)
    expected = json.loads((folder / "zarr.json").read_bytes())
    write_node(folder, document(values.shape, shard, chunk, values.dtype.name))
    assert json.loads((folder / "zarr.json").read_bytes()) == expected
    assert zarr.open_array(folder, mode="r").shape == values.shape


@pytest.mark.parametrize(
    "changes",
    [
        {"compressors": zarr.codecs.GzipCodec()},
        {"compressors": None},
        {"shards": None},
        {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
        {"fill_value": 1},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"shape": (8, 9)},
        {"shards": (4, 4)},
        {"dtype": "uint16"},
    ],
)
def test_an_array_of_another_layout_is_refused(tmp_path: Path, changes: dict) -> None:
    usual = {"shape": (8, 8), "chunks": (4, 4), "shards": (8, 8), "dtype": "uint8", "fill_value": 0}
    usual["compressors"] = zarr.codecs.ZstdCodec(level=1)
    zarr.create_array(tmp_path / "usual", dimension_names=("y", "x"), **usual)
    planned = document((8, 8), (8, 8), (4, 4), "uint8")
    assert ShardedArray.open(tmp_path / "usual", planned).shape == (8, 8)
    zarr.create_array(tmp_path / "a", dimension_names=("y", "x"), **(usual | changes))
    with pytest.raises(OutputError, match=r"a/zarr\.json: this part of the maps is damaged"):
        ShardedArray.open(tmp_path / "a", planned)


def test_inner_chunks_of_another_shape_are_read(tmp_path: Path) -> None:
    _, array = create(tmp_path / "a", (8, 8), (8, 8), (4, 4), "uint8")
    array.write_shard((0, 0), np.arange(64, dtype=np.uint8).reshape(8, 8))
    other = ShardedArray.open(tmp_path / "a", document((8, 8), (8, 8), (2, 2), "uint8"))
    np.testing.assert_array_equal(other[...], array[...])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"codecs": []}', '{"zarr_format": 3, "sha'])
def test_a_damaged_description_is_named(tmp_path: Path, text: str) -> None:
    planned = document((8, 8), (8, 8), (4, 4), "uint8")
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises(OutputError, match=r"zarr\.json: this part of the maps is damaged"):
        ShardedArray.open(tmp_path, planned)
    with pytest.raises(OutputError, match=r"absent/zarr\.json: cannot be read \(No such file"):
        ShardedArray.open(tmp_path / "absent", planned)


@settings(deadline=None, max_examples=60)
@given(case=cases(), data=st.data())
def test_zarr_reads_what_is_written_and_any_part_of_it_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, case: tuple, data: st.DataObject
) -> None:
    values, shard, chunk = case
    folder = tmp_path_factory.mktemp("array")
    reference, array = create(folder, values.shape, shard, chunk, values.dtype.name)
    write(array, values)
    np.testing.assert_array_equal(reference[...], values)
    np.testing.assert_array_equal(array[...], values)
    np.testing.assert_array_equal(np.asarray(array, np.float64), values)
    key = data.draw(arrays.basic_indices(values.shape, allow_newaxis=False, allow_ellipsis=True))
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, slice) and part.step not in (None, 1) for part in parts):
        with pytest.raises(IndexError, match="step"):
            array[key]
    else:
        found = array[key]
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values[key])


@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_what_zarr_writes_is_read(tmp_path_factory: pytest.TempPathFactory, case: tuple) -> None:
    values, shard, chunk = case
    reference, array = create(tmp_path_factory.mktemp("array"), values.shape, shard, chunk, values.dtype.name)
    reference[...] = values
    np.testing.assert_array_equal(array[...], values)


def test_only_what_is_not_zero_takes_room(tmp_path: Path) -> None:
    _, array = create(tmp_path / "a", (8, 8), (8, 8), (4, 4), "uint8")
    values = np.zeros((8, 8), np.uint8)
    values[0, 0] = 1
    array.write_shard((0, 0), values)
    one = (tmp_path / "a/c/0/0").stat().st_size
    values[7, 7] = 1
    array.write_shard((0, 0), values)
    assert (tmp_path / "a/c/0/0").stat().st_size > one
    array.write_shard((0, 0), np.zeros((8, 8), np.uint8))
    assert not (tmp_path / "a/c/0/0").exists() and not array[...].any()


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    """However they lie in memory, and while other threads write."""
    noise = np.random.default_rng(0).integers(0, 9, (96, 96)).astype(np.uint8)
    values = np.kron(noise, np.ones((16, 16), np.uint8))  # chunks of more than one block of zstd
    several = [values, values, np.asfortranarray(values), np.pad(values, 5)[5:-5, 5:-5]]

    def written(number: int) -> bytes:
        _, array = create(tmp_path / str(number), (1536, 1536), (1536, 1536), (768, 768), "uint8")
        array.write_shard((0, 0), several[number])
        return (tmp_path / str(number) / "c/0/0").read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(written, range(4)))) == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: a disk that is full, for who need not be root to try it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    _, array = create(tmp_path / "a", (64, 64), (64, 64), (32, 32), "uint8")
    array.write_shard((0, 0), np.full((64, 64), 3, np.uint8))
    with largest_file(1000), pytest.raises(OSError, match="File too large") as raised:
        array.write_shard((0, 0), np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    assert raised.value.errno == errno.EFBIG
    assert (array[...] == 3).all()
    assert [path.name for path in (tmp_path / "a/c/0").iterdir()] == ["0"]


# The kernel ends the process in the midst of its second write: its file may not grow further.
KILLED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from tests.test_shards import document
from wsi_seg.maps.shards import ShardedArray
array = ShardedArray.open(Path(sys.argv[1]), document((512, 512), (512, 512), (256, 256), "uint8"))
array.write_shard((0, 0), np.full((512, 512), 3, np.uint8))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
array.write_shard((0, 0), np.random.default_rng(0).integers(0, 255, (512, 512)).astype(np.uint8))
"""


def test_a_killed_writer_leaves_whole_shards_and_the_next_one_is_not_misled(tmp_path: Path) -> None:
    _, array = create(tmp_path / "a", (512, 512), (512, 512), (256, 256), "uint8")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    killed = subprocess.run(command, cwd=Path(__file__).parents[1], check=False)
    assert killed.returncode == -signal.SIGXFSZ
    leftover = next((tmp_path / "a/c/0").glob("0?*"))
    assert leftover.stat().st_size == 100_000
    assert (array[...] == 3).all()
    array.write_shard((0, 0), np.full((512, 512), 4, np.uint8))  # in a shorter file than the leftover
    assert (array[...] == 4).all()
    remove_partial_files(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a/c/0").iterdir()] == ["0"]


@pytest.mark.parametrize("damage", ["cut", "index", "chunk", "empty"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / 'Präparat "7" c'
    _, array = create(folder, (8, 8), (8, 8), (4, 4), "uint8")
    array.write_shard((0, 0), np.arange(64, dtype=np.uint8).reshape(8, 8))
    path = folder / "c/0/0"
    whole = path.read_bytes()
    at = {"index": len(whole) - 20, "chunk": 2}.get(damage)
    if at is None:
        path.write_bytes(whole[: 30 if damage == "cut" else 0])
    else:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(OutputError) as raised:
        array[...]
    assert str(raised.value).startswith(f"{path}: this part of the maps is damaged (")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < len(str(path)) + 200


def test_no_more_is_unpacked_than_a_chunk_holds(tmp_path: Path) -> None:
    _, large = create(tmp_path / "a", (8, 8), (8, 8), (8, 8), "uint8")
    large.write_shard((0, 0), np.ones((8, 8), np.uint8))
    _, small = create(tmp_path / "b", (4, 4), (4, 4), (4, 4), "uint8")
    (tmp_path / "b/c/0").mkdir(parents=True)
    (tmp_path / "a/c/0/0").rename(tmp_path / "b/c/0/0")
    with pytest.raises(OutputError, match="damaged"):
        small[...]


def test_what_is_outside_is_refused(tmp_path: Path) -> None:
    _, array = create(tmp_path / "a", (8, 6), (8, 8), (4, 4), "uint8")
    for key in ((0, 6), (-9, 0), (0, 0, 0)):
        with pytest.raises(IndexError):
            array[key]
    assert array[20:30, 2:1].shape == (0, 0)


def test_planes_of_zeros_take_no_room_and_nothing_of_before_stays(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 9, (5, 8, 8), np.uint8)
    values[[1, 3]] = 0
    _, array = create(tmp_path / "a", (10, 8, 8), (5, 8, 8), (1, 4, 4), "uint8")
    array._store[5:].write(values).result()
    file = array.folder / "c" / "1" / "0" / "0"
    whole = file.read_bytes()
    array.write_shard((1, 0, 0), np.full_like(values, 7))
    array.write_shard((1, 0, 0), values)
    assert file.read_bytes() == whole
    np.testing.assert_array_equal(array[5:], values)
    array.write_shard((1, 0, 0), np.zeros_like(values))
    assert not file.exists() and not array[...].any()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_halves_are_the_same_with_planes_of_zeros(dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (4, 7, 10)).astype(dtype)
    values[[0, 2]] = 0
    for some in (values, values[::2]):
        np.testing.assert_array_equal(
            halve_probabilities(some), np.stack([halve_probabilities(p) for p in some])
        )
