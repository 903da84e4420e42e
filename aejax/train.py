"""Train an experiment: the step, the loop, evaluation, checkpoints, resumption."""

import contextlib
import dataclasses
import functools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm

from aejax import mesh as mesh_lib
from aejax import models, objective, optim, pairs, run_dir, validation
from aejax.checkpoint import Checkpoints
from aejax.data import feed, sources
from aejax.errors import NonFiniteError, Stopped
from aejax.evaluators import quality, units

Metrics = dict[str, Any]
EVALUATION = 0xE7A1  # folded into the root key: evaluation draws the same numbers at every step


@flax.struct.dataclass
class State:
    """Everything that training changes. Nothing random is in it: draws are functions of the step."""

    step: jax.Array
    params: Any
    variables: Any  # not trained by gradient: batch statistics
    opt_state: Any
    ema: Any  # average of the parameters, or None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that training does not change."""

    objective: objective.Objective
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    key: jax.Array
    shape: tuple[int, ...]  # of an example
    accumulate: int
    ema: float


def build(config: ConfigDict, spec: sources.Spec, steps: int) -> Experiment:
    """The experiment of a config on data described by `spec`."""
    return Experiment(
        objective=objective.build(config, build_model(config, spec)),
        optimizer=optim.build(config.optim, steps),
        learning_rate=optim.schedule(config.optim, steps),
        key=jax.random.key(config.seed),
        shape=spec.shape,
        accumulate=config.optim.accumulate,
        ema=config.optim.ema,
    )


def build_model(config: ConfigDict, spec: sources.Spec) -> models.Autoencoder:
    """The model of a config: what it gives out has the shape of the pair's target."""
    shape = pairs.build(config.pair).shapes(spec.shape).target.shape[1:]
    head = models.LogSigma(float(np.log(config.objective.sigma))) if config.objective.learn_sigma else None
    return models.build(**config.model.to_dict(), shape=shape, head=head)


def init(experiment: Experiment, spec: sources.Spec) -> State:
    """The state at step 0."""
    example = experiment.objective.pair.shapes(spec.shape)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
    variables = dict(experiment.objective.model.init(experiment.key, zeros.input, condition=zeros.condition))
    params = variables.pop("params")
    ema = jax.tree.map(jnp.copy, params) if experiment.ema else None
    return State(jnp.zeros((), jnp.int32), params, variables, experiment.optimizer.init(params), ema)


def train_step(state: State, batch: pairs.Batch, *, experiment: Experiment, skip: Any = False) -> tuple[State, Metrics]:
    """One update. A step whose loss, gradient or update is not finite, or that is skipped, changes nothing."""
    key = jax.random.fold_in(experiment.key, state.step)
    gradients, variables, terms = _gradients(state, batch, key, experiment)
    updates, opt_state = experiment.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = optax.incremental_update(params, state.ema, 1 - experiment.ema) if experiment.ema else None
    metrics = {
        **terms,
        "gradient_norm": optax.tree.norm(gradients),
        "parameter_norm": optax.tree.norm(params),
        "learning_rate": jnp.asarray(experiment.learning_rate(state.step), jnp.float32),
    }
    finite = functools.reduce(
        jnp.logical_and, [jnp.isfinite(metrics[name]) for name in ("loss", "gradient_norm", "parameter_norm")]
    )
    new = State(state.step + 1, params, variables, opt_state, ema)
    # The choice is fused into the update, which reads and writes these arrays anyway.
    state = jax.tree.map(functools.partial(jnp.where, finite & ~jnp.asarray(skip)), new, state)
    return state, {**metrics, "finite": finite}


def _gradients(
    state: State, batch: pairs.Batch, key: jax.Array, experiment: Experiment
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Gradient of the loss, new variables and averaged terms; in `accumulate` parts where asked."""

    def loss(params: Any, variables: Any, part: pairs.Batch, key: jax.Array) -> tuple[jax.Array, tuple[Any, Any]]:
        terms, made = experiment.objective.terms(params, variables, part, key=key, step=state.step, train=True)
        terms = objective.mean(terms)
        total = experiment.objective.loss(terms, state.step)
        if experiment.objective.units:
            n = made["code"].h.shape[0]
            terms |= units.summary(units.sums(made["code"], jnp.ones(n)), n)
        return total, (made["variables"], {"loss": total, **terms})

    gradient = jax.grad(loss, has_aux=True)
    if experiment.accumulate == 1:
        gradients, (variables, terms) = gradient(state.params, state.variables, batch, key)
        return gradients, variables, terms

    def body(variables: Any, xs: tuple[pairs.Batch, jax.Array]) -> tuple[Any, tuple[Any, Any]]:
        part, i = xs
        gradients, (variables, terms) = gradient(state.params, variables, part, jax.random.fold_in(key, i))
        return variables, (gradients, terms)

    k = experiment.accumulate
    parts = jax.tree.map(lambda x: x.reshape(k, x.shape[0] // k, *x.shape[1:]), dict(batch))
    variables, stacked = jax.lax.scan(body, state.variables, (parts, jnp.arange(k)))
    gradients, terms = jax.tree.map(lambda x: x.mean(0), stacked)
    return gradients, variables, terms


def take(data: pairs.Batch, rows: jax.Array, shape: Sequence[int]) -> dict[str, jax.Array]:
    """The batch of rows [B]; the resident examples lie flat, since wide rows are gathered several times faster."""
    return {name: values[rows].reshape(-1, *shape) if name == "x" else values[rows] for name, values in data.items()}


def train_steps(
    state: State, data: pairs.Batch, rows: jax.Array, skip: jax.Array, *, experiment: Experiment
) -> tuple[State, Metrics]:
    """Steps in one dispatch: rows [k, B] of the resident data, skip [k]. After a failed step, none is taken."""

    def body(carry: tuple[State, jax.Array], xs: tuple[jax.Array, jax.Array]) -> Any:
        state, failed = carry
        row, skip = xs
        batch = take(data, row, experiment.shape)
        state, metrics = train_step(state, batch, experiment=experiment, skip=skip | failed)
        return (state, failed | (~metrics["finite"] & ~skip)), metrics

    (state, _), metrics = jax.lax.scan(body, (state, jnp.zeros((), bool)), (rows, skip))
    return state, metrics


def eval_step(
    state: State, data: pairs.Batch, rows: jax.Array, mask: jax.Array, *, experiment: Experiment
) -> dict[str, Any]:
    """Sums over the examples of rows [B] where mask [B] is 1: of every term and its weight, and of the units.

    Terms are the objective's and the quality of images. They lie under "", and for a pair that corrupts the
    same at the clean input under "clean/".
    """
    params = state.params if state.ema is None else state.ema
    key = jax.random.fold_in(jax.random.fold_in(experiment.key, EVALUATION), rows[0])
    batch = take(data, rows, experiment.shape)

    def measure(clean: bool) -> dict[str, Any]:
        terms, made = experiment.objective.terms(
            params, state.variables, batch, key=key, step=state.step, mask=mask, clean=clean
        )
        # A scalar describes the batch and counts for each of its examples.
        measured = {name: (term, mask) for name, term in terms.items()}
        if made["example"].target.ndim == 4:
            degraded = experiment.objective.pair.degrades and not clean
            images = quality.measures(made["example"], made["mean"], degraded=degraded)
            measured |= {name: (value, weight * mask) for name, (value, weight) in images.items()}
        sums: dict[str, Any] = {n: (jnp.sum(value * w), jnp.sum(w)) for n, (value, w) in measured.items()}
        return sums | ({"units": units.sums(made["code"], mask)} if experiment.objective.units else {})

    sums = {"": measure(clean=False)}
    if experiment.objective.pair.corrupts:
        sums["clean/"] = measure(clean=True)
    return sums


class Trainer:
    """The compiled steps of an experiment, with its data on the devices."""

    def __init__(self, config: ConfigDict, data: sources.Dataset, mesh: jax.sharding.Mesh):
        train = config.train
        self.config, self.data, self.mesh = config, data, mesh
        self.feed = feed.Feed(config.seed, data.spec.train, train.batch_size)
        self.steps = train.epochs * self.feed.steps_per_epoch
        self.eval_epochs = train.eval_epochs or -(-train.epochs // 50)
        self.period = self.eval_epochs * self.feed.steps_per_epoch
        self.length = feed.interval_length(self.period, train.log_steps)
        self.experiment = build(config, data.spec, self.steps)

        replicated, batch = mesh_lib.replicated(mesh), mesh_lib.batch(mesh)
        self.train_data = jax.device_put(_flat(data.train), replicated)
        held_out = {name: np.concatenate([data.validation[name], data.test[name]]) for name in data.test}
        if config.data.binarize != "none":
            held_out = _binarize(held_out, self.experiment.key)
            if config.data.binarize == "static":
                self.train_data = jax.device_put(_flat(_binarize(data.train, self.experiment.key)), replicated)
        self.eval_data = jax.device_put(_flat(held_out), replicated)
        largest = max(data.spec.validation, data.spec.test)
        self.eval_batch_size = mesh_lib.round_up(mesh, min(train.eval_batch_size, largest))

        self._init = jax.jit(lambda: init(self.experiment, data.spec), out_shardings=replicated)
        self._train_steps = jax.jit(
            functools.partial(train_steps, experiment=self.experiment),
            donate_argnums=0,
            in_shardings=(replicated, replicated, mesh_lib.batch(mesh, 1), replicated),
            out_shardings=replicated,
        )
        self._eval_step = jax.jit(
            functools.partial(eval_step, experiment=self.experiment),
            in_shardings=(replicated, replicated, batch, batch),
            out_shardings=replicated,
        )

    def init(self) -> State:
        return self._init()

    def run(self, state: State, begin: int, end: int) -> tuple[State, dict[str, float]]:
        """Steps begin..end-1; returns the state and the mean of each metric. Raises NonFiniteError."""
        rows = np.zeros((self.length, self.config.train.batch_size), np.int32)
        rows[: end - begin] = self.feed.rows(begin, end)
        # Every interval has the same length, so that one compilation serves; the rest is skipped.
        state, metrics = self._train_steps(state, self.train_data, rows, np.arange(self.length) >= end - begin)
        fetched = {name: np.asarray(values)[: end - begin] for name, values in metrics.items()}
        finite = fetched.pop("finite")
        if not finite.all():
            step = begin + int(finite.argmin())
            raise _Failed(state, step, self._diagnose(state, step))
        last = ("learning_rate", "parameter_norm")
        return state, {n: float(v[-1] if n in last else v.mean(dtype=np.float64)) for n, v in fetched.items()}

    def evaluate(self, state: State, split: str) -> dict[str, float]:
        """Means over a held-out split, every example counted once; terms unweighted, loss as trained.

        Raises NonFiniteError.
        """
        n, offset = getattr(self.data.spec, split), 0 if split == "validation" else self.data.spec.validation
        sums: Any = None
        for rows, mask in zip(*feed.batches(n, self.eval_batch_size), strict=True):
            batch = self._eval_step(state, self.eval_data, rows + np.int32(offset), mask)
            batch = jax.tree.map(lambda a: np.asarray(a, np.float64), batch)
            sums = batch if sums is None else jax.tree.map(np.add, sums, batch)
        measured: dict[str, float] = {}
        for prefix, values in sums.items():
            used = units.summary(values.pop("units"), n) if "units" in values else {}
            # A term that applies to no example has no mean.
            terms = {name: float(total / weight) for name, (total, weight) in values.items() if weight}
            for name, value in terms.items():
                if not np.isfinite(value):
                    raise NonFiniteError(f"step {int(state.step)}: not finite: {split} {prefix}{name} = {value}")
            loss = self.experiment.objective.loss({k: jnp.asarray(v) for k, v in terms.items()}, state.step)
            elbo = {"elbo": -terms["reconstruction"] - terms["kl"]} if self.experiment.objective.has_elbo else {}
            named: dict[str, Any] = {"loss": loss, **terms, **elbo, **used}
            measured |= {prefix + name: float(value) for name, value in named.items()}
        return measured

    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and test examples as float32, binarised where the config says so."""
        train = self.data.train
        if self.config.data.binarize != "none":
            train = _binarize(train, self.experiment.key)
        test = np.asarray(self.eval_data["x"])[self.data.spec.validation :]
        return _float(train["x"]), _float(test).reshape(-1, *self.data.spec.shape)

    def _diagnose(self, state: State, step: int) -> str:
        """The first term, gradient or update of a parameter that is not finite at `step`."""
        row = self.feed.rows(step, step + 1)[0]
        batch = take(self.train_data, row, self.experiment.shape)
        key = jax.random.fold_in(self.experiment.key, state.step)
        gradients, _, terms = _gradients(state, batch, key, self.experiment)
        for name, value in terms.items():
            if name != "loss" and not np.isfinite(value):
                return f"term {name} = {float(value)}"
        updates, _ = self.experiment.optimizer.update(gradients, state.opt_state, state.params)
        for name, tree in (("gradient", gradients), ("update", optax.apply_updates(state.params, updates))):
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                if not np.isfinite(optax.tree.norm(leaf)):
                    return f"{name} of {'/'.join(str(entry.key) for entry in path)}"
        return "loss, or norm of the gradient or of the updated parameters"


class _Failed(NonFiniteError):
    def __init__(self, state: State, step: int, leaf: str):
        super().__init__(f"step {step}: not finite: {leaf}; the state before it is saved")
        self.state, self.step = state, step


def _binarize(split: sources.Arrays, key: jax.Array) -> sources.Arrays:
    """A split drawn once; uint8 of 0 and 255, which is 0 and 1 on the scale of the model."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        drawn = pairs.binarize(jax.random.fold_in(key, EVALUATION), pairs.scale({"x": jnp.asarray(split["x"])}))
        return {**split, "x": np.asarray(drawn["x"]).astype(np.uint8) * 255}


def _flat(split: sources.Arrays) -> sources.Arrays:
    return {**split, "x": split["x"].reshape(len(split["x"]), -1)}


def _float(x: np.ndarray) -> np.ndarray:
    return x / np.float32(255) if x.dtype == np.uint8 else x


def run(config: ConfigDict, workdir: str | Path | None = None, data: sources.Dataset | None = None) -> dict[str, float]:
    """Train `config` in `workdir`, or go on with what is there; returns the results.

    Raises InputError before anything is written, NonFiniteError, and Stopped after SIGTERM; in the
    last two cases the last good state has been saved.
    """
    validation.validate(config)
    data = data or sources.load(config)
    validation.validate_shapes(config, data.spec)
    mesh = mesh_lib.make(config.mesh.data)
    mesh_lib.check_batch(mesh, "train.batch_size", config.train.batch_size)
    path = Path(workdir) if workdir else run_dir.default_path(config)
    with run_dir.opened(path, config, data.spec):
        print(f"run directory: {path}", flush=True)
        results = run_dir.read_results(path)
        if results is None:
            results = _train(config, path, data, mesh)
    return results


def _train(config: ConfigDict, path: Path, data: sources.Dataset, mesh: jax.sharding.Mesh) -> dict[str, float]:
    from aejax import results as results_lib

    trainer = Trainer(config, data, mesh)
    folder, validation = path / run_dir.CHECKPOINTS, bool(data.spec.validation)
    with contextlib.ExitStack() as stack:
        last = stack.enter_context(Checkpoints(folder / "last", config.checkpoint.max_to_keep))
        best = stack.enter_context(Checkpoints(folder / "best")) if validation else None
        state, meta = trainer.init(), {"seconds": 0.0, "best": float("inf")}
        begin = last.latest() or 0
        if begin:
            state, meta = last.restore(begin, state)
        writer = stack.enter_context(contextlib.closing(run_dir.Writer(path, begin)))
        stop = stack.enter_context(_sigterm())
        bar = stack.enter_context(
            tqdm(total=trainer.steps, initial=begin, unit="step", disable=None if config.train.progress else True)
        )
        rates, clock = [], time.perf_counter()
        for start, end in feed.intervals(begin, trainer.steps, trainer.period, config.train.log_steps):
            before = time.perf_counter()
            try:
                state, metrics = trainer.run(state, start, end)
            except _Failed as failed:
                last.save(failed.step, failed.state, meta)
                raise
            rates.append((end - start) * config.train.batch_size / (time.perf_counter() - before))
            epoch = end / trainer.feed.steps_per_epoch
            writer.write(end, epoch, "train", metrics | {"examples_per_second": rates[-1]})
            bar.update(end - start)
            bar.set_postfix_str(f"loss {metrics['loss']:.4g}, {rates[-1]:.3g} examples/s")
            if end % trainer.period == 0 or end == trainer.steps:
                for split in ("validation", "test") if validation else ("test",):
                    held_out = trainer.evaluate(state, split)
                    writer.write(end, epoch, split, held_out)
                    if best and split == "validation" and held_out["loss"] < meta["best"]:
                        meta["best"] = held_out["loss"]
                        best.save(end, state, meta)
            due = end // config.checkpoint.every_steps != start // config.checkpoint.every_steps
            if due or end == trainer.steps or stop():
                now = time.perf_counter()
                meta["seconds"], clock = meta["seconds"] + now - clock, now
                last.save(end, state, meta)
            if stop() and end < trainer.steps:
                raise Stopped(f"stopped at step {end} of {trainer.steps}; the same command goes on from there")
        last.wait()
        bar.close()
        # The first interval holds the compilation.
        speed = {"examples_per_second": float(np.median(rates[1:] or rates))} if rates else {}
        results = results_lib.finish(trainer, state, path)
        results |= {"seconds": meta["seconds"], **speed}
        run_dir.write_results(path, results)
    return results


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM no longer ends the process; the function says whether one has come."""
    received: list[int] = []
    try:
        previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    except ValueError:  # not the main thread: signals are somebody else's
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)
