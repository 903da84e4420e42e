"""Bits-back coding with asymmetric numeral systems: lossless compression of binary examples by a variational
autoencoder. Townsend, Bird & Barber (2019), Practical lossless compression with latent variables using bits back
coding."""

import math
from collections.abc import Iterator

import numpy as np

from aejax.errors import InputError
from aejax.trained import Trained
from aejax.uses.compression.fixed_point import Network
from aejax.uses.compression.portable import exp, normal_cdf, normal_quantiles, sigmoid

PRECISION = 24  # bits of a probability
DEPTH = 12  # the prior of a unit is 2^12 intervals of equal probability
BLOCK = 64  # most examples that are coded together
SEED = 0x5EED  # of the words that the coder starts with
LEAST = 2  # words that must be left on the coder


class BitsBack:
    """Compresses binary examples [N, D] to words: D pixels p(x|z) = Bernoulli, units p(z) = N(0, I), q(z|x) = N(m, s²).

    For each block of examples the encoder pops z from the coder with q(z|x), and pushes x with p(x|z) and z with p(z).
    An example costs −log p(x, z) + log q(z|x) bits, whose expectation is the negative ELBO. The intervals of z have
    probability 2^-DEPTH each under the prior. All probabilities are integers that `fixed_point` computes, so that every
    machine decodes the file.
    """

    def __init__(self, trained: Trained, batch: int = 1024):
        refuse(trained)
        self.pixels, self.units = math.prod(trained.spec.x.shape), trained.config.model.bottleneck.size
        grid = normal_quantiles(DEPTH + 1)
        self.edges, self.centres = grid[::2], grid[1::2]  # of the intervals
        self.encoder, self.batch = Network(trained, "encoder", 1.0), batch
        self.decoder = Network(trained, "decoder", float(-grid[1]) + 1)

    def compress(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """Words uint32 for examples [N, D] of 0 and 1, and how many of them the coder started with."""
        seed = -(-self.units * DEPTH // 32) + 2 * LEAST
        while True:
            words = self._compress(x, seed)
            if words is not None:
                return words, seed
            seed += -(-seed // 4)

    def _compress(self, x: np.ndarray, seed: int) -> np.ndarray | None:
        """The words; None if the coder runs out of bits to pop."""
        import constriction

        drawn = np.random.default_rng(SEED).integers(1, 2**32, seed, dtype=np.uint32)
        coder = constriction.stream.stack.AnsCoder(drawn)
        uniform, bernoulli = _models()
        mean, deviation = self._posterior(x)
        for rows in _blocks(len(x)):
            z = self._pop(coder, bernoulli, mean[rows], deviation[rows])
            if coder.num_words() < LEAST:
                return None
            p = self._probabilities(z)
            coder.encode_reverse(x[rows].ravel().astype(np.int32), bernoulli, p)
            coder.encode_reverse(z.ravel().astype(np.int32), uniform)
        words: np.ndarray = coder.get_compressed()
        return words

    def decompress(self, words: np.ndarray, n: int, seed: int) -> np.ndarray:
        """Examples uint8 [n, D] of 0 and 1; raises ValueError for words that `compress` has not made."""
        import constriction

        coder = constriction.stream.stack.AnsCoder(words)
        uniform, bernoulli = _models()
        x = np.zeros((n, self.pixels), np.uint8)
        for rows in reversed(list(_blocks(n))):
            count = rows.stop - rows.start
            z = coder.decode(uniform, count * self.units).reshape(count, self.units)
            x[rows] = coder.decode(bernoulli, self._probabilities(z)).reshape(count, self.pixels)
            self._push(coder, bernoulli, z, *self._posterior(x[rows]))
        if coder.num_words() != seed:
            raise ValueError("the words do not end where they began")
        return x

    def _posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of q(z|x), [n, units] each."""
        both = self.encoder(x, self.batch)
        return both[:, : self.units], exp(both[:, self.units :] / 2)

    def _probabilities(self, z: np.ndarray) -> np.ndarray:
        """Probabilities [n D] of a 1, from intervals z [n, units]."""
        logits = self.decoder(self.centres[z], self.batch)
        return _rounded(sigmoid(logits)).ravel()

    def _pop(self, coder, bernoulli, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
        """Intervals z [n, units] drawn from q(z|x) by the bits of the coder: one bit of z after another."""
        z = np.zeros(mean.shape, np.int64)
        for level in range(DEPTH):
            bit = coder.decode(bernoulli, self._upper(z, level, mean, deviation).ravel())
            z = 2 * z + bit.reshape(z.shape)
        return z

    def _push(self, coder, bernoulli, z: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> None:  # type: ignore[no-untyped-def]
        """The inverse of `_pop`."""
        for level in reversed(range(DEPTH)):
            above = z >> (DEPTH - level)
            bit = (z >> (DEPTH - level - 1) & 1).astype(np.int32)
            coder.encode_reverse(bit.ravel(), bernoulli, self._upper(above, level, mean, deviation).ravel())

    def _upper(self, z: np.ndarray, level: int, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """q(the next bit of z is 1 | its first `level` bits), [n, units]."""
        width = 2 ** (DEPTH - level)
        low, middle, high = ((self.edges[z * width + part] - mean) / deviation for part in (0, width // 2, width))
        # In the lower tail, where differences of Φ are exact: above the middle both are mirrored.
        sign = np.where(middle > 0, -1.0, 1.0)
        centre = normal_cdf(sign * middle)
        below, above = np.abs(centre - normal_cdf(sign * low)), np.abs(normal_cdf(sign * high) - centre)
        total = below + above
        share = np.where(total > 0, above / np.where(total > 0, total, 1), middle < 0)
        return _rounded(share)


def refuse(trained: Trained) -> None:
    """Raise InputError unless the model is a variational autoencoder with binary pixels and the prior N(0, I)."""
    config, pair = trained.config, trained.objective.pair
    needed = {
        "model.bottleneck.name": (config.model.bottleneck.name, "gaussian"),
        "objective.likelihood": (config.objective.likelihood, "bernoulli"),
        "model.name": (config.model.name, "mlp"),
    }
    for field, (value, allowed) in needed.items():
        if value != allowed:
            raise InputError(f"lossless compression needs {field} = {allowed!r}; this model has {value!r}")
    if config.pair.name not in ("reconstruct", "denoise") or pair.supervised:
        raise InputError(
            f"lossless compression needs pair.name = 'reconstruct' or 'denoise'; this model has {config.pair.name!r}"
        )
    if config.pair.input != "identity" or trained.spec.x.groups:
        raise InputError("lossless compression needs pair.input = 'identity' and a table without categories")


def _blocks(n: int) -> Iterator[slice]:
    """Slices of examples that are coded together: small ones first, since their z is popped before x is pushed."""
    start = 0
    while start < n:
        size = min(max(start // 32, 1), BLOCK, n - start)
        yield slice(start, start + size)
        start += size


def _models():  # type: ignore[no-untyped-def]
    """The uniform distribution of an interval, and the family of Bernoulli distributions."""
    import constriction

    return constriction.stream.model.Uniform(2**DEPTH), constriction.stream.model.Bernoulli(perfect=False)


def _rounded(p: np.ndarray) -> np.ndarray:
    """Probabilities as multiples of 2^-PRECISION, neither 0 nor 1."""
    return np.clip(np.rint(p * 2.0**PRECISION), 1, 2.0**PRECISION - 1) * 2.0**-PRECISION
