from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Before torch is loaded: threads that wait for each other give way instead of spinning, which on a busy
# machine with few cores takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests that run side by side share the cores, and so do the processes that they start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

# Processes that tests start find the package compiled, as an installed one is. The next pytest finds the
# tests, which it compiles in a way of its own.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

REPOSITORY = Path(__file__).resolve().parent.parent


# How long an example takes hangs on what else the machine does.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


# Files that take the longest, most of it waiting for other processes: first, so that none is left at the end.
LONGEST = (
    "test_viewer_browser",
    "test_slurm",
    "test_worker_processes",
    "test_viewer_browser_runs",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files by when they start."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without looking for garbage: what is imported and collected stays until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests measure, convert or install out of the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("WSI_SEG_MODELS", str(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _give_memory_back() -> Iterator[None]:
    """Runs keep freed memory for their next blocks; here a process makes hundreds, and grew to 4 GB."""
    yield
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with real data that is not part of the repository."""
    folder = Path(os.environ.get("WSI_SEG_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set WSI_SEG_DATA")
    return folder


@pytest.fixture(scope="session")
def sample_svs() -> Path:
    """The slide that ships with the package."""
    from wsi_seg.slides.sample import sample_slide

    return sample_slide()


def small_model(folder: Path, encoder: str, seed: int) -> Path:
    """Make a model folder with a small, untrained but real network: 4 classes at 0.5 µm/px."""
    import torch

    from wsi_seg.core.card import CardClass, CardGroup, ModelCard
    from wsi_seg.core.classes import BCSS
    from wsi_seg.inference.models.network import build_network, save_network

    torch.manual_seed(seed)
    card = ModelCard(
        name="tiny",
        notice="untrained",
        encoder=encoder,
        architecture_options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
        classes=tuple(CardClass(code=c.code, name=c.name, color=c.color) for c in BCSS[:4]),
        groups=(
            CardGroup(name="tumor", codes=(1,), color=(200, 0, 0)),
            CardGroup(name="other", codes=(2, 3, 4), color=(255, 200, 0)),
        ),
        mpp=0.5,
        tile=128,
    )
    network = build_network(card)
    with torch.no_grad():  # spread the untrained logits, so that every class wins somewhere
        network.segmentation_head[0].weight.mul_(8)
    save_network(network, card, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that predicts in a fraction of the time of others."""
    return small_model(tmp_path_factory.mktemp("models") / "tiny", "tu-test_resnet", 4)


@pytest.fixture(scope="session")
def quick_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of `tiny_model` as TorchScript, with which a process starts in half the time."""
    import warnings

    import torch

    from wsi_seg.core.card import read_card
    from wsi_seg.inference.models.formats import FORMATS
    from wsi_seg.inference.models.network import load_network

    folder = tmp_path_factory.mktemp("models") / "quick"
    folder.mkdir()
    card = read_card(tiny_model)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # traced with its checks of the input's sides
        traced = torch.jit.trace(load_network(tiny_model), torch.zeros(1, 3, card.tile, card.tile))
    traced.save(str(folder / FORMATS["torchscript"].weights))
    card.model_copy(update={"format": "torchscript"}).write(folder)
    return folder


@pytest.fixture(scope="session")
def smooth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose prediction of a pixel hangs on many around it, and on no single one."""
    return small_model(tmp_path_factory.mktemp("models") / "smooth", "resnet18", 5)


@pytest.fixture(scope="session")
def made_svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of two levels, 2304 × 1152 pixels at 0.25 µm/px, a third of it tissue."""
    from tests.made.slides import SlideSpec, make_slide
    from wsi_seg.core.geometry import Size

    path = tmp_path_factory.mktemp("slides") / "made.svs"
    make_slide(path, SlideSpec(size=Size(2304, 1152), mpp=0.25, tissue=0.35, seed=5))
    return path


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of a browser that can show the viewer's page."""
    from scripts.build_viewer import MISSING, build

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here; on Debian: apt install chromium")
    with (tmp_path_factory.getbasetemp().parent / "build.lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        reason = build(REPOSITORY) / MISSING
    if reason.is_file():
        pytest.skip(reason.read_text(encoding="utf-8").strip())
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """A running browser; a module's own, since what drives it keeps an event loop running."""
    from playwright.sync_api import sync_playwright

    from tests import viewer_page

    with sync_playwright() as playwright:
        browser = viewer_page.launch(playwright, chromium)
        yield browser
        browser.close()
