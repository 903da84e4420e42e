"""Signed codes: rows of bits, compared by their Hamming distance."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from aejax.errors import InputError
from aejax.uses.neighbours import QUERIES, Neighbours

ROWS = 20_000  # most codes that a rotation is fitted to
ROUNDS = 50


class Signs(NamedTuple):
    """A map from codes [N, D] to bits [N, bits]: bit j says whether (z - mean) projection exceeds its threshold."""

    mean: np.ndarray  # [D]
    projection: np.ndarray  # [D, bits]
    threshold: np.ndarray  # [bits]

    def pack(self, codes: np.ndarray) -> np.ndarray:
        """The bits of codes [N, D], packed into uint64 [N, words]; the last word is filled up with zeros."""
        signs = (codes.reshape(len(codes), -1) - self.mean) @ self.projection > self.threshold
        packed = np.packbits(np.pad(signs, ((0, 0), (0, -signs.shape[1] % 64))), axis=1)
        return packed.view(np.uint64)


def itq(codes: np.ndarray, bits: int) -> Signs:
    """Iterative quantisation (Gong & Lazebnik, 2011): PCA to `bits` components, a rotation, the median as threshold.

    The rotation R minimises ‖B − V R‖² with B = sign(V R), V the components [N, bits] of codes [N, D]: from a random
    rotation, B and R are solved for in turn. A median threshold gives each bit both values equally often. Raises
    InputError if there are more bits than units.
    """
    codes = codes.reshape(len(codes), -1).astype(np.float64)
    if bits > codes.shape[1]:
        raise InputError(f"bits = {bits}: must be at most the {codes.shape[1]} units of a code")
    rng = np.random.default_rng(0)
    fitted = codes[np.sort(rng.permutation(len(codes))[:ROWS])]
    mean = fitted.mean(0)
    _, axes = np.linalg.eigh((fitted - mean).T @ (fitted - mean))  # ascending
    axes = axes[:, ::-1][:, :bits]
    components = (fitted - mean) @ axes
    rotation, _ = np.linalg.qr(rng.standard_normal((bits, bits)))
    for _ in range(ROUNDS):
        left, _, right = np.linalg.svd(components.T @ np.sign(components @ rotation))
        rotation = left @ right  # orthogonal Procrustes
    threshold = np.median(components @ rotation, axis=0)
    return Signs(mean.astype(np.float32), (axes @ rotation).astype(np.float32), threshold.astype(np.float32))


class Bits:
    """Rows of packed bits [N, words], ready for searches by the Hamming distance; ties are in the order of the rows."""

    def __init__(self, packed: np.ndarray):
        self.packed, self.n = packed, len(packed)

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        """The k nearest rows of queries [Q, words]; the similarity is minus the Hamming distance."""
        rows = [np.zeros((0, k), np.int64)]
        found = [np.zeros((0, k), np.float32)]
        for similarity in self.similarities(queries):
            nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
            rows.append(nearest)
            found.append(np.take_along_axis(similarity, nearest, axis=1).astype(np.float32))
        return Neighbours(np.concatenate(found), np.concatenate(rows))

    def similarities(self, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Minus the Hamming distance of queries [Q, words] to every row, in blocks int16 [b, N]."""
        for i in range(0, len(queries), QUERIES):
            block = queries[i : i + QUERIES]
            distance = np.zeros((len(block), self.n), np.int16)
            for asked, stored in zip(block.T, self.packed.T, strict=True):
                distance += np.bitwise_count(asked[:, None] ^ stored)
            yield -distance
