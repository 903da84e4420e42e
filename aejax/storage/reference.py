"""The forward pass of an exported autoencoder in NumPy alone, without jax and aejax.

`python -m aejax.export --format=npz --output=FILE.npz` writes the arrays to FILE.npz, the steps to FILE.npz.json, and
this module to FILE.py:

    from FILE import Model

    model = Model("FILE.npz")
    codes = model.encode(examples)  # also decode(codes), reconstruct(examples); classify(examples) for a classifier

Examples are raw, as FILE.npz.json describes them. The arithmetic is float64. The model itself computes in float32, or
in bfloat16 if FILE.npz.json says so, and its results differ by the rounding of that type.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Model:
    """The arrays of FILE.npz, and the steps of FILE.npz.json. Raises ValueError if there are no steps."""

    def __init__(self, path: str | Path):
        about = Path(f"{path}.json")
        self.about: dict[str, Any] = json.loads(about.read_text())
        if self.about["steps"] is None:
            raise ValueError(f"{about}: holds no steps: {self.about['reference']}")
        with np.load(path, allow_pickle=False) as archive:
            self.arrays: dict[str, np.ndarray] = {name: archive[name] for name in archive.files}

    def encode(self, examples: Any) -> np.ndarray:
        """Codes [N, code] of raw examples [N, ...]; the mean if the model samples its codes."""
        return self._run("encode", "input", examples)

    def decode(self, codes: Any) -> np.ndarray:
        """Reconstruction means [N, ...] of codes [N, code]."""
        return self._run("decode", "codes", codes)

    def reconstruct(self, examples: Any) -> np.ndarray:
        """Reconstruction means [N, ...] of raw examples."""
        return self.decode(self.encode(examples))

    def classify(self, examples: Any) -> np.ndarray:
        """Probabilities of the labels [N, classes] of raw examples; a classifier only."""
        return self._run("classify", "codes", self.encode(examples))

    def _run(self, name: str, given: str, rows: Any) -> np.ndarray:
        if name not in self.about["steps"]:
            raise ValueError(f"{name}: this model has the steps {', '.join(self.about['steps'])}")
        x, shape = np.asarray(rows, np.float64), tuple(self.about[given]["shape"][1:])
        if x.shape[1:] != shape or not x.ndim:
            raise ValueError(f"{name}: shape {x.shape} must be (rows, {', '.join(map(str, shape))})")
        for step in self.about["steps"][name]:
            fields = {key: self._value(value) for key, value in step.items() if key not in ("op", "columns")}
            columns = step.get("columns", slice(None))  # that the step changes
            made = OPERATIONS[step["op"]](x if "columns" not in step else x[:, columns], **fields)
            if "columns" in step:
                x = x.copy()
                x[:, columns] = made
            else:
                x = made
        return x

    def _value(self, value: Any) -> Any:
        """A string is the name of an array."""
        return self.arrays[value].astype(np.float64) if isinstance(value, str) else value


def dense(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | float = 0.0, transposed: bool = False) -> np.ndarray:
    """y = x W + b; W is transposed if the decoder shares the encoder's kernels."""
    return x @ (kernel.T if transposed else kernel) + bias


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def batch_norm(
    x: np.ndarray, mean: np.ndarray, variance: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float
) -> np.ndarray:
    """With the statistics of training."""
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias


def one_hot(x: np.ndarray, sizes: Sequence[int], indicators: Sequence[int], fill: np.ndarray | None) -> np.ndarray:
    """Fill empty cells (NaN), encode categories one-hot, and append columns that mark the empty cells.

    `sizes`: number of categories of each column, 0 for a column of numbers. Raises ValueError for a value that is no
    index of a category.
    """
    empty = np.isnan(x)
    for j, size in enumerate(sizes):
        wrong = ~(empty[:, j] | np.isin(x[:, j], np.arange(size))) if size else np.zeros(len(x), bool)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"row {row}, column {j}: {x[row, j]} must be the index of a category, 0 to {size - 1}")
    filled = x if fill is None else np.where(empty, fill, x)
    parts = []
    for column, size in zip(filled.T[:, :, None], sizes, strict=True):
        parts.append(np.where(np.isnan(column), np.nan, column == np.arange(size)) if size else column)
    return np.concatenate([*parts, empty[:, list(indicators)]], axis=1)


def tfidf(x: np.ndarray, idf: np.ndarray) -> np.ndarray:
    """Counts times idf, each row of length 1."""
    length = np.linalg.norm(x * idf, axis=1, keepdims=True)
    return x * idf / np.where(length > 0, length, 1)


def largest(x: np.ndarray, k: int) -> np.ndarray:
    """The k largest entries of each row and those that equal the k-th; 0 elsewhere."""
    return np.where(x >= np.sort(x, axis=-1)[:, -k, None], x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def elu(x: np.ndarray, alpha: float = 1.0, scale: float = 1.0) -> np.ndarray:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softplus": lambda x: np.logaddexp(x, 0),
    "gelu": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x * sigmoid(x),
    "elu": elu,
    "selu": lambda x: elu(x, 1.6732632423543772, 1.0507009873554805),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "softmax": softmax,
}
OPERATIONS: dict[str, Callable[..., np.ndarray]] = (
    ACTIVATIONS
    | {
        "dense": dense,
        "layer_norm": layer_norm,
        "batch_norm": batch_norm,
        "reshape": lambda x, shape: x.reshape(len(x), *shape),
        "divide": lambda x, by: x / by,
        "one_hot": one_hot,
        "standardise": lambda x, mean, deviation: (x - mean) / deviation,
        "unstandardise": lambda x, mean, deviation: x * deviation + mean,
        "nan_to_zero": lambda x: np.where(np.isnan(x), 0, x),
        "log1p": np.log1p,
        "proportions": lambda x: x / np.maximum(x.sum(-1, keepdims=True), 1e-12),
        "binary": lambda x: (x > 0).astype(np.float64),
        "tfidf": tfidf,
        "grey": lambda x, shares: (x * shares).sum(-1, keepdims=True),
        "nothing_hidden": lambda x: np.concatenate([x, np.zeros_like(x[..., :1])], -1),  # the mask as one more channel
        "first": lambda x, units: x[:, :units],  # the means of a gaussian code; its variances follow
        "largest": largest,
    }
)
