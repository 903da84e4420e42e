"""Flow matching: a velocity that carries N(0, I) to the density of some points: that of a mixture, and a network."""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from aejax.parallel import prng

LAYERS, WAVES = 3, 4  # hidden layers of the network; frequencies by which it reads the time
BATCH, RATE, DECAY = 256, 2e-3, 0.998  # points in a step, learning rate of Adam, average of the weights
TINY = 1e-6
STEPS = 32  # of the midpoint rule from t = 0 to 1
Weights = dict[str, jax.Array]


class Draws(NamedTuple):
    """What a step of the training draws."""

    noise: jax.Array  # [B, d]
    points: jax.Array  # [B, d]
    condition: jax.Array  # [B, K]
    time: jax.Array  # [B, 1]


def train(
    points: np.ndarray,
    labels: np.ndarray,
    classes: int,
    mixture: Mapping[str, np.ndarray],
    *,
    seed: int,
    steps: int,
    width: int,
) -> dict[str, np.ndarray]:
    """The arrays of v(x, t | y) for points [n, d] with labels [n] in 0..classes − 1, −1 = none.

    v is the sum of the velocity of a mixture of Gaussians, which was fitted to the points, and of a network, which is 0
    at first: the untrained flow draws from the mixture. Minimises E ‖v((1 − t) ε + t x, t | y) − (x − ε)‖² over
    ε ~ N(0, I), t ~ U(0, 1) and the points x, by Adam; Lipman et al. (2023), eq. 23 with σ = 0. Half of the labels are
    hidden, so that v(x, t) without a label is learned too. Returns a moving average of the weights.
    """
    key, d = prng.key(seed), points.shape[1]
    condition = (labels[:, None] == np.arange(classes)[None]).astype(np.float32)
    sizes = [d + classes + 2 * WAVES + 1, *[width] * LAYERS, d]
    weights: Weights = {}
    for i, (inputs, units) in enumerate(itertools.pairwise(sizes)):
        scale = 0.0 if i == LAYERS else 1 / math.sqrt(inputs)
        weights[f"kernel_{i}"] = scale * jax.random.normal(jax.random.fold_in(key, i), (inputs, units))
        weights[f"bias_{i}"] = jnp.zeros(units)
    arrays = jnp.asarray(points, jnp.float32), jnp.asarray(condition)
    fixed = {name: jnp.asarray(values, jnp.float32) for name, values in _components(mixture).items()}
    fixed["shares"] = _shares(fixed, jnp.asarray(mixture["weights"], jnp.float32), *arrays)
    average = _descend(weights, fixed, jax.random.fold_in(key, LAYERS + 1), *arrays, steps=steps)
    return {name: np.asarray(values) for name, values in {**fixed, **average}.items()}


def _components(mixture: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means [K, d] and covariances of the components of a mixture as `samplers.Sampler` stores it: variances [K, d]
    along axes [K, d, d]; without axes along the coordinates."""
    roots, means = mixture["roots"], mixture["means"]
    if roots.ndim < 3:
        return {"means": means, "variances": np.broadcast_to(roots**2, means.shape)}
    axes, deviations, _ = np.linalg.svd(roots)
    return {"means": means, "variances": deviations**2, "axes": axes}


@jax.jit
def _shares(fixed: Weights, weights: jax.Array, points: jax.Array, condition: jax.Array) -> jax.Array:
    """log p(k | y) [1 + K, components] from the responsibilities for the points: without a label, and of each label."""

    def responsibilities(point: jax.Array) -> jax.Array:
        return jax.nn.softmax(jnp.log(weights) + _of_components(fixed, point[None], jnp.ones((1, 1)))[0][0])

    found = jax.lax.map(responsibilities, points, batch_size=BATCH)  # [n, components]
    counts = jnp.concatenate([jnp.ones((len(points), 1)), condition], axis=1).T @ found + TINY
    return jnp.log(counts / counts.sum(1, keepdims=True))


@functools.partial(jax.jit, static_argnames="steps")
def _descend(
    weights: Weights, fixed: Weights, key: jax.Array, points: jax.Array, condition: jax.Array, *, steps: int
) -> Weights:
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def step(carry: tuple[Weights, optax.OptState, Weights], i: jax.Array) -> tuple[tuple, None]:
        weights, state, average = carry
        gradients = jax.grad(loss)(weights, fixed, _draw(jax.random.fold_in(key, i), points, condition))
        updates, state = optimizer.update(gradients, state)
        weights = jax.tree.map(jnp.add, weights, updates)
        kept = jnp.minimum(DECAY, (1.0 + i) / (10.0 + i))
        average = jax.tree.map(lambda a, w: kept * a + (1 - kept) * w, average, weights)
        return (weights, state, average), None

    (_, _, average), _ = jax.lax.scan(step, (weights, optimizer.init(weights), weights), jnp.arange(steps))
    return average


def _draw(key: jax.Array, points: jax.Array, condition: jax.Array) -> Draws:
    rows, noise, time, seen = (jax.random.fold_in(key, i) for i in range(4))
    chosen = jax.random.randint(rows, (BATCH,), 0, len(points))
    return Draws(
        jax.random.normal(noise, (BATCH, points.shape[1])),
        points[chosen],
        condition[chosen] * jax.random.bernoulli(seen, shape=(BATCH, 1)),
        jax.random.uniform(time, (BATCH, 1)),
    )


def loss(weights: Weights, fixed: Weights, draws: Draws) -> jax.Array:
    """Mean over the batch of the squared error of the velocity, summed over its entries."""
    noise, points, condition, time = draws
    found = velocity({**fixed, **weights}, (1 - time) * noise + time * points, time, condition)
    return jnp.mean(jnp.sum((found - (points - noise)) ** 2, axis=1))


def velocity(weights: Weights, x: jax.Array, time: jax.Array, condition: jax.Array) -> jax.Array:
    """v(x, t | y) [B, d] of x [B, d], t [B, 1] and one-hot labels [B, K]; zeros for no label."""
    phases = math.pi * time * jnp.arange(1.0, WAVES + 1)[None]
    h = jnp.concatenate([x, condition, time, jnp.sin(phases), jnp.cos(phases)], axis=1)
    for i in range(LAYERS):
        made = jax.nn.silu(h @ weights[f"kernel_{i}"] + weights[f"bias_{i}"][None])
        h = made if i == 0 else h + made
    return (
        mixture_velocity(weights, x, time, condition)
        + h @ weights[f"kernel_{LAYERS}"]
        + weights[f"bias_{LAYERS}"][None]
    )


def mixture_velocity(fixed: Weights, x: jax.Array, time: jax.Array, condition: jax.Array) -> jax.Array:
    """E[p − ε | (1 − t) ε + t p = x] [B, d] for points p from a mixture of Gaussians N(m, U diag(λ) Uᵀ).

    Of a component it is m + U [(t λ − (1 − t)) / ((1 − t)² + t² λ) · Uᵀ(x − t m)]; of all, the mean over p(k | x, y).
    """
    logs, found = _of_components(fixed, x, time)
    label = jnp.concatenate([1 - condition.sum(1, keepdims=True), condition], axis=1)
    return jnp.einsum("bk,bkd->bd", jax.nn.softmax(label @ fixed["shares"] + logs, axis=1), found)


def _of_components(fixed: Weights, x: jax.Array, time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log N(x; t m, (1 − t)² I + t² U diag(λ) Uᵀ) [B, K] of the components up to a constant; velocities [B, K, d]."""
    means, variances, t = fixed["means"], fixed["variances"][None], time[..., None]
    gaps = x[:, None] - t * means[None]  # [B, K, d]
    gaps = jnp.einsum("bkd,kde->bke", gaps, fixed["axes"]) if "axes" in fixed else gaps
    total = (1 - t) ** 2 + t**2 * variances
    logs = -0.5 * (gaps**2 / total + jnp.log(total)).sum(2)
    moved = (t * variances - (1 - t)) / total * gaps
    moved = jnp.einsum("bke,kde->bkd", moved, fixed["axes"]) if "axes" in fixed else moved
    return logs, means[None] + moved


@jax.jit
def carry(weights: Weights, noise: jax.Array, condition: jax.Array) -> jax.Array:
    """x(1) [n, d] of dx/dt = v(x, t | y) from x(0) = noise [n, d], by the midpoint rule."""
    h = 1 / STEPS

    def step(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        time = jnp.full((len(x), 1), i * h)
        middle = x + h / 2 * velocity(weights, x, time, condition)
        return x + h * velocity(weights, middle, time + h / 2, condition), None

    return jax.lax.scan(step, noise, jnp.arange(STEPS))[0]
