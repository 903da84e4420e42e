"""The compiled steps of an experiment on its data: training, evaluation, and which step is not finite."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from aejax import mesh as mesh_lib
from aejax import pairs, steps
from aejax.data import feed
from aejax.data.bags import dense
from aejax.data.dataset import Arrays, Dataset
from aejax.data.lazy import Lazy, chunks
from aejax.errors import NonFiniteError
from aejax.evaluators import units
from aejax.steps import State

BLOCK = 2**22  # bytes of examples in a dispatch, where they are not resident
SAMPLE = 2**22  # values of a streamed set that PCA is fitted to
LAST = ("learning_rate", "gradient_norm", "parameter_norm")  # metrics of which the last step's is given, no mean


class Trainer:
    """The compiled steps of an experiment, with its data on the devices."""

    def __init__(self, config: ConfigDict, data: Dataset, mesh: jax.sharding.Mesh):
        train = config.train
        self.config, self.mesh = config, mesh
        self.feed = feed.Feed(config.seed, data.spec.train, train.batch_size)
        self.waited = 0.0  # seconds that the device had nothing to do until the next examples were there
        self.steps = 0 if config.finetune.name == "none" else train.epochs * self.feed.steps_per_epoch
        self.eval_epochs = train.eval_epochs or -(-train.epochs // 50)
        self.period = self.eval_epochs * self.feed.steps_per_epoch
        self.length = feed.interval_length(self.period, train.log_steps)
        self.experiment = steps.build(config, data.spec, self.steps)

        self.put(data)
        largest = max(data.spec.validation, data.spec.test)
        self.eval_batch_size = mesh_lib.round_up(mesh, min(train.eval_batch_size, largest))

        def init() -> State:
            return steps.init(self.experiment, data.spec)

        replicated, batch = mesh_lib.replicated(mesh), mesh_lib.batch(mesh)
        shapes = jax.eval_shape(init)
        state = self._shardings = mesh_lib.state(mesh, shapes, fsdp=config.mesh.fsdp)
        # What a checkpoint is restored to, whatever devices it was saved from.
        self.abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, state)
        self._init = jax.jit(init, out_shardings=state)
        resident = replicated if self.stream is None else None
        self._train_steps = jax.jit(
            functools.partial(steps.train_steps, experiment=self.experiment),
            donate_argnums=0,
            in_shardings=(state, resident, mesh_lib.batch(mesh, 1), replicated),
            out_shardings=(state, replicated),
        )
        self._eval_step = jax.jit(
            functools.partial(steps.eval_step, experiment=self.experiment),
            in_shardings=(state, replicated, batch, batch),
            out_shardings=replicated,
        )

    def put(self, data: Dataset) -> None:
        """Train and evaluate on these data from now on; they have the shapes of the first."""
        replicated = mesh_lib.replicated(self.mesh)
        train = data.train
        held_out = {n: np.concatenate([dense(data.validation[n]), dense(data.test[n])]) for n in data.test}
        if self.config.data.binarize != "none":
            held_out = _binarize(held_out, self.experiment.key)
        if self.config.data.binarize == "static":
            train = _binarize(train, self.experiment.key)
        self.data, self.stream = data, None
        if isinstance(train["x"], Lazy):
            size = self.feed.batch_size
            self.stream = feed.Stream(self.feed, train, mesh_lib.held(self.mesh, size))
            each = sum(values.nbytes // len(values) for values in train.values())
            most = BLOCK // (each * size // jax.process_count())  # the same in all processes
            most = min(self.length, max(most, 1))
            # Steps that fill up an interval's last block cost as much as others: as few of them as can be.
            self.train_data, self.block = None, min(range(most, most // 2, -1), key=lambda k: -self.length % k)
        else:
            self.train_data, self.block = mesh_lib.put(_flat(train), replicated), self.length
        self.eval_data = mesh_lib.put(_flat(held_out), replicated)

    def init(self, begin: Callable[[Any], Any] | None = None) -> State:
        """The state at step 0; `begin` gives its parameters, from those drawn at random."""
        state = self._init()
        if begin is None:
            return state
        params = mesh_lib.put(begin(self.gather(state.params)), self._shardings.params)
        ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
        return dataclasses.replace(state, params=params, ema=ema)

    def gather(self, tree: Any) -> Any:
        """A state, or a part of one, as NumPy arrays."""
        return mesh_lib.gather(self.mesh, tree)

    def intervals(self, begin: int) -> Iterator[tuple[int, int]]:
        """The steps from `begin` to the end, cut into what runs as one dispatch; cuts lie between evaluations too."""
        return feed.intervals(begin, self.steps, self.period, self.config.train.log_steps)

    def run(self, state: State, begin: int, end: int) -> tuple[State, dict[str, float]]:
        """Steps begin..end-1; returns the state and the mean of each metric, of LAST what it is at the last step.

        Raises NonFiniteError.
        """
        found: list[Any] = []
        blocks = [(start, min(start + self.block, end)) for start in range(begin, end, self.block)]
        for start, stop in blocks:
            before, idle = time.perf_counter(), not found or found[-1]["loss"].is_ready()
            rows = self._rows(start, stop)
            self.waited += idle * (time.perf_counter() - before)
            # Every dispatch has the same length, so that one compilation serves: of a shorter one the first steps are
            # skipped, and all that follows a failure.
            skip: Any = np.arange(self.block) < self.block - (stop - start)
            if found:
                skip = skip | found[-1]["failed"]
            state, metrics = self._train_steps(state, self.train_data, rows, skip)
            jax.block_until_ready(found[-1:])  # no more than two blocks of examples wait
            found.append(metrics)
        fetched = []
        for (start, stop), metrics in zip(blocks, found, strict=True):
            taken = {name: np.ravel(value)[start - stop :] for name, value in metrics.items()}
            if not taken.pop("intact").all():
                raise FailedStep(None, start, stop, _not_finite(state))
            finite = taken.pop("finite")
            if taken.pop("failed").any():
                step = start + int(finite.argmin())
                raise FailedStep(state, step, step + 1, self._diagnose(state, step))
            fetched.append(taken)
        joined = {name: np.concatenate([taken[name] for taken in fetched]) for name in fetched[0]}
        return state, {n: float(v[-1] if n in LAST else v.mean(dtype=np.float64)) for n, v in joined.items()}

    def failure(self, state: State, begin: int, end: int) -> "FailedStep":
        """The failed one of steps begin..end-1, after which this state is not finite, and the state before it."""
        while end - begin > 1:
            middle = (begin + end) // 2
            try:
                state, begin = self.run(jax.tree.map(jnp.copy, state), begin, middle)[0], middle
            except FailedStep:
                end = middle
        return FailedStep(state, begin, end, self._diagnose(state, begin))

    def _rows(self, begin: int, end: int) -> Any:
        """What the train steps take of the examples of steps begin..end-1, filled up to a block."""
        over, sharding = self.block - (end - begin), mesh_lib.batch(self.mesh, 1)
        if self.stream is None:
            return mesh_lib.put(np.pad(self.feed.rows(begin, end), ((over, 0), (0, 0))), sharding)
        batches = self.stream.batches(begin, end)
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
        measured: dict[str, float] = {}
        for prefix, values in sums.items():
            used = units.summary(values.pop("units"), n) if "units" in values else {}
            # A term that applies to no example has no mean.
            terms = {name: float(total / weight) for name, (total, weight) in values.items() if weight}
            for name, value in terms.items():
                if not np.isfinite(value):
                    raise NonFiniteError(f"step {step}: not finite: {split} {prefix}{name} = {value}")
            loss = self.experiment.objective.loss({k: jnp.asarray(v) for k, v in terms.items()}, jnp.asarray(step))
            elbo = {"elbo": -terms["reconstruction"] - terms["kl"]} if self.experiment.objective.has_elbo else {}
            named: dict[str, Any] = {"loss": loss, **terms, **elbo, **used}
            measured |= {prefix + name: float(value) for name, value in named.items()}
        return measured

    def examples(self) -> tuple[np.ndarray, Lazy]:
        """Training (of a stream a sample) and test examples as float32, dense, binarised where the config says so."""
        x = self.data.train["x"]
        if self.stream:  # a sample
            most = max(SAMPLE // int(np.prod(self.data.spec.shape)), 1)
            x = np.concatenate(list(chunks(x[np.sort(feed.order(0, 0, len(x))[:most])])))
        train = {"x": dense(x)}
        if self.config.data.binarize != "none":
            train = _binarize(train, self.experiment.key)
        held, shape = np.asarray(self.eval_data["x"]), self.data.spec.shape
        rows = np.arange(self.data.spec.validation, len(held))
        return _float(train["x"]), Lazy(lambda rows: _float(held[rows]).reshape(-1, *shape), rows, shape, np.float32)

    def _diagnose(self, state: State, step: int) -> str:
        """The first term, gradient or array of the new state that is not finite at `step`, from the state before."""
        rows = jax.tree.map(lambda leaf: leaf[-1], self._rows(step, step + 1))
        shape = self.experiment.shape
        batch = steps.take(self.train_data, rows, shape) if self.train_data else steps.shaped(rows, shape)
        key = jax.random.fold_in(self.experiment.key, state.step)
        backward = functools.partial(steps.backward, experiment=self.experiment)
        gradients, variables, terms = jax.jit(backward)(state, batch, key)
        for name, value in terms.items():
            if name != "loss" and not np.isfinite(value):
                return f"term {name} = {float(value)}"
        if leaf := _first(gradients, _bounded):
            return f"gradient of {leaf}"
        if not np.isfinite(terms["loss"]):
            return "loss"
        update = functools.partial(steps.update, self.experiment)
        return _not_finite(jax.jit(update)(state, gradients, variables))


def _not_finite(state: State) -> str:
    """What is not finite after an update."""
    path = _first(state.params, _bounded) or _first(state, _finite)
    return f"update of {path}" if path else "norm of the gradient or of the parameters"


@jax.jit
def _bounded(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(optax.tree.norm(leaf))


@jax.jit
def _finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()


def _first(tree: Any, finite: Callable[[jax.Array], jax.Array]) -> str:
    """Path of the first array that is not finite, or ""."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not finite(leaf):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return ""


class FailedStep(NonFiniteError):
    """One of steps begin..end-1; `state` is the one before it, None where it is lost."""

    def __init__(self, state: State | None, begin: int, end: int, what: str):
        where = f"step {begin}" if end - begin == 1 else f"one of steps {begin} to {end - 1}"
        super().__init__(f"{where}: not finite: {what}")
        self.state, self.step = state, begin


def _binarize(split: Arrays, key: jax.Array) -> Arrays:
    """A split drawn once; uint8 of 0 and 255, which is 0 and 1 on the scale of the model."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return {**split, "x": np.asarray(_draw(split["x"], key))}


@jax.jit
def _draw(x: Any, key: jax.Array) -> jax.Array:
    drawn = pairs.binarize(jax.random.fold_in(key, steps.EVALUATION), pairs.scale({"x": x}))["x"]
    return drawn.astype(jnp.uint8) * 255


def _flat(split: Arrays) -> Arrays:
    return {**split, "x": dense(split["x"]).reshape(split["x"].shape[0], -1)}


def _float(x: np.ndarray) -> np.ndarray:
    return x / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32, copy=False)
