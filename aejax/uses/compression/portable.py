"""Elementary functions in float64 that give the same bits on every machine.

They use +, −, ×, / and rounding alone, which IEEE 754 defines to the last bit, one operation at a time and in a fixed
order. The functions of a mathematical library differ in the last bit from one library to another.
"""

import functools
from collections.abc import Callable

import numpy as np

LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
# erfc(x) = t exp(−x² + P(t)) with t = 1 / (1 + x/2): relative error below 1.2e-7. Press et al., Numerical Recipes (2nd
# edition, 1992), section 6.2.
ERFC = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
    0.17087277)  # fmt: skip


def exp(x: np.ndarray) -> np.ndarray:
    """e^x for x clipped to [−700, 700], by x = n ln 2 + r and the Taylor series of e^r."""
    x = np.clip(x, -700, 700)
    n = np.rint(x * LOG2_E)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    y = np.ones_like(r)
    for k in range(13, 0, -1):
        y = 1 + r * y / k
    return np.ldexp(y, n.astype(np.int32))


def log1p(t: np.ndarray) -> np.ndarray:
    """log(1 + t) for t in [0, 1]: 2 artanh(s) with s = t / (2 + t), by its Taylor series."""
    s = t / (2 + t)
    square, y = s * s, np.zeros_like(s)
    for k in range(35, 0, -2):
        y = y * square + 1 / k
    return 2 * s * y


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x)."""
    e = exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def tanh(x: np.ndarray) -> np.ndarray:
    """2 sigmoid(2 x) − 1; its absolute error is that of float64, its relative error near 0 is not."""
    return 2 * sigmoid(2 * x) - 1


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Φ(x) = ½ erfc(−x / √2), relative error below 1.2e-7."""
    half = np.abs(x) * 0.7071067811865476
    t, y = 1 / (1 + half / 2), np.zeros_like(half)
    for c in reversed(ERFC):
        y = y * t + c
    tail = t * exp(y - half * half) / 2
    return np.where(x > 0, 1 - tail, tail)


@functools.cache
def normal_quantiles(bits: int) -> np.ndarray:
    """Φ⁻¹(j / 2^bits) for j = 0, 1, ..., 2^bits; −40 and 40 at the ends. By bisection."""
    half = np.arange(1, 2 ** (bits - 1)) / 2**bits
    low, high = np.full_like(half, -40.0), np.zeros_like(half)
    for _ in range(60):
        middle = (low + high) / 2
        below = normal_cdf(middle) < half
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.concatenate([[-40.0], high, [0.0], -high[::-1], [40.0]])


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * (x * x * x)))) / 2


def _elu(x: np.ndarray, scale: float = 1.0, alpha: float = 1.0) -> np.ndarray:
    return scale * np.where(x > 0, x, alpha * (exp(np.minimum(x, 0)) - 1))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": sigmoid,
    "tanh": tanh,
    "softplus": lambda x: np.maximum(x, 0) + log1p(exp(-np.abs(x))),
    "silu": lambda x: x * sigmoid(x),
    "gelu": _gelu,
    "elu": _elu,
    "selu": lambda x: _elu(x, 1.0507009873554805, 1.6732632423543772),
}
