"""Train a config in a run directory: pretraining, what is trained last, results."""

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from aejax import few_labels, plan, pretrain, run_dir, validation
from aejax import mesh as mesh_lib
from aejax.data import sources
from aejax.data.dataset import Dataset
from aejax.steps import State
from aejax.trainer import Trainer, optimize


def run(
    config: ConfigDict,
    workdir: str | Path | None = None,
    data: Dataset | None = None,
    *,
    restart_stage: int | None = None,
) -> dict[str, float]:
    """Train `config` in `workdir`, or go on with what is there; returns the results.

    `restart_stage` deletes that stage of pretraining and what follows it, once, and trains them again.
    Raises InputError before anything is written, NonFiniteError, and Stopped after SIGTERM; in the
    last two cases the last good state has been saved.
    """
    validation.validate(config)
    config = plan.resolve(config)
    validation.validate(config)
    data = data or sources.load(config)
    validation.validate_shapes(config, data.spec)
    mesh = mesh_lib.make(config.mesh.data)
    mesh_lib.check_batch(mesh, "train.batch_size", config.train.batch_size)
    pretrain.check(config, data.spec)
    given = pretrain.given(config, data.spec)
    few_labels.check(config, data.spec, data.train.get("y"))
    path = Path(workdir) if workdir else run_dir.default_path(config)
    with run_dir.opened(path, config, data.spec, restart_stage), _sigterm() as stop:
        print(f"run directory: {path}", flush=True)
        results = run_dir.read_results(path)
        if results is None:
            stages = pretrain.run(config, path, data, mesh, stop)
            results = _train(config, path, data, mesh, stop, stages, given)
    return results


def _train(
    config: ConfigDict,
    path: Path,
    data: Dataset,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool],
    stages: pretrain.Stages,
    given: pretrain.Given | None,
) -> dict[str, float]:
    """What is trained last, the results of the run, and its page."""
    # Here, so that bad input need not wait for what draws.
    from aejax import evaluation, figures, report

    if config.data.labeled_examples:
        start = functools.partial(pretrain.begin, stages=stages, given=given, classifier=True)
        results = few_labels.run(config, path, data, mesh, stop, start if stages.params or given else None)
        if config.figures.enabled:
            figures.draw_few_labels(path)
        results |= stages.results
        run_dir.write_results(path, results)
        if config.figures.enabled:
            report.write(path)
        return results
    trainer = Trainer(config, data, mesh)

    def begin() -> State:
        state = trainer.init()
        params = pretrain.begin(state.params, stages, given, classifier=trainer.experiment.objective.pair.supervised)
        return dataclasses.replace(
            state, params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params)
        )

    state, meta, rates = optimize(trainer, path, stop, begin, offset=stages.steps)
    # The first interval holds the compilation.
    speed = {"examples_per_second": float(np.median(rates[1:] or rates))} if rates else {}
    results = evaluation.finish(trainer, state, path)
    results |= stages.results | {"seconds": stages.seconds + meta["seconds"], **speed}
    run_dir.write_results(path, results)
    if config.figures.enabled:
        report.write(path)
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
