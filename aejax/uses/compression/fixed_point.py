"""A multilayer perceptron in integers: the same result on every machine, for any batch size and number of threads.

Sums of products are where floating point depends on the machine. Here inputs and kernels are integers in float64, on
grids so coarse that every partial sum stays below 2^53. Such sums are exact in any order. All else is elementwise, and
IEEE 754 defines it to the last bit; see `portable`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from aejax.errors import InputError
from aejax.trained import Trained
from aejax.uses.compression.portable import ACTIVATIONS

GRID = 16  # values are multiples of 2^-16
RANGE = 8  # hidden values are clipped to [-2^8, 2^8]
EXACT = 2.0**53  # integers below are exact in float64
MOST, LEAST = 24, 8  # bits after the point of a kernel's values
EPSILON = {"batch": 1e-5, "layer": 1e-6}  # of flax's norms


@dataclasses.dataclass(frozen=True)
class Layer:
    """y = f(norm(x W + b)), [n, inputs] -> [n, units], all values multiples of 2^-GRID, given as integers."""

    kernel: np.ndarray  # [inputs, units] integers, multiples of 2^-shift
    bias: np.ndarray  # [units] integers, multiples of 2^-(GRID + shift)
    shift: int
    activation: str
    norm: tuple[np.ndarray, np.ndarray] | None  # scale and bias of a layer normalisation, or None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = (x @ self.kernel + self.bias) * 2.0 ** -(GRID + self.shift)
        if self.norm is not None:
            y = _normalize(_integers(y)) * self.norm[0] + self.norm[1]
        return _integers(ACTIVATIONS[self.activation](y))


class Network:
    """The encoder or decoder of a trained multilayer perceptron; `bound`: the largest absolute value of its inputs.

    Raises InputError for weights that it cannot compute with.
    """

    def __init__(self, trained: Trained, part: str, bound: float):
        self.layers: list[Layer] = []
        for layer in _layers(trained, part):
            self.layers.append(_layer(*layer, bound=bound))
            bound = 2.0**RANGE

    def __call__(self, x: np.ndarray, batch: int = 1024) -> np.ndarray:
        """Values [n, units] of inputs [n, ...], multiples of 2^-GRID; `batch`, the rows of a product, changes
        nothing."""
        x = _integers(np.asarray(x, np.float64).reshape(len(x), len(self.layers[0].kernel)))
        parts = [x[i : i + batch] for i in range(0, max(len(x), 1), batch)]
        for layer in self.layers:
            parts = [layer(part) for part in parts]
        return np.concatenate(parts) * 2.0**-GRID


def _layers(trained: Trained, part: str) -> Iterator[tuple[np.ndarray, np.ndarray, str, Any]]:
    """Kernel and bias in float64 with batch normalisation in them, activation, and layer normalisation or None."""
    section, own = trained.config.model[part], trained.params[part]
    count = sum(name.startswith("layers_") for name in own)
    statistics = trained.variables.get("batch_stats", {}).get(part, {})
    for i in range(count):
        kernel = np.asarray(own[f"layers_{i}"]["kernel"], np.float64)
        bias = np.asarray(own[f"layers_{i}"].get("bias", np.zeros(kernel.shape[1])), np.float64)
        if i == count - 1:
            yield kernel, bias, "identity", None
            return
        norms, layer_norm = own.get(f"activations_{i}", {}), None
        if section.norm == "batch":
            scale, shift = _affine(norms["BatchNorm_0"])
            found = statistics[f"activations_{i}"]["BatchNorm_0"]
            mean, variance = (np.asarray(found[name], np.float64) for name in ("mean", "var"))
            scale = scale / np.sqrt(variance + EPSILON["batch"])
            kernel, bias = kernel * scale[None], (bias - mean) * scale + shift
        elif section.norm == "layer":
            layer_norm = _affine(norms["LayerNorm_0"])
        yield kernel, bias, section.activation, layer_norm


def _affine(norm: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(norm["scale"], np.float64), np.asarray(norm["bias"], np.float64)


def _layer(kernel: np.ndarray, bias: np.ndarray, activation: str, norm: Any, *, bound: float) -> Layer:
    """The layer with the finest grid of the kernel for which every sum is exact; raises InputError."""
    for shift in range(MOST, LEAST - 1, -1):
        whole, offset = np.rint(kernel * 2.0**shift), np.rint(bias * 2.0 ** (GRID + shift))
        largest = np.abs(whole).sum(0) * (bound * 2.0**GRID) + np.abs(offset)
        if largest.max() < EXACT / 2:  # half: the test itself is rounded
            return Layer(whole, offset, shift, activation, norm)
    raise InputError(
        f"lossless compression computes in integers: a layer's weights are too large, up to {np.abs(kernel).max():.3g}"
    )


def _integers(y: np.ndarray) -> np.ndarray:
    """Values -> integers, multiples of 2^-GRID."""
    return np.clip(np.rint(y * 2.0**GRID), -(2.0 ** (GRID + RANGE)), 2.0 ** (GRID + RANGE))


def _normalize(y: np.ndarray) -> np.ndarray:
    """Layer normalisation of integers [n, units] without scale and bias; int64 sums are exact."""
    whole, n = y.astype(np.int64), y.shape[1]
    mean = whole.sum(1, keepdims=True) / n
    variance = (whole * whole).sum(1, keepdims=True) / n - mean * mean
    return (y - mean) / np.sqrt(np.maximum(variance, 0) + EPSILON["layer"] * 4.0**GRID)
