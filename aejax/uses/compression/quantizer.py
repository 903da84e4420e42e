"""A uniform quantiser of codes, and an entropy coder for its integers."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from aejax.errors import InputError
from aejax.uses.stored import Arrays

STORED = "quantizer"
PRECISION = 24  # bits of a probability
MARGIN = 2  # integers beyond the training codes that have a probability of their own
ESCAPE = 32  # bits of an integer outside the table
MOST = 2 ** (ESCAPE - 1) - 1  # largest integer


@dataclasses.dataclass(frozen=True)
class Table:
    """Frequencies of the integers low, low + 1, ... of each unit, and last that of an escape; they sum to 2^24."""

    low: np.ndarray  # [units]
    frequencies: np.ndarray  # [units, most integers + 1]; unused ones are 0, the escape is in the last column


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """q = round(A (z − c) / step), z' = c + A⁻¹ step q, with frequencies of q by step from the training codes.

    A makes the code's units comparable: with the mean M of JᵀJ, J the Jacobian of the decoder at training codes, a
    change of A z by 1 changes the output by 1 in first order. For a code without order A = R M^½, where R are the
    principal directions of M^½ z, so that the units are also uncorrelated; for an ordered code A = diag(M)^½. PCA has
    M = I and is its own A.
    """

    centre: np.ndarray  # [units]
    forward: np.ndarray  # [units, units], Aᵀ: rows of codes are multiplied from the right
    backward: np.ndarray  # its inverse
    tables: Mapping[float, Table]  # by step

    def quantize(self, codes: np.ndarray, step: float) -> np.ndarray:
        """Integers int64 [n, units] of codes [n, units]."""
        q = np.rint((codes - self.centre) @ self.forward / step)
        return np.clip(q, -MOST, MOST).astype(np.int64)

    def dequantize(self, q: np.ndarray, step: float) -> np.ndarray:
        """Codes float32 [n, units]; an ordered code whose integers are of the first units alone is 0 in the others."""
        given = q.shape[1]
        z = (q * step) @ self.backward[:given, :given] + self.centre[:given]
        return np.pad(z, ((0, 0), (0, len(self.centre) - given))).astype(np.float32)

    def encode(self, q: np.ndarray, step: float) -> bytes:
        """Integers [n, k] of the first k units as bytes."""
        import constriction

        table, coder = self.tables[step], constriction.stream.stack.AnsCoder()
        raw = constriction.stream.model.Uniform(2 ** (ESCAPE // 2))
        for j in reversed(range(q.shape[1])):
            model, size = _model(table.frequencies[j])
            index = q[:, j] - table.low[j]
            outside = (index < 0) | (index >= size)
            far = (q[outside, j] + 2 ** (ESCAPE - 1)).astype(np.int64)
            coder.encode_reverse((far % 2 ** (ESCAPE // 2)).astype(np.int32), raw)
            coder.encode_reverse((far >> (ESCAPE // 2)).astype(np.int32), raw)
            coder.encode_reverse(np.where(outside, size, index).astype(np.int32), model)
        return coder.get_compressed().astype("<u4").tobytes()

    def decode(self, content: bytes, n: int, units: int, step: float) -> np.ndarray:
        """The inverse of `encode`; raises ValueError for bytes that it has not made."""
        import constriction

        coder = constriction.stream.stack.AnsCoder(np.frombuffer(content, "<u4").astype(np.uint32))
        raw = constriction.stream.model.Uniform(2 ** (ESCAPE // 2))
        table, q = self.tables[step], np.zeros((n, units), np.int64)
        for j in range(units):
            model, size = _model(table.frequencies[j])
            index = coder.decode(model, n).astype(np.int64)
            q[:, j] = index + table.low[j]
            outside = np.flatnonzero(index == size)
            high, low = (coder.decode(raw, len(outside)).astype(np.int64) for _ in range(2))
            q[outside, j] = (high << (ESCAPE // 2)) + low - 2 ** (ESCAPE - 1)
        if not coder.is_empty():
            raise ValueError("the words do not end where they began")
        return q

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all numbers."""
        found = hashlib.sha256()
        for name, array in sorted(self.stored().items()):
            found.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def stored(self) -> Arrays:
        """The arrays of which `restored` makes the same quantiser."""
        arrays = {"centre": self.centre, "forward": self.forward, "backward": self.backward}
        arrays["steps"] = np.array(list(self.tables), np.float64)
        for i, table in enumerate(self.tables.values()):
            arrays |= {f"low_{i}": table.low, f"frequencies_{i}": table.frequencies}
        return arrays


def fit(codes: np.ndarray, metric: np.ndarray, steps: Sequence[float], *, ordered: bool) -> Quantizer:
    """The quantiser of training codes [n, units] with the decoder's mean JᵀJ [units, units]; see `Quantizer`."""
    codes = codes.astype(np.float64)
    centre = np.zeros(codes.shape[1]) if ordered else codes.mean(0)
    values, vectors = np.linalg.eigh(metric)
    if ordered:
        scale = np.sqrt(np.maximum(np.diag(metric), _least(values)))
        forward, backward = np.diag(scale), np.diag(1 / scale)
    else:
        roots = np.sqrt(np.maximum(values, _least(values)))
        half, inverse = vectors * roots @ vectors.T, vectors / roots @ vectors.T
        spread, axes = np.linalg.eigh(np.atleast_2d(np.cov((codes - centre) @ half, rowvar=False)))
        axes = axes[:, np.argsort(-spread, kind="stable")]
        forward, backward = half @ axes, axes.T @ inverse
    made = Quantizer(centre, forward, backward, {})
    return dataclasses.replace(made, tables={step: _table(made.quantize(codes, step)) for step in steps})


def restored(arrays: Arrays) -> Quantizer:
    """The quantiser of `stored` arrays."""
    tables = {
        float(step): Table(arrays[f"low_{i}"], arrays[f"frequencies_{i}"]) for i, step in enumerate(arrays["steps"])
    }
    return Quantizer(arrays["centre"], arrays["forward"], arrays["backward"], tables)


def known_step(quantizer: Quantizer, step: float, name: str = "--step") -> float:
    """The step, or the first one for 0; raises InputError for one that was not fitted."""
    steps = list(quantizer.tables)
    if step and step not in steps:
        raise InputError(f"{name}={step:g}: must be one that was fitted: {', '.join(f'{s:g}' for s in steps)}")
    return step or steps[0]


def _least(values: np.ndarray) -> float:
    """A unit that the output hardly depends on counts so much, in the scale of the squared Jacobian."""
    return max(1e-6 * float(values.max()), 1e-12)


def _table(q: np.ndarray) -> Table:
    low, high = q.min(0) - MARGIN, q.max(0) + MARGIN
    frequencies = np.zeros((q.shape[1], int((high - low).max()) + 2), np.int64)
    for j in range(q.shape[1]):
        counts = np.bincount(q[:, j] - low[j], minlength=int(high[j] - low[j]) + 1)
        frequencies[j, : len(counts)], frequencies[j, -1] = _shares(np.append(counts, 0))
    return Table(low.astype(np.int64), frequencies)


def _shares(counts: np.ndarray) -> tuple[np.ndarray, int]:
    """Frequencies, at least 1, that sum to 2^PRECISION, of counts [integers, escape], each + 0.1."""
    share = np.maximum(np.floor((counts + 0.1) / (counts + 0.1).sum() * 2**PRECISION).astype(np.int64), 1)
    share[share.argmax()] += 2**PRECISION - share.sum()
    return share[:-1], int(share[-1])


def _model(frequencies: np.ndarray):  # type: ignore[no-untyped-def]
    """The distribution of the integers of one unit and the escape, and the number of integers."""
    import constriction

    used = np.append(frequencies[:-1][frequencies[:-1] > 0], frequencies[-1])
    # Multiples of 2^-24 that sum to 1: the library's integers are the same on every machine.
    return constriction.stream.model.Categorical(used * 2.0**-PRECISION, perfect=False), len(used) - 1
