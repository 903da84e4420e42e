"""Multinomial logistic regression at several strengths of the L2 penalty at once, on the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

ITERATIONS = 200
TOLERANCE = 1e-5  # for the largest entry of the gradient


def fit(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    strengths: Sequence[float],
    start: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> np.ndarray:
    """Weights [S, D + 1, K], the last row the intercepts, for examples [N, D] with labels y [N] in 0..classes − 1.

    For each strength C the minimum over W, b of

        1/N Σ_i −log softmax(x_i W + b)[y_i] + ‖W‖² / (2 C N),

    the objective of scikit-learn's LogisticRegression(C) divided by C N. K = classes; for two classes K = 1 and the
    first logit is 0, as in scikit-learn. `start` [D + 1, K]: initial weights, such as those of another strength.
    `tolerance`: for the largest entry of the gradient, in the coordinates below.

    L-BFGS on the sum over the strengths, in coordinates that save iterations: x is rotated to the axes of its
    covariance, and each axis is scaled by its curvature, about a quarter of its variance (Böhning, 1992: at most a
    half), plus the curvature of the penalty.
    """
    from scipy.optimize import minimize  # takes a fifth of a second: imported after training

    mean = x.mean(0)
    variance, axes = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    penalties = 1 / (np.asarray(strengths, np.float32) * len(x))
    scales = np.ones((len(penalties), x.shape[1] + 1, 1), np.float32)
    scales[:, :-1, 0] = 1 / np.sqrt(np.maximum(variance, 0)[None] / 4 + penalties[:, None] + 1e-12)
    if start is None:
        start = np.zeros((x.shape[1] + 1, 1 if classes == 2 else classes), np.float32)
    turned = np.concatenate([axes.T @ start[:-1], start[-1:] + mean @ start[:-1]])
    labels = np.eye(classes, dtype=np.float32)[y]
    arguments = jax.device_put(((x - mean) @ axes, labels, penalties, scales))

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _loss(flat.reshape(-1, *turned.shape).astype(np.float32), *arguments)
        return float(value), np.asarray(gradient, np.float64).ravel()

    options = {"maxiter": ITERATIONS, "maxcor": 30, "gtol": tolerance, "ftol": 0.0}
    found = minimize(value_and_gradient, (turned / scales).ravel(), jac=True, method="L-BFGS-B", options=options)
    weights = found.x.reshape(scales.shape[0], *turned.shape) * scales
    slopes = axes @ weights[:, :-1]
    return np.concatenate([slopes, weights[:, -1:] - (mean @ slopes)[:, None]], axis=1)


def predict(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The most probable class [N] of examples [N, D], given weights [D + 1, K]."""
    logits = x @ weights[:-1] + weights[-1]
    return (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(1)


@jax.jit
@jax.value_and_grad
def _loss(scaled: jax.Array, x: jax.Array, y: jax.Array, penalties: jax.Array, scales: jax.Array) -> jax.Array:
    """The objective summed over the strengths, for weights [S, D + 1, K] divided by their scales."""
    weights = scaled * scales
    logits = jnp.einsum("nd,sdk->snk", x, weights[:, :-1]) + weights[:, -1:]
    if logits.shape[-1] == 1:
        logits = jnp.pad(logits, ((0, 0), (0, 0), (1, 0)))
    entropy = optax.softmax_cross_entropy(logits, y[None]).mean(1)
    return jnp.sum(entropy + penalties / 2 * jnp.sum(weights[:, :-1] ** 2, axis=(1, 2)))
