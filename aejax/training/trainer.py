"""The compiled steps of an experiment on its data: training and evaluation."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data import feed
from aejax.data.bags import dense
from aejax.data.dataset import Arrays, Dataset
from aejax.data.lazy import Lazy
from aejax.errors import NonFiniteError
from aejax.experiment import Experiment, State
from aejax.losses import units
from aejax.pairs import splits
from aejax.parallel import mesh as mesh_lib
from aejax.training import nonfinite
from aejax.training import step as step_lib

BLOCK = 2**22  # bytes of examples in a dispatch, if they are streamed
InitialParams = Callable[[Any], Any]  # parameters drawn at random -> parameters to start from
LAST = ("learning_rate", "gradient_norm", "parameter_norm")  # metrics with the last step's value instead of a mean


class Trainer:
    """The compiled steps of an experiment, with its data on the devices."""

    def __init__(self, experiment: Experiment, data: Dataset, mesh: jax.sharding.Mesh):
        config, train = experiment.config, experiment.config.train
        self.experiment, self.config, self.mesh = experiment, config, mesh
        self.feed = feed.Feed(config.seed, data.spec.train, train.batch_size)
        self.waited = 0.0  # seconds that the device was idle, waiting for examples
        self.steps = experiment.steps
        self.period = feed.period(self.steps, self.feed.steps_per_epoch, train.eval_epochs)
        method = experiment.method
        self.cut = math.gcd(self.period, method.refresh_steps) if method.refreshes else self.period
        self.length = feed.interval_length(self.cut, train.log_steps)

        self.put(data)
        largest = max(data.spec.validation, data.spec.test)
        self.eval_batch_size = mesh_lib.round_up(mesh, min(train.eval_batch_size, largest))

        replicated, batch = mesh_lib.replicated(mesh), mesh_lib.batch(mesh)
        shapes = jax.eval_shape(experiment.init)
        state = self._shardings = mesh_lib.state(mesh, shapes, fsdp=config.mesh.fsdp)
        # What a checkpoint is restored to, whatever devices it was saved from.
        self.abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, state)
        self._init = jax.jit(experiment.init, out_shardings=state)
        resident = replicated if self.stream is None else None
        self._train_steps = jax.jit(
            functools.partial(step_lib.train_steps, experiment=self.experiment),
            donate_argnums=0,
            in_shardings=(state, resident, mesh_lib.batch(mesh, 1), replicated),
            out_shardings=(state, replicated),
        )
        self._eval_step = jax.jit(
            functools.partial(step_lib.eval_step, experiment=self.experiment),
            in_shardings=(state, replicated, batch, batch),
            out_shardings=replicated,
        )
        self._summary = jax.jit(
            lambda params, variables, x: method.summary(
                experiment.objective, params, variables, step_lib.shaped({"x": x}, experiment.shape)
            ),
            in_shardings=(state.params, state.variables, batch),
            out_shardings=replicated,
        )

    def put(self, data: Dataset) -> None:
        """Train and evaluate on these data from now on; they must have the shapes of the first."""
        replicated = mesh_lib.replicated(self.mesh)
        train = data.train
        held_out = splits.held_out(self.config, self.experiment.evaluation_key, data)
        if self.config.data.binarize == "static":
            train = splits.drawn(train, self.experiment.key)
        self.data, self.stream, self._examples = data, None, train["x"]
        if isinstance(train["x"], Lazy):
            size = self.feed.batch_size
            self.stream = feed.Stream(self.feed, train, mesh_lib.held(self.mesh, size))
            each = sum(values.nbytes // len(values) for values in train.values())
            most = BLOCK // (each * size // jax.process_count())  # the same in all processes
            most = min(self.length, max(most, 1))
            # Steps that pad an interval's last block cost as much as others: choose the size with the fewest.
            self.train_data, self.block = None, min(range(most, most // 2, -1), key=lambda k: -self.length % k)
        else:
            self.train_data, self.block = mesh_lib.put(flat(train), replicated), self.length
        self.eval_data = mesh_lib.put(flat(held_out), replicated)

    def init(self, initial_params: InitialParams | None = None) -> State:
        """The state at step 0; `initial_params` gives its parameters, from those drawn at random."""
        state = self._init()
        if initial_params is not None:
            params = mesh_lib.put(initial_params(self.gather(state.params)), self._shardings.params)
            ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
            state = dataclasses.replace(state, params=params, ema=ema)
        return self._refreshed(state)[0]

    def gather(self, tree: Any) -> Any:
        """A state, or a part of one, as NumPy arrays."""
        return mesh_lib.gather(self.mesh, tree)

    def intervals(self, start_step: int) -> Iterator[tuple[int, int]]:
        """The steps from `start_step` to the end, cut into dispatches at and between evaluations and refreshes."""
        return feed.intervals(start_step, self.steps, self.cut, self.config.train.log_steps)

    def run(self, state: State, start: int, end: int) -> tuple[State, dict[str, float]]:
        """Steps start..end-1, and the refresh that is due after them, if any.

        Returns the state and the mean of each metric, or for LAST the value at the last step. Raises
        nonfinite.FailedSteps.
        """
        dispatched: list[Any] = []
        blocks = [(first, min(first + self.block, end)) for first in range(start, end, self.block)]
        for first, stop in blocks:
            before, idle = time.perf_counter(), not dispatched or dispatched[-1]["loss"].is_ready()
            rows = self._rows(first, stop)
            self.waited += idle * (time.perf_counter() - before)
            # Every dispatch has the same length, so that one compilation serves. A shorter one skips its first steps;
            # after a failure all steps are skipped.
            skip: Any = np.arange(self.block) < self.block - (stop - first)
            if dispatched:
                skip = skip | dispatched[-1]["failed"]
            state, metrics = self._train_steps(state, self.train_data, rows, skip)
            jax.block_until_ready(dispatched[-1:])  # at most two blocks of examples wait
            dispatched.append(metrics)
        fetched = []
        for (first, stop), metrics in zip(blocks, dispatched, strict=True):
            taken = {name: np.ravel(value)[first - stop :] for name, value in metrics.items()}
            if not taken.pop("intact").all():
                raise nonfinite.lost(state, first, stop)
            finite = taken.pop("finite")
            if taken.pop("failed").any():
                failed = first + int(finite.argmin())
                raise nonfinite.failed_step(self, state, failed)
            fetched.append(taken)
        joined = {name: np.concatenate([taken[name] for taken in fetched]) for name in fetched[0]}
        state, refreshed = self._refreshed(state)
        measured = {n: float(v[-1] if n in LAST else v.mean(dtype=np.float64)) for n, v in joined.items()}
        return state, measured | refreshed

    def over(self, state: State) -> str:
        """Why training ends at this state before the last step, or ""."""
        method = self.experiment.method
        return method.over(state.variables) if method.refreshes else ""

    def _refreshed(self, state: State) -> tuple[State, dict[str, float]]:
        """The state after the method's refresh, if one is due, and its metrics."""
        method, own = self.experiment.method, self._shardings
        if not method.refreshes or int(state.step) % method.refresh_steps:
            return state, {}
        before = self.gather(dataclasses.replace(state, opt_state=None))
        after, metrics = method.refresh(before, lambda: self._summaries(state))
        if after is before:
            return state, metrics
        parts = {
            name: mesh_lib.put(getattr(after, name), getattr(own, name)) for name in ("params", "variables", "ema")
        }
        return dataclasses.replace(state, **parts), metrics

    def _summaries(self, state: State) -> np.ndarray:
        """The method's summaries of the training examples [N, ...], in order."""
        n, sharding = self.data.spec.train, mesh_lib.batch(self.mesh)
        size = mesh_lib.round_up(self.mesh, min(self.config.train.eval_batch_size, n))
        found = []
        for rows, _ in zip(*feed.batches(n, size), strict=True):
            x = np.asarray(dense(self._examples[rows])).reshape(size, -1)
            found.append(np.asarray(self._summary(state.params, state.variables, mesh_lib.put(x, sharding))))
        return np.concatenate(found)[:n]

    def batch(self, step: int) -> Mapping[str, jax.Array]:
        """The examples of one step."""
        rows = jax.tree.map(lambda leaf: leaf[-1], self._rows(step, step + 1))
        shape = self.experiment.shape
        return step_lib.take(self.train_data, rows, shape) if self.train_data else step_lib.shaped(rows, shape)

    def _rows(self, start: int, end: int) -> Any:
        """The rows of steps start..end-1, as the train steps take them, padded to a block."""
        over, sharding = self.block - (end - start), mesh_lib.batch(self.mesh, 1)
        if self.stream is None:
            return mesh_lib.put(np.pad(self.feed.rows(start, end), ((over, 0), (0, 0))), sharding)
        batches = self.stream.batches(start, end)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches[:1] * over, *batches)
        return mesh_lib.put_held(stacked, self.stream.held, self.feed.batch_size, sharding)

    def evaluate(self, state: State, split: str) -> dict[str, float]:
        """Means over a held-out split, every example counted once; terms unweighted, loss as trained.

        Raises NonFiniteError.
        """
        n, offset = getattr(self.data.spec, split), 0 if split == "validation" else self.data.spec.validation
        sums: Any = None
        step = int(state.step)
        for rows, mask in zip(*feed.batches(n, self.eval_batch_size), strict=True):
            placed = mesh_lib.put((rows + np.int32(offset), mask), mesh_lib.batch(self.mesh))
            batch = self._eval_step(state, self.eval_data, *placed)
            batch = jax.tree.map(lambda a: np.asarray(a, np.float64), batch)
            sums = batch if sums is None else jax.tree.map(np.add, sums, batch)
        return summary(self.experiment, sums, n, step, split)


def summary(experiment: Experiment, sums: dict[str, Any], n: int, step: int, split: str) -> dict[str, float]:
    """The numbers of a split of n examples from the sums of its batches by `eval_step`; raises NonFiniteError."""
    measured: dict[str, float] = {}
    for prefix, values in sums.items():
        used = units.summary(values.pop("units"), n) if "units" in values else {}
        # A term that applies to no example has no mean.
        terms = {name: float(total / weight) for name, (total, weight) in values.items() if weight}
        for name, value in terms.items():
            if not np.isfinite(value):
                raise NonFiniteError(f"step {step}: not finite: {split} {prefix}{name} = {value}")
        loss = experiment.objective.loss({k: jnp.asarray(v) for k, v in terms.items()}, jnp.asarray(step))
        elbo = {"elbo": -terms["reconstruction"] - terms["kl"]} if experiment.objective.has_elbo else {}
        named: dict[str, Any] = {"loss": loss, **terms, **elbo, **used}
        measured |= {prefix + name: float(value) for name, value in named.items()}
    return measured


def flat(split: Arrays) -> Arrays:
    """A split with its examples dense and flat, [N, D], as they lie on the device."""
    return {**split, "x": dense(split["x"]).reshape(split["x"].shape[0], -1)}
