"""Train a config in a run directory: pretraining, what is trained last, results."""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from aejax import few_labels, plan, pretrain, processes, run_dir, validation
from aejax import mesh as mesh_lib
from aejax.config import fail
from aejax.data import sources
from aejax.data.dataset import Dataset
from aejax.data.lazy import Lazy
from aejax.errors import InputError, Stopped
from aejax.loop import optimize
from aejax.trainer import Trainer


def run(
    config: ConfigDict,
    workdir: str | Path | None = None,
    data: Dataset | None = None,
    *,
    restart_stage: int | None = None,
) -> dict[str, float]:
    """Train `config` in `workdir`, or go on with what is there; returns the results.

    `restart_stage` deletes that stage of pretraining and what follows it, once, and trains them again.
    Raises InputError before anything is written, NonFiniteError, and Stopped after SIGTERM or Ctrl-C; in the
    last two cases the last good state has been saved. Of several processes each calls it, with the same
    arguments; the first one writes.
    """
    with processes.agreed():
        validation.validate(config)
        config = plan.resolve(config)
        validation.validate(config)
        data = data or sources.load(config)
        validation.validate_shapes(config, data.spec)
        mesh = mesh_lib.make(config.mesh.data, config.mesh.model)
        mesh_lib.check_batch(mesh, "train.batch_size", config.train.batch_size)
        last = len(config.pretrain.widths)
        if restart_stage is not None and (not last or restart_stage > last):
            allowed = f"must be one of 0 to {last}, the last for what follows the stages" if last else ""
            without = "this config has no stages, config.pretrain.widths is ()"
            raise InputError(f"--restart_stage={restart_stage}: {allowed or without}")
        pretrain.check(config, data.spec, mesh)
        few_labels.check(config, data.spec, data.train.get("y"))
    path = Path(workdir) if workdir else run_dir.default_path(config)
    if not processes.same(data.spec.digest):
        raise fail("data.source", config.data.source, "must hold the same data for all processes")
    if not processes.same(str(isinstance(data.train["x"], Lazy))):  # their machines have different memory
        raise fail("data.resident", config.data.resident, "must be true or false: the processes decide differently")
    with contextlib.ExitStack() as stack:
        with processes.agreed():
            given = pretrain.given(config, data.spec)
            if processes.first():
                stack.enter_context(run_dir.opened(path, config, data.spec, restart_stage))
                print(f"run directory: {path}{run_dir.progress(path)}", flush=True)
            results = run_dir.read_results(path) if processes.first() else None
        stop = stack.enter_context(_stopped())
        results = processes.share(results)
        if results is None:
            stages = pretrain.run(config, path, data, mesh, stop)
            results = processes.share(_train(config, path, data, mesh, stop, stages, given))
    return cast(dict[str, float], results)


def _train(
    config: ConfigDict,
    path: Path,
    data: Dataset,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool],
    stages: pretrain.Stages,
    given: pretrain.Given | None,
) -> dict[str, float]:
    """What is trained last, the results of the run, and its page.

    What measures and draws is imported where it is needed: the first step need not wait for it.
    """
    begun = stages.params or given
    if config.data.labeled_examples:
        start = functools.partial(pretrain.begin, stages=stages, given=given, classifier=True)
        results = few_labels.run(config, path, data, mesh, stop, start if begun else None)
        if config.figures.enabled and processes.first():
            from aejax import figures

            figures.draw_few_labels(path)
    else:
        trainer = Trainer(config, data, mesh)
        classifier = trainer.experiment.objective.pair.supervised
        start = functools.partial(pretrain.begin, stages=stages, given=given, classifier=classifier)
        state, meta, rates = optimize(trainer, path, stop, start if begun else None, offset=stages.steps)
        # The first interval holds the compilation.
        speed = {"examples_per_second": float(np.median(rates[1:] or rates))} if rates else {}
        from aejax import evaluation

        results = evaluation.finish(trainer, state, path)
        epochs = int(state.step) / trainer.feed.steps_per_epoch
        results |= {"epochs": epochs, "seconds": stages.seconds + meta["seconds"], **speed}
    results |= stages.results
    if processes.first():
        run_dir.write_results(path, results)
        if config.figures.enabled:
            from aejax import report

            report.write(path)
    return results


@contextlib.contextmanager
def _stopped() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM and the first Ctrl-C do not end the process; the function says whether one has come, to any
    process."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(number, previous[number])  # the next one acts at once

    try:
        previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, receive)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
            previous[signal.SIGINT] = signal.signal(signal.SIGINT, receive)
    except ValueError:  # not the main thread: signals are somebody else's
        yield lambda: processes.any_of(False)
        return
    try:
        yield lambda: processes.any_of(bool(received))
    except Stopped as error:
        error.exit_code = 128 + received[0] if received else error.exit_code
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
