"""The policy: an MLP with its normaliser."""

from __future__ import annotations

import zipfile
from typing import Any, Callable, Dict

import numpy as np

from .contract import Contract

Array = Any
ACTIVATIONS: Dict[str, Callable[[Array], Array]] = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "relu": lambda x: np.maximum(x, 0),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
    "swish": lambda x: x / (1 + np.exp(-x)),
}


class Policy:
    """Observations [N, O] or [O] -> actions [N, A] or [A] in [-1, 1], float32. onnxruntime computes them if it is
    installed and `runtime` allows it, else NumPy."""

    def __init__(self, contract: Contract, runtime: str = "auto"):
        """runtime: auto, onnx or numpy. Raises ValueError, one line, for files that are not there or do not fit."""
        if runtime not in ("auto", "onnx", "numpy"):
            raise ValueError(f"runtime = {runtime!r}: allowed is auto, onnx or numpy")
        self.size = sum(contract.widths) * (1 + len(contract.history))
        self.session = None
        if runtime != "numpy":
            self.session = self._open(contract, runtime)
        if self.session is None:
            self._load(contract)
        found = self(np.zeros(self.size, np.float32))
        if found.shape != (contract.controlled.sum(),):
            raise ValueError(
                f"{contract.folder}: the policy has {found.shape[-1]} actions, its contract {contract.controlled.sum()}"
            )

    def _open(self, contract: Contract, runtime: str) -> Any:
        """A session of onnxruntime; None where that is not installed and NumPy will do."""
        file = contract.folder / "policy.onnx"
        try:
            import onnxruntime
        except ImportError:
            if runtime == "onnx":
                raise ValueError("runtime = 'onnx' needs onnxruntime: pip install onnxruntime") from None
            return None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a small network gains nothing by more
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes, one for every kind of damage
            raise ValueError(f"{file}: not read, {' '.join(str(error).split())[:200]}") from None
        width = session.get_inputs()[0].shape[-1]
        if width != self.size:
            raise ValueError(f"{file}: the policy sees {width} numbers, its contract says {self.size}")
        return session

    def _load(self, contract: Contract) -> None:
        file = contract.folder / "policy.npz"
        try:
            with np.load(file) as stored:
                arrays = {name: stored[name] for name in stored.files}
            self.activation = ACTIVATIONS[str(arrays["activation"])]
            self.mean, self.std, self.clamp = arrays["mean"], arrays["std"], float(arrays["clamp"])
            count = sum(name.startswith("weight") for name in arrays)
            self.layers = [(arrays[f"weight{i}"].T.copy(), arrays[f"bias{i}"]) for i in range(count)]
            fits = self.mean.shape == self.std.shape == (self.size,) and self.layers[0][0].shape[0] == self.size
        except (OSError, ValueError, KeyError, EOFError, IndexError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file}: not read, {' '.join(str(error).split())[:200]}") from None
        if not fits:
            raise ValueError(f"{file}: the policy sees {self.mean.shape} numbers, its contract says {self.size}")

    def __call__(self, observations: Array) -> Array:
        """Raises ValueError, one line, for another width."""
        rows = np.asarray(observations, np.float32)
        if rows.shape[-1:] != (self.size,):
            raise ValueError(f"observations: shape {rows.shape}, allowed is [..., {self.size}]")
        shape, rows = rows.shape[:-1], rows.reshape(-1, self.size)
        found = self._compute(rows) if self.session is None else self.session.run(None, {"observations": rows})[0]
        return found.reshape(*shape, found.shape[-1])

    def _compute(self, rows: Array) -> Array:
        x = np.clip((rows - self.mean) / self.std, -self.clamp, self.clamp)
        for weight, bias in self.layers[:-1]:
            x = self.activation(x @ weight + bias)
        weight, bias = self.layers[-1]
        return np.clip(x @ weight + bias, -1.0, 1.0).astype(np.float32)
