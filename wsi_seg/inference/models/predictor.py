"""Predictors: a network with its weights on a device, as a function from tiles to probabilities."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_seg.core.card import ModelCard, read_card
from wsi_seg.core.errors import DeviceMemoryError, ModelError
from wsi_seg.core.folders import cache_folder
from wsi_seg.inference.models.activations import activation_bytes, kept_activations
from wsi_seg.inference.models.devices import Precision, resolve_device, resolve_precision
from wsi_seg.inference.models.fold import fold_batch_norm
from wsi_seg.inference.models.formats import format_of, precision_for
from wsi_seg.inference.models.heads import Head
from wsi_seg.inference.models.loaded import LoadedNetwork
from wsi_seg.inference.models.measure import measured_activations
from wsi_seg.inference.models.network import (
    HEAD,
    as_jpeg,
    as_pair,
    build_network,
    load_network,
    normalized,
)
from wsi_seg.inference.models.openvino import DEVICE, OpenVinoNetwork
from wsi_seg.inference.models.registry import find_model, model_hash
from wsi_seg.inference.models.transfer import CudaClock, CudaTransfer
from wsi_seg.inference.stitch import PLAIN_TRANSFER, Transfer

# The eight views of a square (the dihedral group): flipped or not, then turned by so many quarters.
VIEWS = tuple((flip, quarters) for flip in (False, True) for quarters in range(4))

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Threads of torch in all, while passes share them.
_cpu_threads: int | None = None
# Each pass has activations of its own.
MOST_PASSES = 8
# Input pixels of a forward pass on a GPU: 16 tiles of 512². More are hardly faster.
PASS_PIXELS = 2**22

logger = logging.getLogger(__name__)


def cpu_threads() -> int:
    """Return how many threads torch may use in this process."""
    return _cpu_threads or torch.get_num_threads()


def most_passes(device: str) -> int:
    """Return how many forward passes at a time a device does best with."""
    return 1 if device.startswith("cuda") else min(cpu_threads(), MOST_PASSES)


def pass_pixels(device: str, activation_bytes: float, elsewhere: bool = False) -> int:
    """Return how many input pixels a forward pass should have; 0: no more than one tile.

    A GPU waits for the next kernel to be launched where there is less to do for each. Of its memory a pass
    takes an eighth at most, as other processes may share it.

    Args:
        device: from `resolve_device`.
        activation_bytes: see `activations_of`.
        elsewhere: the device is one of another machine, of which the memory is not known.
    """
    if not device.startswith("cuda"):
        return 0
    if elsewhere:
        return PASS_PIXELS
    memory = torch.cuda.get_device_properties(device).total_memory
    return int(min(PASS_PIXELS, memory // 8 // activation_bytes))


class NetworkPredictor:
    """Callable: uint8 RGB (N, H, W, 3) -> float32 probabilities (N, C, H, W) on `device`, less a margin.

    On the CPU several threads may call it at a time, `passes` at best; on a GPU they wait for each other.
    The result of a tile does not depend on the other tiles of its batch, and is the same each time for
    batches of one shape. Where a GPU has not enough memory for a batch, that and all later ones are computed
    in parts, half as many tiles at a time (`most_tiles`); digits may then differ as with a smaller batch.

    With test-time augmentation (`tta`) the result is the mean of the probabilities of all eight flips and
    turns of the tiles, each turned back (Moshkov et al. 2020, doi:10.1038/s41598-020-61808-3).
    """

    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        device: str,
        precision: Precision,
        tta: bool = False,
        kept: Path | None = None,
    ) -> None:
        """Put a network on a device.

        Args:
            network: float32, on the CPU.
            card: what it is.
            device: from `resolve_device`.
            precision: from `resolve_precision`.
            tta: whether to augment.
            kept: folder for what OpenVINO makes of this very network; None: it is made again each time.
        """
        self.card = card
        self.device = device
        self.precision = precision
        self.tta = tta
        self._more_views = VIEWS[1:] if tta else ()
        self._head = Head(card)
        self._dtype = DTYPES[precision]
        if precision != "bf16" and device != DEVICE and not isinstance(network, LoadedNetwork):
            # Not in bf16: scaled weights need more digits than it has.
            network = fold_batch_norm(network.eval())
        self._network = self._prepared(network.eval(), kept)
        self.passes = most_passes(device)
        cuda = device.startswith("cuda")
        self._lock: AbstractContextManager[Any] = threading.Lock() if cuda else nullcontext()
        self.transfer: Transfer = CudaTransfer(device) if cuda else PLAIN_TRANSFER
        self._clock = CudaClock(device) if cuda else None
        self.most_tiles = sys.maxsize
        """Tiles of a forward pass for which there was enough memory so far."""

    def share(self, passes: int) -> None:
        """Use a part of the cores in this thread from now on, and in threads that start from now on.

        Args:
            passes: threads that predict at a time.
        """
        global _cpu_threads
        if self.tensor_device == "cpu":
            _cpu_threads = cpu_threads()
            torch.set_num_threads(max(1, _cpu_threads // passes))
        if isinstance(self._network, OpenVinoNetwork):
            self._network.passes = passes

    def unshare(self) -> None:
        """Take back what `share` did."""
        global _cpu_threads
        if _cpu_threads is not None:
            torch.set_num_threads(_cpu_threads)
            _cpu_threads = None
        if isinstance(self._network, OpenVinoNetwork):
            self._network.passes = 1

    def _prepared(self, network: nn.Module, kept: Path | None) -> Callable[[Tensor], Any]:
        if self.device == DEVICE:
            self.tensor_device = "cpu"
            self._dtype = torch.float32  # OpenVINO narrows numbers itself
            return OpenVinoNetwork(network, self.precision, cpu_threads(), kept)
        self.tensor_device = self.device
        if isinstance(network, LoadedNetwork):
            return network.on_device(self.device)
        where = {"device": self.device, "memory_format": torch.channels_last}
        return cast("nn.Module", _cast(network, self._dtype).to(**where))  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> Tensor:
        """Return the probabilities of RGB tiles.

        Args:
            tiles: uint8 (N, H, W, 3), H and W multiples of the card's `input_multiple`.
            margin: pixels to leave out at each side of the result; at least those that the network does.

        Raises:
            DeviceMemoryError: the device has not enough memory for a single tile.
            ModelError: the output is not what the card says.
        """
        self._begin()
        total = self._pixels(tiles, margin)
        for view in self._more_views:
            total += turned_back(self._pixels(turned(tiles, *view), margin), *view)
        return total.div_(1 + len(self._more_views)) if self._more_views else total

    @torch.inference_mode()
    def classify(self, tiles: NDArray[np.uint8], /) -> Tensor:
        """Return softmax probabilities (N, L) of the card's `image_labels` for whole tiles; raises as a call.

        Raises:
            ModelError: the model has no image labels.
        """
        self._begin()
        total = self._labels(tiles)
        for view in self._more_views:
            total += self._labels(turned(tiles, *view))
        return total.div_(1 + len(self._more_views))

    @torch.inference_mode()
    def logits(self, tiles: NDArray[np.uint8], /) -> Tensor:
        """Return the network's own output (N, C, H, W), with test-time augmentation that of the last view.

        This is the forward pass alone, to be timed. On return the device has finished.

        Raises:
            DeviceMemoryError: the device has not enough memory for this batch.
        """
        self._begin()
        try:
            for view in self._more_views:
                self._run(turned(tiles, *view))
            logits = self._run(tiles)[0]
        except torch.OutOfMemoryError as error:
            raise self._no_memory(tiles, len(tiles)) from error
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        return logits

    def _begin(self) -> None:
        if self._clock is not None:
            self._clock.begin()

    def device_seconds(self) -> Callable[[], float] | None:
        """Return a function that waits for this thread's last call and returns a GPU's seconds of work on it.

        None elsewhere: there a call takes as long as the pass. On a GPU it only queues it.
        """
        return None if self._clock is None else self._clock.seconds()

    def _pixels(self, tiles: NDArray[np.uint8], margin: int) -> Tensor:
        size = (tiles.shape[1], tiles.shape[2])
        return self._in_parts(lambda part: self._head(self._run(part)[0], size, margin), tiles)

    def _in_parts(self, compute: Callable[[NDArray[np.uint8]], Tensor], tiles: NDArray[np.uint8]) -> Tensor:
        """Compute all tiles at a time; fewer, from then on, where there is not enough memory for them."""
        while True:
            most = min(len(tiles), self.most_tiles)
            try:
                parts = [compute(tiles[start : start + most]) for start in range(0, len(tiles), most)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except torch.OutOfMemoryError as error:
                if most == 1 or self.card.batch is not None:
                    raise self._no_memory(tiles, most) from error
            # The error has let go of what was computed.
            self.most_tiles = most // 2
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
            logger.warning(
                "%s: not enough memory for %d tiles at a time; %d from now on",
                self.device, most, self.most_tiles,
            )  # fmt: skip

    def _no_memory(self, tiles: NDArray[np.uint8], count: int) -> DeviceMemoryError:
        height, width = tiles.shape[1:3]
        of = f"a batch of {count} tiles" if count > 1 else "a single tile"
        return DeviceMemoryError(f"{self.device}: not enough memory for {of} of {width}×{height} pixels")

    def _on_device(self, tiles: NDArray[np.uint8]) -> Tensor:
        if isinstance(self.transfer, CudaTransfer):
            return self.transfer.to_device(tiles)
        return torch.from_numpy(np.require(tiles, requirements=["C", "W"]))

    def _labels(self, tiles: NDArray[np.uint8]) -> Tensor:
        def compute(part: NDArray[np.uint8]) -> Tensor:
            labels = self._run(part)[1]
            if labels is None:
                raise ModelError(f"model {self.card.name!r} has no image labels; its card names none")
            return labels.float().softmax(dim=1)

        return self._in_parts(compute, tiles)

    def _run(self, tiles: NDArray[np.uint8]) -> tuple[Tensor, Tensor | None]:
        """Return the logits of pixels and of whole tiles."""
        timed = nullcontext() if self._clock is None else self._clock.running()
        with self._lock, _repeatable(self.device, self.precision), timed:
            quality = self.card.normalization.jpeg_quality
            pixels = self._on_device(as_jpeg(tiles, quality) if quality else tiles)
            return as_pair(self._network(normalized(pixels, self.card.normalization).to(self._dtype)))


def turned(tiles: NDArray[np.uint8], flip: bool, quarters: int) -> NDArray[np.uint8]:
    """Return a view of tiles (N, H, W, 3): left and right swapped if `flip`, then turned counterclockwise."""
    return np.rot90(tiles[:, :, ::-1] if flip else tiles, quarters, axes=(1, 2))


def turned_back(maps: Tensor, flip: bool, quarters: int) -> Tensor:
    """Return maps (N, C, H, W) of `turned` tiles as maps of the tiles themselves."""
    maps = torch.rot90(maps, -quarters, (2, 3)) if quarters else maps
    return maps.flip(3) if flip else maps


def load_predictor(
    reference: str, device: str = "auto", precision: str = "auto", tta: bool = False
) -> NetworkPredictor:
    """Load a model onto a device.

    Args:
        reference: as for `registry.find_model`.
        device: see `resolve_device`.
        precision: see `resolve_precision`.
        tta: see `NetworkPredictor`.

    Raises:
        UsageError: the device or the precision is unknown or unavailable.
        ModelError: the model is missing or damaged.
    """
    where = resolve_device(device)
    folder: Path = find_model(reference)
    card = read_card(folder)
    number = resolve_precision(precision_for(card, precision), where)
    kept = cache_folder("openvino") / model_hash(folder)[:16] if where == DEVICE else None
    return NetworkPredictor(load_network(folder), card, where, number, tta, kept)


@lru_cache(maxsize=8)
def activations_of(folder: Path, digest: str, precision: Precision) -> float:
    """Return the most bytes of activations alive at once in a forward pass on the CPU, per input pixel.

    They are kept in the cache folder, as a network is made and sent through all its layers to know them; one
    that is loaded whole is run, see `measured_activations`.

    Args:
        folder: of the model.
        digest: of the model, see `registry.model_hash`.
        precision: from `resolve_precision`.

    Raises:
        ModelError: the network cannot be built, loaded or run.
    """

    def find() -> float:
        card, dtype = read_card(folder), DTYPES[precision]
        if format_of(card).load:
            return measured_activations(folder)
        return activation_bytes(_cast(build_network(card).eval(), dtype), card.tile, dtype)

    return kept_activations(f"{digest[:16]}-{precision}", find)


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast the weights, but for those of layers that keep float32.

    Batch normalization does, as a short mantissa would bend its statistics, and so does the last convolution:
    logits of so few digits often tie between two classes. It takes a twentieth of the time.
    """
    if dtype == torch.float32:
        return network
    heads = [module for name, module in network.named_children() if name == HEAD]
    kept = [*heads, *(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))]
    exact = [{name: t.clone() for name, t in module.state_dict().items()} for module in kept]
    network = network.to(dtype)
    for module, state in zip(kept, exact, strict=True):
        # Widening the type alone would bring back the type, not the digits that the cast took.
        module.float().load_state_dict(state)
    for head in heads:
        head.register_forward_pre_hook(lambda _, inputs: tuple(one.float() for one in inputs))
    return network


def _repeatable(device: str, precision: Precision) -> AbstractContextManager[None]:
    """Let cuDNN choose the same deterministic algorithms each time.

    Where only the last convolution is in float32, it may use TensorFloat-32: all digits of its input, which
    comes from 16 bits, are kept in that.
    """
    if not device.startswith("cuda"):
        return nullcontext()
    return cast(
        AbstractContextManager[None],
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=precision != "float32"
        ),
    )
