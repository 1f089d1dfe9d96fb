"""Memory of the activations of a network, found without computing them."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import wsi_seg
from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import atomic_path, writing
from wsi_seg.core.folders import cache_folder

logger = logging.getLogger(__name__)


def activation_bytes(
    network: nn.Module, side: int, dtype: torch.dtype, device: str = "meta", batch: int = 1
) -> float:
    """Return the most bytes of activations that are alive at once in a forward pass, per input pixel.

    Args:
        network: as it will run; it is moved to the device.
        side: of the square input; the result hardly depends on it, but some networks take one size only.
        dtype: of the input.
        device: `meta`, where tensors have shapes and no values, or `cpu` for networks that need the latter.
        batch: tiles of the pass.
    """
    pixels = torch.zeros(batch, 3, side, side, device=device, dtype=dtype)
    network = network.to(device)
    alive = _Alive()
    with torch.inference_mode(), alive:
        network(pixels)
    return alive.most / (batch * side**2)


def kept_activations(name: str, find: Callable[[], float]) -> float:
    """Return what was found before under this name with this version of everything, or find and keep it."""
    versions = {"wsi-seg": wsi_seg.__version__, "torch": torch.__version__}
    path = cache_folder("activations") / f"{name}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["versions"] == versions:
            return float(kept["bytes_per_pixel"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # none, or not whole: found again
    found = find()
    text = json.dumps({"versions": versions, "bytes_per_pixel": found}) + "\n"
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path, shared=True) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OutputError as error:  # found again next time
        logger.info("%s", error)
    return found


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that are made inside and not yet forgotten."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:  # else a view, or changed in place
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key)
