"""ONNX networks, run by ONNX Runtime on the CPU or a CUDA device, or by OpenVINO. Extra `onnx`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import MissingExtraError, ModelError
from wsi_seg.inference.models.loaded import LoadedNetwork, map_of, short

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def onnx_runtime() -> ModuleType:
    """Return the module onnxruntime.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "a model of format onnx needs ONNX Runtime; install it with: pip install 'wsi-seg[onnx]'"
        ) from error
    module: ModuleType = onnxruntime
    return module


class OnnxNetwork(LoadedNetwork):
    """A session of ONNX Runtime for each number of threads that a pass may use.

    That is torch's number in the thread that calls, of which each forward pass at a time has its share.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Take a file, whose only input is float32 (N, 3, H, W).

        Raises:
            MissingExtraError: ONNX Runtime is not installed.
            ModelError: the file cannot be read, the input is another one, or the device cannot be used.
        """
        super().__init__()
        self.path = path
        self._device = device
        self._lock = threading.Lock()
        self._sessions: dict[int, Any] = {}
        self.input_shape = self._check_input(self._session())

    def forward(self, inputs: Tensor) -> Tensor:
        array = inputs.to("cpu", torch.float32).contiguous().numpy()
        session = self._session()
        try:
            arrays = session.run(None, {session.get_inputs()[0].name: array})
        except onnx_errors() as error:
            raise ModelError(
                f"{self.path}: ONNX Runtime cannot compute an input {tuple(inputs.shape)} ({short(error)})"
            ) from error
        return map_of([torch.from_numpy(array) for array in arrays]).to(inputs.device)

    def on_device(self, device: str) -> Callable[[Tensor], Tensor]:
        return self if device == self._device else OnnxNetwork(self.path, device)

    def for_openvino(self, shape: tuple[int, ...]) -> Any:
        import openvino

        model = openvino.convert_model(self.path)
        model.reshape({model.inputs[0]: list(shape)})
        return model

    def _session(self) -> Any:
        threads = torch.get_num_threads()
        with self._lock:
            if threads not in self._sessions:
                self._sessions.clear()  # of another number: each holds the weights
                self._sessions[threads] = _new_session(self.path, self._device, threads)
            return self._sessions[threads]

    def _check_input(self, session: Any) -> tuple[int | None, ...]:
        """Return the shape of the input, None for sides that may vary."""
        inputs = session.get_inputs()
        found = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in inputs)
        shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape) if inputs else ()
        if (
            len(inputs) != 1
            or inputs[0].type != "tensor(float)"
            or len(shape) != 4
            or shape[1] not in (3, None)
        ):
            raise ModelError(
                f"{self.path}: the network takes {found}, and one float32 input (N, 3, H, W) is expected; "
                "export it again with such an input"
            )
        return shape


def load_onnx(path: Path, card: ModelCard | None = None) -> OnnxNetwork:
    """Load an ONNX file; see `OnnxNetwork` for what it raises."""
    return OnnxNetwork(path)


def onnx_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises, besides what Python does for files and values."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented",
             "RuntimeException", "EPFail", "NoModel", "ModelLoaded", "EngineError")  # fmt: skip
    return (
        RuntimeError,
        ValueError,
        OSError,
        *(getattr(state, name) for name in names if hasattr(state, name)),
    )


def _new_session(path: Path, device: str, threads: int) -> Any:
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors, which are raised as well
    # Threads that wait would take cores from reading and stitching.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [CPU]
    if device != "cpu":
        if CUDA not in runtime.get_available_providers():
            raise ModelError(
                f"{path}: ONNX Runtime was built without CUDA here, so it cannot use {device}; install "
                "onnxruntime-gpu in place of onnxruntime, or use --device cpu"
            )
        providers = [(CUDA, {"device_id": int(device.partition(":")[2] or 0)}), CPU]
    try:
        session = runtime.InferenceSession(path, options, providers=providers)
    except onnx_errors() as error:
        raise ModelError(f"{path}: no readable ONNX file ({short(error)})") from error
    if device != "cpu" and CUDA not in session.get_providers():
        raise ModelError(
            f"{path}: ONNX Runtime found no CUDA libraries of its version for {device}; install those "
            "that its release notes name, or use --device cpu"
        )
    return session
