"""Flow matching: a velocity network that carries N(0, I) to the density of some points."""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from aejax.parallel import prng

LAYERS, WAVES = 3, 4  # hidden layers of the network; frequencies by which it reads the time
BATCH, RATE, DECAY = (
    256,
    2e-3,
    0.998,
)  # of the training: points in a step, learning rate of Adam, average of the weights
STEPS = 32  # of the midpoint rule from t = 0 to 1
Weights = dict[str, jax.Array]


class Draws(NamedTuple):
    """What a step of the training draws."""

    noise: jax.Array  # [B, d]
    points: jax.Array  # [B, d]
    condition: jax.Array  # [B, K]
    time: jax.Array  # [B, 1]


def train(
    points: np.ndarray, labels: np.ndarray, classes: int, *, seed: int, steps: int, width: int
) -> dict[str, np.ndarray]:
    """The weights of v(x, t | y) for points [n, d] with labels [n] in 0..classes − 1; of v(x, t) for classes = 0.

    Minimises E ‖v((1 − t) ε + t x, t | y) − (x − ε)‖² over ε ~ N(0, I), t ~ U(0, 1) and the points x, by Adam; Lipman
    et al. (2023), eq. 23 with σ = 0. Returns a moving average of the weights.
    """
    key, d = prng.key(seed), points.shape[1]
    condition = np.eye(classes, dtype=np.float32)[labels] if classes else np.zeros((len(points), 0), np.float32)
    sizes = [d + classes + 2 * WAVES + 1, *[width] * LAYERS, d]
    weights: Weights = {}
    for i, (inputs, units) in enumerate(itertools.pairwise(sizes)):
        scale = 0.0 if i == LAYERS else 1 / math.sqrt(inputs)
        weights[f"kernel_{i}"] = scale * jax.random.normal(jax.random.fold_in(key, i), (inputs, units))
        weights[f"bias_{i}"] = jnp.zeros(units)
    arrays = jnp.asarray(points, jnp.float32), jnp.asarray(condition)
    average = _descend(weights, jax.random.fold_in(key, LAYERS + 1), *arrays, steps=steps)
    return {name: np.asarray(values) for name, values in average.items()}


@functools.partial(jax.jit, static_argnames="steps")
def _descend(weights: Weights, key: jax.Array, points: jax.Array, condition: jax.Array, *, steps: int) -> Weights:
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def step(carry: tuple[Weights, optax.OptState, Weights], i: jax.Array) -> tuple[tuple, None]:
        weights, state, average = carry
        gradients = jax.grad(loss)(weights, _draw(jax.random.fold_in(key, i), points, condition))
        updates, state = optimizer.update(gradients, state)
        weights = jax.tree.map(jnp.add, weights, updates)
        kept = jnp.minimum(DECAY, (1.0 + i) / (10.0 + i))
        average = jax.tree.map(lambda a, w: kept * a + (1 - kept) * w, average, weights)
        return (weights, state, average), None

    (_, _, average), _ = jax.lax.scan(step, (weights, optimizer.init(weights), weights), jnp.arange(steps))
    return average


def _draw(key: jax.Array, points: jax.Array, condition: jax.Array) -> Draws:
    rows, noise, time = (jax.random.fold_in(key, i) for i in range(3))
    chosen = jax.random.randint(rows, (BATCH,), 0, len(points))
    return Draws(
        jax.random.normal(noise, (BATCH, points.shape[1])),
        points[chosen],
        condition[chosen],
        jax.random.uniform(time, (BATCH, 1)),
    )


def loss(weights: Weights, draws: Draws) -> jax.Array:
    """Mean over the batch of the squared error of the velocity, summed over its entries."""
    noise, points, condition, time = draws
    found = velocity(weights, (1 - time) * noise + time * points, time, condition)
    return jnp.mean(jnp.sum((found - (points - noise)) ** 2, axis=1))


def velocity(weights: Weights, x: jax.Array, time: jax.Array, condition: jax.Array) -> jax.Array:
    """v(x, t | y) [B, d] of x [B, d], t [B, 1] and one-hot labels [B, K]; zeros for no label."""
    phases = math.pi * time * jnp.arange(1.0, WAVES + 1)[None]
    h = jnp.concatenate([x, condition, time, jnp.sin(phases), jnp.cos(phases)], axis=1)
    for i in range(LAYERS):
        made = jax.nn.silu(h @ weights[f"kernel_{i}"] + weights[f"bias_{i}"][None])
        h = made if i == 0 else h + made
    return h @ weights[f"kernel_{LAYERS}"] + weights[f"bias_{LAYERS}"][None]


@jax.jit
def carry(weights: Weights, noise: jax.Array, condition: jax.Array) -> jax.Array:
    """x(1) [n, d] of dx/dt = v(x, t | y) from x(0) = noise [n, d], by the midpoint rule."""
    h = 1 / STEPS

    def step(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        time = jnp.full((len(x), 1), i * h)
        middle = x + h / 2 * velocity(weights, x, time, condition)
        return x + h * velocity(weights, middle, time + h / 2, condition), None

    return jax.lax.scan(step, noise, jnp.arange(STEPS))[0]
