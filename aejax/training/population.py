"""Several seeds of one experiment, trained in one compiled program."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data.dataset import Dataset
from aejax.data.feed import Feed
from aejax.errors import NonFiniteError
from aejax.experiment import Experiment, State
from aejax.parallel import prng
from aejax.training import step as step_lib
from aejax.training.trainer import flat


def train(
    experiment: Experiment, data: Dataset, seeds: Sequence[int], rows: Sequence[np.ndarray]
) -> tuple[list[State], np.ndarray]:
    """The final state for each seed as NumPy arrays, and the loss [members, steps].

    Member m sees the training rows `rows[m]` alone. On the same rows it equals a run with its seed up to rounding.
    The data must fit on one device. Raises NonFiniteError.
    """
    config = experiment.config
    feeds = [Feed(seed, len(own), config.train.batch_size) for seed, own in zip(seeds, rows, strict=True)]
    keys = jnp.stack([prng.key(seed) for seed in seeds])
    resident = jax.tree.map(jnp.asarray, flat(data.train))

    def init(key: jax.Array) -> State:
        return dataclasses.replace(experiment, key=key).init()

    def steps(state: State, key: jax.Array, data: Any, rows: jax.Array, skip: jax.Array) -> Any:
        return step_lib.train_steps(state, data, rows, skip, experiment=dataclasses.replace(experiment, key=key))

    states = jax.jit(jax.vmap(init))(keys)
    advance = jax.jit(jax.vmap(steps, in_axes=(0, 0, None, 0, None)), donate_argnums=0)
    size = min(config.train.log_steps, experiment.steps)
    losses = []
    for start in range(0, experiment.steps, size):
        end = min(start + size, experiment.steps)
        taken = [own[feed.rows(start, end)] for feed, own in zip(feeds, rows, strict=True)]
        padded = np.pad(np.stack(taken).astype(np.int32), ((0, 0), (size - (end - start), 0), (0, 0)))
        skip = np.arange(size) < size - (end - start)
        states, metrics = advance(states, keys, resident, padded, skip)
        if np.asarray(metrics["failed"]).any():
            member = int(np.asarray(metrics["failed"]).argmax())
            raise NonFiniteError(f"seed {seeds[member]}: not finite: loss in steps {start} to {end - 1}")
        losses.append(np.asarray(metrics["loss"])[:, size - (end - start) :])
    host = jax.tree.map(np.asarray, states)
    members = [jax.tree.map(lambda leaf, m=m: leaf[m], host) for m in range(len(seeds))]
    return members, np.concatenate(losses, axis=1)
