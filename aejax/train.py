"""Train an experiment: the compiled steps, the loop, evaluation, checkpoints, resumption."""

import contextlib
import functools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm

from aejax import mesh as mesh_lib
from aejax import pairs, run_dir, steps, validation
from aejax.checkpoint import Checkpoints
from aejax.data import feed, sources
from aejax.data.bags import dense
from aejax.data.dataset import Arrays, Dataset
from aejax.errors import NonFiniteError, Stopped
from aejax.evaluators import units
from aejax.steps import State


class Trainer:
    """The compiled steps of an experiment, with its data on the devices."""

    def __init__(self, config: ConfigDict, data: Dataset, mesh: jax.sharding.Mesh):
        train = config.train
        self.config, self.data, self.mesh = config, data, mesh
        self.feed = feed.Feed(config.seed, data.spec.train, train.batch_size)
        self.steps = train.epochs * self.feed.steps_per_epoch
        self.eval_epochs = train.eval_epochs or -(-train.epochs // 50)
        self.period = self.eval_epochs * self.feed.steps_per_epoch
        self.length = feed.interval_length(self.period, train.log_steps)
        self.experiment = steps.build(config, data.spec, self.steps)

        replicated, batch = mesh_lib.replicated(mesh), mesh_lib.batch(mesh)
        self.train_data = jax.device_put(_flat(data.train), replicated)
        held_out = {name: np.concatenate([dense(s[name]) for s in (data.validation, data.test)]) for name in data.test}
        if config.data.binarize != "none":
            held_out = _binarize(held_out, self.experiment.key)
            if config.data.binarize == "static":
                self.train_data = jax.device_put(_flat(_binarize(data.train, self.experiment.key)), replicated)
        self.eval_data = jax.device_put(_flat(held_out), replicated)
        largest = max(data.spec.validation, data.spec.test)
        self.eval_batch_size = mesh_lib.round_up(mesh, min(train.eval_batch_size, largest))

        self._init = jax.jit(lambda: steps.init(self.experiment, data.spec), out_shardings=replicated)
        self._train_steps = jax.jit(
            functools.partial(steps.train_steps, experiment=self.experiment),
            donate_argnums=0,
            in_shardings=(replicated, replicated, mesh_lib.batch(mesh, 1), replicated),
            out_shardings=replicated,
        )
        self._eval_step = jax.jit(
            functools.partial(steps.eval_step, experiment=self.experiment),
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
        """Training and test examples as float32, dense, binarised where the config says so."""
        train = {"x": dense(self.data.train["x"])}
        if self.config.data.binarize != "none":
            train = _binarize(train, self.experiment.key)
        test = np.asarray(self.eval_data["x"])[self.data.spec.validation :]
        return _float(train["x"]), _float(test).reshape(-1, *self.data.spec.shape)

    def _diagnose(self, state: State, step: int) -> str:
        """The first term, gradient or update of a parameter that is not finite at `step`."""
        row = self.feed.rows(step, step + 1)[0]
        batch = steps.take(self.train_data, row, self.experiment.shape)
        key = jax.random.fold_in(self.experiment.key, state.step)
        gradients, _, terms = steps.backward(state, batch, key, self.experiment)
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


def _binarize(split: Arrays, key: jax.Array) -> Arrays:
    """A split drawn once; uint8 of 0 and 255, which is 0 and 1 on the scale of the model."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        drawn = pairs.binarize(jax.random.fold_in(key, steps.EVALUATION), pairs.scale({"x": jnp.asarray(split["x"])}))
        return {**split, "x": np.asarray(drawn["x"]).astype(np.uint8) * 255}


def _flat(split: Arrays) -> Arrays:
    return {**split, "x": dense(split["x"]).reshape(split["x"].shape[0], -1)}


def _float(x: np.ndarray) -> np.ndarray:
    return x / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32, copy=False)


def run(config: ConfigDict, workdir: str | Path | None = None, data: Dataset | None = None) -> dict[str, float]:
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


def _train(config: ConfigDict, path: Path, data: Dataset, mesh: jax.sharding.Mesh) -> dict[str, float]:
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
